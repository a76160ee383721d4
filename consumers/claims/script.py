"""Claims script: `claims.lua` after the constants that Python and Lua share."""

import struct
from pathlib import Path

from consumers.claims.owners import OFFSET_AT, OWNER_BYTES, TOMBSTONE_OFFSET
from runtime.settings.stores import CLAIM_AGE_STEPS

LAYOUT_BYTES, EPOCH_BYTES, SPACE_BYTES = 8, 16, 4
PLACE = struct.Struct("<II")
"""Place of an owner: position of its chunk's key in a call, and of the owner in that chunk, in bytes."""


def _lua_string(raw: bytes) -> str:
    return '"' + "".join(f"\\{byte:03d}" for byte in raw) + '"'


_CONSTANTS = {
    "OWNER_BYTES": OWNER_BYTES,
    "OFFSET_AT": OFFSET_AT,
    "TOMBSTONE": _lua_string(struct.pack("<q", TOMBSTONE_OFFSET)),
    "STATE": f'"<c{LAYOUT_BYTES}c{EPOCH_BYTES}c{SPACE_BYTES}i8i8i8i8"',
    "PLACE": f'"{PLACE.format}"',
    "MARKS_PER_TTL": CLAIM_AGE_STEPS,
}

SCRIPT = (
    "".join(f"local {name} = {value}\n" for name, value in _CONSTANTS.items())
    + (Path(__file__).parent / "claims.lua").read_text()
)
"""Text that Redis runs."""
