"""Table of API keys in ClickHouse, which holds only their hashes."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from runtime.clickhouse import ClickHouse
from runtime.errors import TallyError
from runtime.http.keys import ApiKey, Scope, hash_of, new_key
from schemas.tables import API_KEYS

_INSERT = f"""
INSERT INTO {API_KEYS} (key_id, name, hashed, scopes, namespaces, rate_per_s, version)
SELECT {{key_id:String}}, {{name:String}}, {{hashed:String}}, {{scopes:Array(String)}}, {{namespaces:Array(String)}},
    {{rate_per_s:UInt32}}, 1
"""
_LIST = f"SELECT key_id, name, scopes, namespaces, rate_per_s, created_at, revoked_at FROM {API_KEYS} FINAL"
_WITHIN = "({is_any:Bool} OR hasAll({within:Array(String)}, namespaces))"
_VALID = f"SELECT key_id, hashed, scopes, namespaces, rate_per_s, name FROM {API_KEYS} FINAL WHERE revoked_at IS NULL"
_COUNT_VALID = f"SELECT count() FROM {API_KEYS} FINAL WHERE revoked_at IS NULL"
_ISSUED = f"""
SELECT key_id, hashed, scopes, namespaces, rate_per_s, toUnixTimestamp64Milli(revoked_at) FROM {API_KEYS} FINAL
"""
_CHANGED = f"SELECT count(), sum(version) FROM {API_KEYS} FINAL"
_REVOKE = f"""
INSERT INTO {API_KEYS} SELECT * REPLACE (now64(3) AS revoked_at, version + 1 AS version)
FROM (SELECT * FROM {API_KEYS} FINAL WHERE key_id = {{key_id:String}} AND revoked_at IS NULL)
"""


class ListedKey(NamedTuple):
    """API key without its hash, as listed for people."""

    key_id: str
    name: str
    scopes: Sequence[Scope]
    namespaces: Sequence[str]
    rate_per_s: int
    created_at: datetime
    revoked_at: datetime | None


class IssuedKey(NamedTuple):
    """API key, valid or revoked."""

    key: ApiKey
    revoked_ms: int | None
    """Time of its revocation in ms since 1970; None for a valid key."""


class KeyStore:
    """API keys of one database. Every method raises Unavailable when ClickHouse does not answer.

    `timeout_ms` limits each statement; None: by TALLY_QUERY_TIMEOUT_MS.
    """

    def __init__(self, database: ClickHouse, timeout_ms: int | None = None) -> None:
        self._database = database
        self._limits = {} if timeout_ms is None else {"max_execution_time": timeout_ms / 1000}

    async def create(
        self, name: str, scopes: Sequence[Scope], namespaces: Sequence[str], rate_per_s: int = 0
    ) -> tuple[str, str]:
        """Create a key. Return its id and the key, which cannot be read again."""
        key_id, key = new_key()
        values = {
            "key_id": key_id,
            "name": name,
            "hashed": hash_of(key).hex(),
            "scopes": list(scopes),
            "namespaces": list(namespaces),
            "rate_per_s": rate_per_s,
        }
        await self._database.command(_INSERT, values, limits=self._limits)
        return key_id, key

    async def list(self) -> Sequence[ListedKey]:
        """Return all keys, including revoked ones, oldest first."""
        return [ListedKey(*row) for row in await self._rows(f"{_LIST} ORDER BY created_at")]

    async def list_within(self, namespaces: Sequence[str] | None, most: int) -> Sequence[ListedKey]:
        """Return at most `most` keys that have only these namespaces (None: any), valid ones first, then the newest."""
        order = "ORDER BY revoked_at IS NULL DESC, created_at DESC, key_id LIMIT {most:UInt32}"
        rows = await self._rows(f"{_LIST} WHERE {_WITHIN} {order}", _within(namespaces) | {"most": most})
        return [ListedKey(*row) for row in rows]

    async def find_within(self, namespaces: Sequence[str] | None, key_id: str) -> ListedKey | None:
        """Return a key if it has only these namespaces (None: any)."""
        values = _within(namespaces) | {"key_id": key_id}
        rows = await self._rows(f"{_LIST} WHERE {_WITHIN} AND key_id = {{key_id:String}}", values)
        return ListedKey(*rows[0]) if rows else None

    async def count_valid(self) -> int:
        """Return the number of keys that are not revoked."""
        ((count,),) = await self._rows(_COUNT_VALID)
        return int(count)

    async def revoke(self, key_id: str) -> None:
        """Revoke a key and the tokens that it has signed. Raises TallyError for an unknown id."""
        known = [key for key in await self.list() if key.key_id == key_id]
        if not known:
            raise TallyError(f"no key {key_id!r}; `tally keys list` shows the keys")
        await self._database.command(_REVOKE, {"key_id": key_id}, limits=self._limits)

    async def valid_keys(self) -> dict[str, ApiKey]:
        """Return the keys that are not revoked, by id."""
        rows = await self._rows(_VALID)
        return {
            key_id: ApiKey(key_id, bytes.fromhex(hashed), tuple(scopes), tuple(namespaces), rate, name)
            for key_id, hashed, scopes, namespaces, rate, name in rows
        }

    async def issued_keys(self) -> dict[str, IssuedKey]:
        """Return all keys, including revoked ones, by id."""
        rows = await self._rows(_ISSUED)
        return {
            key_id: IssuedKey(ApiKey(key_id, bytes.fromhex(hashed), tuple(scopes), tuple(namespaces), rate), revoked_ms)
            for key_id, hashed, scopes, namespaces, rate, revoked_ms in rows
        }

    async def version(self) -> Sequence[int]:
        """Return a value that changes whenever a key is created or revoked."""
        ((count, versions),) = await self._rows(_CHANGED)
        return count, versions

    async def _rows(self, sql: str, values: Mapping[str, Any] | None = None) -> Sequence[Sequence[Any]]:
        return await self._database.rows(sql, values, limits=self._limits)


def _within(namespaces: Sequence[str] | None) -> dict[str, Any]:
    return {"is_any": namespaces is None, "within": [*(namespaces or ())]}
