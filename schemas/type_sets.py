"""Type sets: the interaction types of an event as bits of one number, so that counts hold for every reward map."""

from collections.abc import Iterable

from schemas.interaction import INTERACTION_TYPES
from schemas.rewards import MicroRewards

_BITS = {name: 1 << number for number, name in enumerate(INTERACTION_TYPES)}
IMPRESSION = _BITS["impression"]
"""Bit of an impression."""


def type_set(types: Iterable[str]) -> int:
    """Return the types as bits, in the order of INTERACTION_TYPES. A type that is repeated counts once."""
    found = 0
    for name in types:
        found |= _BITS[name]
    return found


def types_of(bits: int) -> tuple[str, ...]:
    """Return the types of a set, in the order of INTERACTION_TYPES."""
    return tuple(name for name, bit in _BITS.items() if bits & bit)


TYPE_SET_SQL = (
    f"toUInt32(arraySum(x -> bitShiftLeft(toUInt64(1), indexOf({list(INTERACTION_TYPES)}, x) - 1), "
    "arrayDistinct(interaction_type)))"
)
"""Expression of an event's type set over the columns of `interactions`."""


def reward_micros(bits: int, rewards: MicroRewards) -> int:
    """Return the capped reward of an event with these types, in millionths."""
    total = sum(value for name, value in rewards.rewards.items() if bits & _BITS[name])
    return max(-rewards.most, min(rewards.most, total))
