"""`tally learn config`: learning configurations of retrievers."""

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from tally.cli.learning_options import parsed_assignments
from tally.cli.options import AsJson, DataDir, Namespace, answer_json, load_settings, needs, parse_time
from tally.cli.output import out, say, table
from tally.cli.streams import read_standard_input

if TYPE_CHECKING:
    from learning.weights.config_text import ConfigDifference
    from learning.weights.configs import ConfigChange, ConfigVersion, LearningConfigVersions
    from runtime.settings import Settings
    from schemas.learning_config import LearningConfig

Answer = TypeVar("Answer")
MAX_BYTES = 64 * 1024
MAX_VERSIONS = 1_000
WIDTH = 130
"""Largest width of tables in characters, also in files and pipes: longer values continue on the next line."""

RetrieverToConfigure = Annotated[str, typer.Argument(help="Retriever (retriever_id) whose weights are learned.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="name=value, repeatable. Without FILE, other names keep their values: --set reward_map=click=1,purchase=3",
    ),
]

app = typer.Typer(help="How a retriever's weights are learned: each change is a version.", no_args_is_help=True)


@app.command("get")
@needs("worker")
def get_config(
    retriever: RetrieverToConfigure, namespace: Namespace = None, as_json: AsJson = False, data_dir: DataDir = None
) -> None:
    """Show the learning configuration in force, with what each name accepts.

    Examples:
        tally learn config get hybrid --json
    """
    from learning.weights.config_text import NAMES, accepted_briefly

    settings = load_settings(data_dir, "clickhouse")
    found = _asked(settings, namespace, lambda versions: versions.get(retriever))
    if as_json:
        answer_json(_named(settings, namespace, retriever, found.body()))
        return
    shown = table("name", "value", "accepted", title=f"{retriever}: {_version(found)}", keep=("name", "value"))
    for name, value in (found.values or {}).items():
        shown.add_row(name, _text(value), accepted_briefly(name) if name in NAMES else "")
    out.print(shown, width=min(out.width, WIDTH))


