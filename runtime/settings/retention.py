"""Settings of retention: lifetimes of events, outcomes, records and dead letters."""

from pydantic import Field
from pydantic_settings import BaseSettings


class RetentionSettings(BaseSettings):
    """Settings of retention: lifetimes of events, outcomes, records and dead letters."""

    outcomes_days: int = Field(
        400,
        ge=1,
        description=(
            "Days that outcomes (duplicates, rejections, moves) are kept. Older ones are counted by month in "
            "the ledger."
        ),
    )
    interactions_days: int = Field(
        0,
        ge=0,
        description=(
            "Days that stored events are kept. Older months are deleted and counted in the ledger. 0: kept for ever."
        ),
    )
    topic_retention_ms: int = Field(
        7 * 86_400_000,
        ge=-1,
        description=(
            "Retention of the topic of events in milliseconds, when `tally init` creates it: the range that "
            "can be replayed. -1: unlimited."
        ),
    )
    dead_letter_retention_ms: int = Field(
        -1,
        ge=-1,
        description="Retention of the dead-letter topic in milliseconds, when `tally init` creates it. -1: unlimited.",
    )
