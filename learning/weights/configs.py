"""Learning configurations of a namespace's retrievers: each change is a version, and every version is kept."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from learning.weights.config_text import ConfigDifference, ConfigError, as_values, differences, parse_config
from runtime.clickhouse import ClickHouse
from runtime.errors import TallyError, Unavailable
from runtime.settings import Settings
from schemas.event_time import from_epoch_ms, iso_ms, to_epoch_ms
from schemas.learning_config import LearningConfig
from schemas.tables import LEARNING_CONFIGS

_OF_RETRIEVER = f"""
SELECT version, config, changed_at FROM {LEARNING_CONFIGS} FINAL
WHERE namespace = {{namespace:String}} AND retriever_id = {{retriever:String}}"""
_NEWEST = f"{_OF_RETRIEVER} ORDER BY version DESC LIMIT {{limit:UInt32}}"
_AT = f"{_OF_RETRIEVER} AND changed_at <= fromUnixTimestamp64Milli({{at:Int64}}) ORDER BY version DESC LIMIT 1"
_AFTER = f"{_OF_RETRIEVER} AND version > {{version:UInt32}} ORDER BY version LIMIT 1"
_VERSION = f"{_OF_RETRIEVER} AND version = {{version:UInt32}}"
_CONFIGURED = f"""
SELECT count() FROM (
    SELECT retriever_id FROM {LEARNING_CONFIGS} WHERE namespace = {{namespace:String}}
    GROUP BY retriever_id HAVING argMax(config, version) != ''
)"""
_IN_FORCE = f"""
SELECT retriever_id, max(version), argMax(changed_at, version) FROM {LEARNING_CONFIGS}
WHERE namespace = {{namespace:String}}
GROUP BY retriever_id HAVING argMax(config, version) != ''
ORDER BY retriever_id LIMIT {{limit:UInt32}}"""
_MILLISECOND = timedelta(milliseconds=1)


class ConfigConflict(TallyError):
    """Learning configuration that was changed at the same time."""

    exit_code = 2


class UnknownConfig(TallyError):
    """Retriever without a learning configuration."""


class TooManyConfigs(TallyError):
    """Namespace that has as many learning configurations as TALLY_LEARNING_CONFIGS allows."""


class ConfigVersion(NamedTuple):
    """Version of a learning configuration."""

    version: int
    changed_at: datetime
    values: Mapping[str, Any] | None
    """By name; None: a deletion."""
    until: datetime | None = None
    """Time of the next version; None: this one is in force."""

    def body(self) -> dict[str, Any]:
        """Return the version as JSON values."""
        until = None if self.until is None else iso_ms(self.until)
        return {
            "version": self.version,
            "changed_at": iso_ms(self.changed_at),
            "until": until,
            "learning_config": self.values,
        }


class VersionInForce(NamedTuple):
    """Version in force of a retriever's learning configuration."""

    retriever: str
    version: int
    changed_at: datetime


class ConfigChange(NamedTuple):
    """Result of a change."""

    version: ConfigVersion
    changed: Mapping[str, ConfigDifference]
    """Names with other values than before; empty: there is no new version."""


