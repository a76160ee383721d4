"""JSON merge patch (RFC 7396) on a JSON object's bytes. Members that the patch does not name keep their bytes."""

from typing import Any

import msgspec
from msgspec import Raw

_read_object = msgspec.json.Decoder(dict[str, Raw]).decode


def merge_patch(target: bytes, patch: dict[str, Any]) -> bytes:
    """Return the object `target` with `patch` merged in: null removes a member, an object is merged, else replaced.

    Raises ValueError when `target` is no JSON object.
    """
    try:
        members = _read_object(target)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"no JSON object: {error}") from None
    for name, change in patch.items():
        if change is None:
            members.pop(name, None)
        elif isinstance(change, dict):
            before = bytes(members.get(name, b""))
            members[name] = Raw(merge_patch(before if before.startswith(b"{") else b"{}", change))
        else:
            members[name] = Raw(msgspec.json.encode(change))
    return msgspec.json.encode(members)
