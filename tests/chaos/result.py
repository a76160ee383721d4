"""Result of one run of a campaign."""

from typing import NamedTuple


class Result(NamedTuple):
    """Result of a run."""

    number: int
    seed: int
    failpoint: str
    fault: str
    store: str
    met: bool
    kills: int
    records: int
    hostile_batches: int
    seconds: float
    problems: list[str]