class LearningConfigVersions:
    """Learning configurations of one namespace. Every method raises Unavailable when ClickHouse does not answer."""

    def __init__(self, settings: Settings, database: ClickHouse, namespace: str) -> None:
        self._most = settings.learning_configs
        self._database = database
        self._namespace = namespace

    async def get(self, retriever: str) -> ConfigVersion:
        """Return the version in force. Raises UnknownConfig."""
        newest = await self.newest(retriever)
        if newest is None or newest.values is None:
            raise _unknown(retriever)
        return newest

    async def in_force(self) -> list[VersionInForce]:
        """Return the versions in force of all retrievers, by name, TALLY_LEARNING_CONFIGS at most."""
        named = {"namespace": self._namespace, "limit": self._most}
        rows = await self._database.rows(_IN_FORCE, named)
        return [VersionInForce(retriever, int(version), changed_at) for retriever, version, changed_at in rows]

    async def newest(self, retriever: str) -> ConfigVersion | None:
        """Return the newest version, which may be a deletion; None: there is none."""
        found = await self._rows(_NEWEST, retriever, limit=1)
        return found[0] if found else None

    async def put(self, retriever: str, config: LearningConfig, after: int | None = None) -> ConfigChange:
        """Put a configuration in force. `after`: version that must be the newest one; None: any.

        Equal content makes no new version. Raises ConfigConflict if another change came first, TooManyConfigs.
        """
        newest = await self.newest(retriever)
        if after is not None and after != (newest.version if newest else 0):
            raise _conflict(retriever)
        values = as_values(config)
        is_new = newest is None or newest.values is None
        if newest is not None and newest.values is not None and _is_equal(newest.values, config):
            return ConfigChange(newest, {})
        if is_new:
            await self._check_number()
        changed = differences(newest and newest.values, values)
        return ConfigChange(await self._store(retriever, newest, values), changed)

    async def delete(self, retriever: str) -> ConfigVersion:
        """Delete the configuration: a version without values. Raises UnknownConfig and ConfigConflict."""
        return await self._store(retriever, await self.get(retriever), None)

    async def history(self, retriever: str, limit: int) -> list[ConfigVersion]:
        """Return the newest versions, the newest first. Raises UnknownConfig for a retriever without any."""
        found = await self._rows(_NEWEST, retriever, limit=limit)
        if not found:
            raise _unknown(retriever)
        untils = [None, *(each.changed_at for each in found)]
        return [each._replace(until=until) for each, until in zip(found, untils, strict=False)]

    async def at(self, retriever: str, moment: datetime) -> ConfigVersion | None:
        """Return the version that was in force at a time; None: there was none before."""
        found = await self._rows(_AT, retriever, at=to_epoch_ms(moment))
        if not found:
            return None
        following = await self._rows(_AFTER, retriever, version=found[0].version)
        return found[0]._replace(until=following[0].changed_at) if following else found[0]

    async def _rows(self, sql: str, retriever: str, **parameters: Any) -> list[ConfigVersion]:
        named = {"namespace": self._namespace, "retriever": retriever, **parameters}
        rows: Sequence[Sequence[Any]] = await self._database.rows(sql, named)
        return [
            ConfigVersion(int(version), changed_at, json.loads(text) if text else None)
            for version, text, changed_at in rows
        ]

    async def _check_number(self) -> None:
        ((count,),) = await self._database.rows(_CONFIGURED, {"namespace": self._namespace})
        if count >= self._most:
            raise TooManyConfigs(
                f"the namespace has {count:,} learning configurations (TALLY_LEARNING_CONFIGS): delete some"
            )

    async def _store(
        self, retriever: str, newest: ConfigVersion | None, values: Mapping[str, Any] | None
    ) -> ConfigVersion:
        """Insert the next version, unless another row was inserted as this version. Raises ConfigConflict."""
        version = newest.version + 1 if newest else 1
        now = from_epoch_ms(to_epoch_ms(datetime.now(UTC)))
        # A later version has a later time, also if the clocks of two processes differ.
        changed_at = max(now, newest.changed_at + _MILLISECOND) if newest else now
        text = "" if values is None else json.dumps(values)
        identity = json.dumps([self._namespace, retriever, version])
        row = {
            "namespace": self._namespace,
            "retriever_id": retriever,
            "version": version,
            "config": text,
            "changed_at": iso_ms(changed_at).removesuffix("Z"),
        }
        await self._database.insert_row(LEARNING_CONFIGS, row, hashlib.sha256(identity.encode()).hexdigest())
        stored = await self._rows(_VERSION, retriever, version=version)
        if not stored:
            raise Unavailable(f"the learning configuration of {retriever[:60]!r} was not stored: retry")
        if stored[0].values != values:
            raise _conflict(retriever)
        return stored[0]


def _is_equal(values: Mapping[str, Any], config: LearningConfig) -> bool:
    try:
        return parse_config(dict(values)) == config
    except ConfigError:  # of a newer version of Tally
        return False


def _unknown(retriever: str) -> UnknownConfig:
    return UnknownConfig(f"retriever {retriever[:60]!r} has no learning configuration")


def _conflict(retriever: str) -> ConfigConflict:
    return ConfigConflict(
        f"the learning configuration of {retriever[:60]!r} was changed at the same time: read it, and try again"
    )
