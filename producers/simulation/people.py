"""People of the simulation: users who return, with a fixed device, taste and retriever, and anonymous visitors.

Device, taste, retriever and activity of a user are derived from a hash of the user's id, so the user is the unit of
every experiment, and all seeds have the same users.
"""

import hashlib
import math
import random
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from statistics import NormalDist
from typing import NamedTuple

from producers.simulation.behaviour import DEVICES, TASTES
from producers.simulation.world import RETRIEVERS

DEFAULT_USERS = 2_000
MAX_USERS = 200_000
KNOWN = 0.8
"""Share of sessions with a `user_id`."""
ACTIVITY_SPREAD = 0.8
"""Standard deviation of the logarithm of a user's activity: the most active tenth has a third of the sessions."""
APP_VERSIONS = 12
_UNITS = 2**32


class Person(NamedTuple):
    """User, or an anonymous visitor (`user_id` None). Device, taste and retriever are numbers in their lists."""

    user_id: str | None
    device: int
    taste: int
    retriever: int
    app_version: str


class Population(NamedTuple):
    """Users, and their cumulated activities."""

    users: tuple[Person, ...]
    cumulated: tuple[float, ...]

    def draw(self, source: random.Random) -> Person:
        """Draw the person of a session."""
        if source.random() < KNOWN:
            return source.choices(self.users, cum_weights=self.cumulated)[0]
        return _person(None, [source.random() for _ in range(4)])

    def shares(self) -> dict[tuple[int, int, int], float]:
        """Return the exact shares of sessions by the numbers of retriever, device and taste."""
        found = {
            (retriever, device, taste): (1 - KNOWN) / len(RETRIEVERS) * DEVICES[device].share * TASTES[taste].share
            for retriever in range(len(RETRIEVERS))
            for device in range(len(DEVICES))
            for taste in range(len(TASTES))
        }
        before = 0.0
        for user, cumulated in zip(self.users, self.cumulated, strict=True):
            found[user.retriever, user.device, user.taste] += KNOWN * (cumulated - before) / self.cumulated[-1]
            before = cumulated
        return found


@lru_cache(4)
def population(users: int) -> Population:
    """Return the population of this number of users. Raises ValueError for fewer than 1 or more than MAX_USERS."""
    if not 1 <= users <= MAX_USERS:
        raise ValueError(f"the number of users must be between 1 and {MAX_USERS:,}")
    normal = NormalDist(0, ACTIVITY_SPREAD)
    people, activities = list[Person](), list[float]()
    for number in range(users):
        user_id = f"user-{number}"
        *traits, activity = _hashed(user_id)
        people.append(_person(user_id, traits))
        activities.append(math.exp(normal.inv_cdf(activity)))
    return Population(tuple(people), tuple(accumulate(activities)))


def _hashed(user_id: str) -> list[float]:
    """Return five numbers between 0 and 1, excluded, of a user."""
    digest = hashlib.blake2b(user_id.encode(), digest_size=20).digest()
    return [(int.from_bytes(digest[at : at + 4], "big") + 0.5) / _UNITS for at in range(0, len(digest), 4)]


def _person(user_id: str | None, traits: Sequence[float]) -> Person:
    """Return a person with traits by four numbers from 0 to 1, 1 excluded."""
    device, taste, retriever, version = traits
    return Person(
        user_id,
        _pick(device, [each.share for each in DEVICES]),
        _pick(taste, [each.share for each in TASTES]),
        int(retriever * len(RETRIEVERS)),
        f"4.{int(version * APP_VERSIONS)}",
    )


def _pick(point: float, shares: Sequence[float]) -> int:
    """Return the number of the share in which `point`, from 0 to 1, is."""
    for number, end in enumerate(accumulate(shares)):
        if point < end:
            return number
    return len(shares) - 1