@app.command("set")
@needs("worker")
def set_config(
    retriever: RetrieverToConfigure,
    file: Annotated[
        Path | None,
        typer.Argument(help="JSON object with names and values, - for standard input. Other names get their defaults."),
    ] = None,
    assignments: Assignments = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Put a learning configuration in force, and print what changed. Equal content makes no new version.

    Examples:
        tally learn config set hybrid --set reward_map=click=1,purchase=3 --set min_interactions=10
        tally learn config set hybrid learning.json
    """
    if file is None and not assignments:
        raise typer.BadParameter("name a FILE, or values with --set", param_hint="--set")
    _check_name(retriever)
    given = None if file is None else _read(file)
    chosen = parsed_assignments(assignments or [])
    _config({**(given or {}), **chosen}, "FILE" if file and not assignments else "--set")
    settings = load_settings(data_dir, "clickhouse")
    found = _asked(settings, namespace, lambda versions: _put(versions, retriever, given, chosen))
    if as_json:
        changed = {name: pair._asdict() for name, pair in found.changed.items()}
        answer_json(_named(settings, namespace, retriever, {**found.version.body(), "changed": changed}))
        return
    if not found.changed:
        say(f"retriever {retriever}: nothing changed, {_version(found.version)}")
        return
    shown = table("name", "before", "after", title=f"{retriever}: {_version(found.version)}")
    for name, pair in found.changed.items():
        shown.add_row(name, _text(pair.before), _text(pair.after))
    out.print(shown)
    say(f"every process knows it within {settings.learning_config_refresh_ms:,} ms (TALLY_LEARNING_CONFIG_REFRESH_MS)")
    say("API processes now count the days that weights are learned from: figures are partial until then")


@app.command("delete")
@needs("worker")
def delete_config(
    retriever: RetrieverToConfigure, namespace: Namespace = None, as_json: AsJson = False, data_dir: DataDir = None
) -> None:
    """Delete a learning configuration: static weights are served. Its history stays, and `set` starts another one.

    Examples:
        tally learn config delete hybrid
    """
    settings = load_settings(data_dir, "clickhouse")
    found = _asked(settings, namespace, lambda versions: versions.delete(retriever))
    if as_json:
        answer_json(_named(settings, namespace, retriever, found.body()))
        return
    say(f"retriever {retriever} has no learning configuration any more ({_version(found)})")


@app.command("history")
@needs("worker")
def config_history(
    retriever: RetrieverToConfigure,
    at: Annotated[str | None, typer.Option(help="Only the version that was in force at this time.")] = None,
    limit: Annotated[int, typer.Option(help="Most versions, the newest first.", min=1, max=MAX_VERSIONS)] = 20,
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """List the versions of a learning configuration, with the time each was in force and what it changed.

    Examples:
        tally learn config history hybrid
        tally learn config history hybrid --at 2026-11-01T12:00:00Z --json
    """
    moment = parse_time(at)
    settings = load_settings(data_dir, "clickhouse")

    async def ask(versions: "LearningConfigVersions") -> "list[ConfigVersion]":
        if moment is None:
            return await versions.history(retriever, limit + 1)
        found = await versions.at(retriever, moment)
        return [] if found is None else [found]

    found = _asked(settings, namespace, ask)
    if as_json:
        body = {"versions": [each.body() for each in found[:limit]], "truncated": len(found) > limit}
        answer_json(_named(settings, namespace, retriever, body))
        return
    if not found:
        say(f"retriever {retriever} had no learning configuration at {at}")
        return
    _print_history(retriever, found, limit, is_whole=moment is None)


def _print_history(retriever: str, found: "list[ConfigVersion]", limit: int, *, is_whole: bool) -> None:
    from learning.weights.config_text import changed_from_defaults, differences

    names = ("version", "from", "until", "changes" if is_whole else "values other than the defaults")
    shown = table(*names, title=f"learning configuration of {retriever}", keep=names)
    for number, each in enumerate(found[:limit]):
        before = found[number + 1].values if number + 1 < len(found) else None
        if each.values is None:
            text = "deleted"
        elif before is None:
            other = changed_from_defaults(each.values)
            text = ", ".join(f"{name} {_text(value)}" for name, value in other.items()) or "the defaults"
        else:
            text = _changes(differences(before, each.values))
        shown.add_row(each.version, f"{each.changed_at:%F %T}", f"{each.until:%F %T}" if each.until else "-", text)
    out.print(shown, width=min(out.width, WIDTH))
    if len(found) > limit:
        say("older versions are left out: see --limit")


def _changes(changed: "Mapping[str, ConfigDifference]") -> str:
    return ", ".join(f"{name} {_text(pair.before)} to {_text(pair.after)}" for name, pair in changed.items())


async def _put(
    versions: "LearningConfigVersions", retriever: str, given: Mapping[str, Any] | None, chosen: Mapping[str, Any]
) -> "ConfigChange":
    """Put the values of a file, or else those in force, in force with the chosen ones."""
    if given is not None:
        return await versions.put(retriever, _config({**given, **chosen}, "FILE"))
    newest = await versions.newest(retriever)
    values = (newest.values if newest else None) or {}
    return await versions.put(retriever, _config({**values, **chosen}, "--set"), newest.version if newest else 0)


def _read(file: Path) -> dict[str, Any]:
    try:
        if file == Path("-"):
            text = read_standard_input(MAX_BYTES, "FILE")
        else:
            with file.open("rb") as opened:
                text = opened.read(MAX_BYTES + 1).decode("utf-8-sig")
            if len(text) > MAX_BYTES:
                raise typer.BadParameter(f"{file}: has more than {MAX_BYTES:,} bytes", param_hint="FILE")
        value = json.loads(text)
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="FILE") from None
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{file}: is not JSON: {str(error)[:200]}", param_hint="FILE") from None
    _config(value, "FILE")
    found: dict[str, Any] = value
    return found


def _config(value: object, parameter: str) -> "LearningConfig":
    from learning.weights.config_text import ConfigError, parse_config

    try:
        return parse_config(value)
    except ConfigError as error:
        raise typer.BadParameter(str(error), param_hint=parameter) from None


def _check_name(retriever: str) -> None:
    from learning.scope import ScopeError, checked_retriever

    try:
        checked_retriever(retriever)
    except ScopeError as error:
        raise typer.BadParameter(str(error), param_hint="RETRIEVER") from None


def _asked(
    settings: "Settings", namespace: str | None, ask: "Callable[[LearningConfigVersions], Awaitable[Answer]]"
) -> Answer:
    from learning.weights.configs import LearningConfigVersions
    from tally.answering import queried

    space = namespace or settings.namespace
    return queried(settings, lambda database: ask(LearningConfigVersions(settings, database, space)))


def _named(settings: "Settings", namespace: str | None, retriever: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"retriever_id": retriever, "namespace": namespace or settings.namespace, **body}


def _version(found: "ConfigVersion") -> str:
    return f"version {found.version} of {found.changed_at:%F %T} UTC"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)
