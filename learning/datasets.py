"""Evaluation datasets of a namespace: posted ones, stored as they are, and ones that are computed from interactions."""

import asyncio
import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from learning.interaction_datasets import (
    DatasetDefinition,
    end_offsets,
    generate,
    query_id,
    query_input,
    refuse_empty,
)
from learning.scope import Refusal
from runtime.analytics import RangeTooLarge
from runtime.clickhouse import ClickHouse
from runtime.errors import TallyError, Unavailable
from runtime.settings import Settings
from schemas.event_time import from_epoch_ms, iso_ms, to_epoch_ms
from schemas.tables import EVALUATION_DATASETS

_COLUMNS = "name, dataset_id, created_at, description, metadata, definition, queries"
_PRESENT = f"FROM {EVALUATION_DATASETS} FINAL WHERE namespace = {{namespace:String}} AND dataset_id != ''"
_BY_ID_OR_NAME = f"""
SELECT {_COLUMNS} {_PRESENT} AND (dataset_id = {{identifier:String}} OR name = {{identifier:String}})
ORDER BY dataset_id = {{identifier:String}} DESC LIMIT 1
"""
_PAGE = f"SELECT {_COLUMNS} {_PRESENT} ORDER BY created_at DESC, name LIMIT {{size:UInt64}} OFFSET {{offset:UInt64}}"
_COUNT = f"SELECT count() {_PRESENT}"
_VERSION = (
    f"SELECT version, dataset_id FROM {EVALUATION_DATASETS} FINAL "
    "WHERE namespace = {namespace:String} AND name = {name:String}"
)


class DatasetConflict(TallyError):
    """Name that another evaluation dataset of the namespace has."""

    exit_code = 2


class UnknownDataset(TallyError):
    """Evaluation dataset that does not exist."""


class TooManyDatasets(TallyError):
    """Namespace that has as many evaluation datasets as TALLY_EVALUATION_DATASETS allows."""


class NewDataset(NamedTuple):
    """Dataset to create. It has queries, or the definition that they are computed from."""

    name: str
    queries: Sequence[Mapping[str, Any]] | None = None
    definition: DatasetDefinition | None = None
    description: str | None = None
    metadata: Mapping[str, Any] | None = None


class Dataset(NamedTuple):
    """Dataset with its queries, as the published client reads them."""

    dataset_id: str
    name: str
    created_at: datetime
    description: str | None
    metadata: Mapping[str, Any] | None
    queries: Sequence[Mapping[str, Any]]

    def body(self, namespace: str) -> dict[str, Any]:
        """Return the dataset as the published service answers it."""
        created_at = iso_ms(self.created_at)
        return {
            "dataset_id": self.dataset_id,
            "dataset_name": self.name,
            "description": self.description,
            "queries": list(self.queries),
            "created_at": created_at,
            "updated_at": created_at,
            "namespace_id": namespace,
            "internal_id": namespace,
            "query_count": len(self.queries),
            "metadata": self.metadata,
        }


class DatasetPage(NamedTuple):
    """Datasets, the newest first, and the number of all."""

    datasets: Sequence[Dataset]
    total: int


