"""`tally evaluate dataset`: evaluation datasets."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from tally.cli.options import AsJson, DataDir, Namespace, answer_json, load_settings, needs
from tally.cli.output import out, say, table

if TYPE_CHECKING:
    from learning.datasets import Dataset, Datasets
    from runtime.settings import Settings

Answer = TypeVar("Answer")
SHOWN = 50
"""Datasets of a page, and queries of a dataset, that a table shows."""

app = typer.Typer(help="Evaluation datasets: queries with their relevant documents.", no_args_is_help=True)


@app.command("generate")
@needs("learning")
def generate_dataset(
    retriever: Annotated[str, typer.Argument(help="Retriever (retriever_id) whose interactions are read.")],
    name: Annotated[str | None, typer.Argument(help="Name. Default: auto_RETRIEVER_DATE.")] = None,
    min_interactions: Annotated[int, typer.Option(help="Fewest positive interactions of a query.", min=1)] = 5,
    days: Annotated[int, typer.Option(help="Days of event time until now.", min=1, max=365)] = 30,
    types: Annotated[
        str | None, typer.Option(help="Positive types. Default: click,purchase,positive_feedback,bookmark,share.")
    ] = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Make a dataset from positive interactions. It is computed when it is read: erased and expired events leave it.

    Examples:
        tally evaluate dataset generate hybrid clicked --days 90 --min-interactions 10
    """
    from learning.dataset_requests import GenerateRequest
    from learning.scope import ScopeError

    named = None if types is None else [each.strip() for each in types.split(",")]
    given = {"dataset_name": name, "min_interactions": min_interactions, "lookback_days": days}
    request = _checked(GenerateRequest, {**given, "positive_interaction_types": named})
    try:
        chosen = request.name(retriever)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="NAME") from None
    settings = load_settings(data_dir, "clickhouse")
    definition = request.definition(retriever, settings.query_path)
    try:
        found = _asked(settings, namespace, lambda datasets: datasets.generate(chosen, definition))
    except ScopeError as error:
        raise typer.BadParameter(str(error), param_hint=error.parameter.upper()) from None
    _answer_dataset(found, namespace or settings.namespace, as_json=as_json)


@app.command("create")
@needs("learning")
def create_dataset(
    file: Annotated[Path, typer.Argument(help="JSON: the body of POST /v1/retrievers/evaluations/datasets.")],
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Store a dataset from a file, as it is.

    Examples:
        tally evaluate dataset create judged.json
    """
    from learning.dataset_requests import DatasetRequest
    from learning.datasets import NewDataset

    try:
        body = _checked(DatasetRequest, json.loads(file.read_bytes()))
        content = body.content()
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="FILE") from None
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{file}: {str(error)[:200]}", param_hint="FILE") from None
    new = NewDataset(body.dataset_name, content, description=body.description, metadata=body.metadata)
    settings = load_settings(data_dir, "clickhouse")
    found = _asked(settings, namespace, lambda datasets: datasets.create(new))
    _answer_dataset(found, namespace or settings.namespace, as_json=as_json)


@app.command("list")
@needs("learning")
def list_datasets(
    page: Annotated[int, typer.Option(help="Page, from 1.", min=1, max=1_000_000)] = 1,
    page_size: Annotated[int, typer.Option(help="Datasets of a page.", min=1, max=1_000)] = SHOWN,
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """List the datasets, the newest first. Those that were generated are computed for it.

    Examples:
        tally evaluate dataset list --json
    """
    settings = load_settings(data_dir, "clickhouse")
    found = _asked(settings, namespace, lambda datasets: datasets.page(page, page_size))
    space = namespace or settings.namespace
    if as_json:
        answer_json([each.body(space) for each in found.datasets])
        return
    if not found.total:
        say(f"namespace {space} has no evaluation datasets")
        return
    listed = table("name", "queries", "retriever", "created", "dataset_id", right={1}, keep=("name", "queries"))
    for each in found.datasets:
        retriever = (each.metadata or {}).get("retriever_id", "")
        listed.add_row(each.name, f"{len(each.queries):,}", retriever, f"{each.created_at:%F %R}", each.dataset_id)
    out.print(listed)
    if page * page_size < found.total:
        say(f"{found.total:,} datasets: see --page")


@app.command("show")
@needs("learning")
def show_dataset(
    name: Annotated[str, typer.Argument(help="Name or id of the dataset.")],
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Show a dataset. Its JSON is a file of judgments: see `tally evaluate score --qrels`.

    Examples:
        tally evaluate dataset show clicked --json > clicked.json
    """
    settings = load_settings(data_dir, "clickhouse")
    found = _asked(settings, namespace, lambda datasets: datasets.get(name))
    if as_json:
        answer_json(found.body(namespace or settings.namespace))
        return
    shown = table("query", "query_id", "documents and grades", title=f"{found.name} ({found.dataset_id})")
    for query in found.queries[:SHOWN]:
        grades = {**dict.fromkeys(query["relevant_documents"], 1), **(query["relevance_scores"] or {})}
        documents = ", ".join(f"{document}: {grade}" for document, grade in grades.items())
        shown.add_row(json.dumps(query["query_input"], ensure_ascii=False), query["query_id"], documents)
    out.print(shown)
    if len(found.queries) > SHOWN:
        say(f"only the first {SHOWN} of {len(found.queries):,} queries are shown: see --json")


@app.command("delete")
@needs("learning")
def delete_dataset(
    name: Annotated[str, typer.Argument(help="Name or id of the dataset.")],
    namespace: Namespace = None,
    data_dir: DataDir = None,
) -> None:
    """Delete a dataset for good. Its name is free again.

    Examples:
        tally evaluate dataset delete clicked
    """
    _asked(load_settings(data_dir, "clickhouse"), namespace, lambda datasets: datasets.delete(name))
    say(f"dataset {name} is deleted")


def _checked(model: Any, value: Any) -> Any:
    from pydantic import ValidationError

    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise typer.BadParameter(f"{place}: {message}" if place else message) from None


def _asked(settings: "Settings", namespace: str | None, ask: "Callable[[Datasets], Awaitable[Answer]]") -> Answer:
    from learning.datasets import Datasets
    from tally.answering import queried

    return queried(settings, lambda database: ask(Datasets(settings, database, namespace or settings.namespace)))


def _answer_dataset(found: "Dataset", namespace: str, *, as_json: bool) -> None:
    if as_json:
        answer_json(found.body(namespace))
        return
    queries = "1 query" if len(found.queries) == 1 else f"{len(found.queries):,} queries"
    say(f"dataset {found.name} ({found.dataset_id}) has {queries}")
