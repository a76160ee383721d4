"""Simulated interactions and the published client, for tests of evaluations."""

import asyncio
import itertools
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import mixpeek

from learning.datasets import Dataset, Datasets, NewDataset
from learning.interaction_datasets import POSITIVE_TYPES, DatasetDefinition
from schemas.interaction import Interaction
from tests.analytics.loading import BEGIN, load
from tests.http_lab import KEY
from tests.lab import Lab

NUMBERS = itertools.count()
RANGE = (BEGIN - timedelta(days=1), BEGIN + timedelta(days=30))


def namespace() -> str:
    """A namespace that no other test has."""
    return f"evaluations-{next(NUMBERS)}"


def reaction(text: str | None, document: str, *types: str, number: int = 0, **fields: Any) -> Interaction:
    """Return a user's reaction to a result of a query, by default a click."""
    plain = {
        "feature_id": document,
        "interaction_type": [*types] or ["click"],
        "position": 0,
        "retriever_id": "dense",
        "execution_id": f"exec-{number}",
        "query_snapshot": None if text is None else {"text": text},
    }
    return Interaction(**{**plain, **fields})


def traffic(users: int) -> Iterator[Interaction]:
    """Yield each user's execution: two shown results of one of three queries, one of them clicked or bought."""
    for user in range(users):
        text, document = f"Query {user % 3}", f"doc-{user % 2}"
        yield reaction(text, "doc-0", "impression", number=user, user_id=f"user-{user}")
        yield reaction(text, "doc-1", "impression", number=user, user_id=f"user-{user}", position=1)
        yield reaction(None, document, "purchase" if user % 7 == 0 else "click", retriever_id=None, number=user)


async def generated(lab: Lab, space: str, name: str = "clicked", **options: Any) -> Dataset:
    """Generate a dataset of a namespace over the range of loaded events."""
    since, until = options.pop("range", RANGE)
    chosen = {"retriever": "dense", "min_interactions": 1, "positive_types": POSITIVE_TYPES, **options}
    definition = DatasetDefinition(since=since, until=until, query_path=lab.settings.query_path, ends={}, **chosen)
    return await datasets(lab, space).generate(name, definition)


def datasets(lab: Lab, space: str, **settings: Any) -> Datasets:
    """The datasets of a namespace, with other settings."""
    return Datasets(lab.settings.model_copy(update=settings), lab.database, space)


def posted(name: str, **fields: Any) -> NewDataset:
    """Return a dataset of one query."""
    query = {"query_id": "q", "query_input": {"text": "x"}, "relevant_documents": ["a"], "relevance_scores": None}
    return NewDataset(name, [query], **fields)


def content(dataset: Dataset) -> Mapping[str, Mapping[str, int]]:
    """Return the grades of a dataset by the text of the query."""
    return {query["query_input"]["text"]: query["relevance_scores"] for query in dataset.queries}


async def loaded(lab: Lab, space: str, *events: Interaction) -> None:
    """Insert events as rows, a second apart."""
    await load(lab.database, space, events, first=next(NUMBERS) * 10_000)


class EvaluationClient:
    """The published client's calls of evaluations, each in a thread: it blocks."""

    def __init__(self, host: str, space: str = "default") -> None:
        configuration = mixpeek.Configuration(host=host, access_token=KEY, api_key={"NamespaceHeader": space})
        self.api = mixpeek.RetrieverEvaluationsApi(mixpeek.ApiClient(configuration))

    async def call(self, name: str, *values: Any, **options: Any) -> Any:
        """Call a method of the client's API."""
        return await asyncio.to_thread(getattr(self.api, name), *values, **options)


def days_since_loaded() -> int:
    """Days from the loaded events until now."""
    return (datetime.now(UTC) - BEGIN).days + 1