class Datasets:
    """Evaluation datasets of one namespace. Every method raises Unavailable when ClickHouse does not answer.

    `create`, `generate` and `get` raise Refusal and RangeTooLarge for a dataset that cannot be computed.
    """

    def __init__(self, settings: Settings, database: ClickHouse, namespace: str) -> None:
        self._settings = settings
        self._database = database
        self._namespace = namespace

    async def create(self, new: NewDataset) -> Dataset:
        """Create a dataset. Raises DatasetConflict and TooManyDatasets, and Refusal if a definition gives no query.

        Of two creations of a name at the same time, one is a conflict.
        """
        version = await self._next_version(new.name)
        ((count,),) = await self._database.rows(_COUNT, {"namespace": self._namespace})
        if count >= self._settings.evaluation_datasets:
            raise TooManyDatasets(
                f"the namespace has {count:,} evaluation datasets (TALLY_EVALUATION_DATASETS): delete some"
            )
        content = new.queries or () if new.definition is None else await self._computed(new.definition)
        if new.definition is not None and not content:
            await refuse_empty(self._settings, self._database, self._namespace, new.definition)
        dataset_id = f"ds_{uuid.uuid4().hex}"
        created_at = from_epoch_ms(to_epoch_ms(datetime.now(UTC)))
        row = {
            "dataset_id": dataset_id,
            "created_at": iso_ms(created_at).removesuffix("Z"),
            "description": new.description,
            "metadata": "" if new.metadata is None else json.dumps(new.metadata),
            "definition": "" if new.definition is None else new.definition.as_json(),
            "queries": "" if new.queries is None else json.dumps(new.queries),
        }
        await self._insert(new.name, version, row)
        found = await self._versions(new.name)
        if not found or found[0][0] < version:
            raise Unavailable(f"the dataset {new.name[:60]!r} was not stored: retry")
        if found[0][1] != dataset_id:
            raise _conflict(new.name, found[0][1])
        about = new.metadata if new.definition is None else _about(new.definition)
        return Dataset(dataset_id, new.name, created_at, new.description, about, content)

    async def generate(self, name: str, definition: DatasetDefinition) -> Dataset:
        """Create a dataset of the interactions that are stored now; see `create`. Raises ScopeError, too.

        The end offsets of the definition are replaced.
        """
        scope = definition.scope(self._namespace).checked()
        ends = await end_offsets(self._settings, self._database, scope)
        return await self.create(NewDataset(name, definition=definition._replace(ends=ends)))

    async def get(self, identifier: str) -> Dataset:
        """Return the dataset with an id or a name. Raises UnknownDataset."""
        values = {"namespace": self._namespace, "identifier": identifier}
        found = await self._database.rows(_BY_ID_OR_NAME, values)
        if not found:
            raise UnknownDataset(f"no evaluation dataset {identifier[:60]!r}")
        return await self._read(found[0])

    async def page(self, number: int, size: int) -> DatasetPage:
        """Return a page of datasets (from 1). Raises Refusal for a page of several datasets that is too large.

        A dataset that cannot be computed has no queries, and the reason as `error` in its metadata.
        """
        ((total,),) = await self._database.rows(_COUNT, {"namespace": self._namespace})
        values = {"namespace": self._namespace, "size": size, "offset": (number - 1) * size}
        deadline_s = asyncio.get_running_loop().time() + self._settings.report_timeout_ms / 1000
        listed = list[Dataset]()
        held = 0
        for row in await self._database.rows(_PAGE, values):
            listed.append(await self._listed(row, deadline_s))
            held += len(json.dumps(listed[-1].queries))
            if held > self._settings.evaluation_bytes and len(listed) > 1:
                raise Refusal(
                    f"the page is larger than {self._settings.evaluation_bytes:,} bytes "
                    "(TALLY_EVALUATION_BYTES): request a smaller page_size"
                )
        return DatasetPage(listed, int(total))

    async def delete(self, identifier: str) -> None:
        """Delete a dataset for good. Its name is free again. Raises UnknownDataset."""
        found = await self._database.rows(_BY_ID_OR_NAME, {"namespace": self._namespace, "identifier": identifier})
        if not found:
            raise UnknownDataset(f"no evaluation dataset {identifier[:60]!r}")
        name, dataset_id = found[0][0], found[0][1]
        for version, present_id in await self._versions(name):
            if present_id == dataset_id:
                await self._insert(name, version + 1, {"dataset_id": ""})

    async def _computed(self, definition: DatasetDefinition) -> list[dict[str, Any]]:
        found = await generate(self._settings, self._database, self._namespace, definition)
        return [
            {
                "query_id": query_id(query.text),
                "query_input": query_input(definition.query_path, query.text),
                "relevant_documents": [*query.grades],
                "relevance_scores": dict(query.grades),
            }
            for query in found
        ]

    async def _read(self, row: Sequence[Any]) -> Dataset:
        name, dataset_id, created_at, description, metadata, definition, queries = row
        if not definition:
            about = json.loads(metadata) if metadata else None
            return Dataset(dataset_id, name, created_at, description, about, json.loads(queries))
        found = DatasetDefinition.read(definition)
        return Dataset(dataset_id, name, created_at, description, _about(found), await self._computed(found))

    async def _listed(self, row: Sequence[Any], deadline_s: float) -> Dataset:
        """Return a dataset of a page that must be computed until a time of the event loop."""
        try:
            async with asyncio.timeout_at(deadline_s):
                return await self._read(row)
        except (Refusal, RangeTooLarge) as error:
            reason = str(error)
        except TimeoutError:
            timeout_ms = self._settings.report_timeout_ms
            reason = (
                f"the page takes longer than {timeout_ms:,} ms (TALLY_REPORT_TIMEOUT_MS): request a smaller page_size"
            )
        name, dataset_id, created_at, description, _metadata, definition, _queries = row
        about = {**_about(DatasetDefinition.read(definition)), "error": reason}
        return Dataset(dataset_id, name, created_at, description, about, [])

    async def _versions(self, name: str) -> Sequence[Sequence[Any]]:
        return await self._database.rows(_VERSION, {"namespace": self._namespace, "name": name})

    async def _next_version(self, name: str) -> int:
        """Return the version of a creation. Raises DatasetConflict for a name that is taken."""
        for version, dataset_id in await self._versions(name):
            if dataset_id:
                raise _conflict(name, dataset_id)
            return int(version) + 1
        return 1

    async def _insert(self, name: str, version: int, row: Mapping[str, Any]) -> None:
        """Insert the version of a name, unless another row was inserted as this version."""
        identity = json.dumps([self._namespace, name, version])
        token = hashlib.sha256(identity.encode()).hexdigest()
        whole = {"namespace": self._namespace, "name": name, "version": version, **row}
        await self._database.insert_row(EVALUATION_DATASETS, whole, token)


def _about(definition: DatasetDefinition) -> dict[str, Any]:
    """Return the metadata of a generated dataset."""
    return {
        "source": "interactions",
        "retriever_id": definition.retriever,
        "since": iso_ms(definition.since),
        "until": iso_ms(definition.until),
        "min_interactions": definition.min_interactions,
        "positive_interaction_types": list(definition.positive_types),
        "end_offsets": dict(definition.ends),
    }


def _conflict(name: str, dataset_id: str) -> DatasetConflict:
    return DatasetConflict(
        f"the name {name[:60]!r} is taken by dataset {dataset_id}: choose another, or delete that one"
    )
