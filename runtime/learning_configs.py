"""Learning configurations in force, as every process knows them: read at the start, and again from time to time."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import NamedTuple

from pydantic import ValidationError

from runtime.clickhouse import ClickHouse
from runtime.errors import TallyError
from runtime.retry import retrying
from runtime.settings import Settings
from runtime.tasks import running
from schemas.learning_config import LearningConfig
from schemas.tables import LEARNING_CONFIGS

FIRST_VERSION = "maxIf(version, config = '') + 1"
"""Version after the last deletion: signals of a session from before it belong to no configuration in force."""

_IN_FORCE = f"""
SELECT namespace, retriever_id, max(version), argMax(config, version) AS newest, argMax(changed_at, version),
    {FIRST_VERSION}
FROM {LEARNING_CONFIGS} GROUP BY namespace, retriever_id HAVING newest != ''
"""

FIRST_READ_TIMEOUT_S = 5.0

log = logging.getLogger("tally.learning")

RetrieverKey = tuple[str, str]
"""Namespace and retriever_id."""


class ConfigInForce(NamedTuple):
    """Learning configuration that is in force."""

    version: int
    config: LearningConfig
    changed_at: datetime
    first_version: int
    """First version since the retriever had no configuration."""


class LearningConfigs:
    """Configurations in force, read again every TALLY_LEARNING_CONFIG_REFRESH_MS."""

    def __init__(self, settings: Settings, database: ClickHouse) -> None:
        self._database = database
        self._pause_s = settings.learning_config_refresh_ms / 1000
        self.in_force: Mapping[RetrieverKey, ConfigInForce] = {}
        """By namespace and retriever. A change replaces the mapping."""
        self.is_read = False
        """Whether they have been read since the start."""

    async def refresh(self) -> None:
        """Read the configurations. Raises Unavailable."""
        found = {}
        for namespace, retriever, version, text, changed_at, first in await self._database.rows(_IN_FORCE):
            try:
                config = LearningConfig.model_validate_json(text)
            except ValidationError as error:
                problem = error.errors(include_url=False, include_input=False)[0]["msg"]
                log.error(
                    "learning configuration %d of retriever %r in namespace %s is not known to this version of Tally "
                    "(%s); the retriever has no learned weights here until this process is replaced by a newer one",
                    version,
                    retriever[:60],
                    namespace,
                    problem,
                )
                continue
            found[namespace, retriever] = ConfigInForce(version, config, changed_at, first)
        if found != self.in_force:
            self.in_force = found
        self.is_read = True

    @asynccontextmanager
    async def refreshed(self, *, required: bool = False) -> AsyncIterator["LearningConfigs"]:
        """Read them now if ClickHouse answers in time, and again from time to time, until the block ends.

        `required`: wait until ClickHouse has answered.
        """
        if required:
            await retrying("reading learning configurations", self.refresh)
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(FIRST_READ_TIMEOUT_S):
                    await self._try_to_refresh()
        async with running(self._keep_refreshing(), "reading learning configurations"):
            yield self

    async def _keep_refreshing(self) -> None:
        while True:
            await asyncio.sleep(self._pause_s)
            await self._try_to_refresh()

    async def _try_to_refresh(self) -> None:
        try:
            await self.refresh()
        except TallyError as error:
            log.warning(
                "learning configurations were not read: %s; the next attempt is in %.1f s", error, self._pause_s
            )
