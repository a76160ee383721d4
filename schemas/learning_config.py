"""Learning configuration of a retriever: how the weights of its features are learned from events.

Names, ranges and defaults are those of the published service's learned fusion.
"""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from schemas.interaction import InteractionType
from schemas.rewards import RewardMap

MAX_SEGMENT_FEATURES = 4
PERSONAL = ("user_id", "session_id")
"""Names that no segment is made of: the erasure of a user does not reach the records of segments."""
_FEATURE = re.compile(r"(?:INPUT|CONTEXT)((?:\.[A-Za-z0-9_-]{1,64}){1,4})")

Reward = Annotated[float, Field(ge=-1_000, le=1_000)]


class LearningConfig(BaseModel):
    """Learning configuration. Unknown names and values outside the published ranges are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    algorithm: Literal["thompson_sampling"] = "thompson_sampling"
    context_features: tuple[Literal["INPUT.user_id"], ...] = Field(
        ("INPUT.user_id",), max_length=1, description="[INPUT.user_id]: weights by user; []: all users together"
    )
    demographic_features: tuple[str, ...] | None = Field(
        None,
        max_length=MAX_SEGMENT_FEATURES,
        description="INPUT.name or CONTEXT.name: texts at metadata.name of the events, which together are the segment",
    )
    fallback_strategy: Literal["hierarchical", "global"] = Field(
        "hierarchical", description="hierarchical: personal, segment, global; global: personal, global"
    )
    min_interactions: int = Field(5, ge=1, le=100, description="rewarded interactions from which a context is used")
    reward_signal: InteractionType = Field("click", description="type with reward 1, unless there is a reward_map")
    reward_map: dict[InteractionType, Reward] | None = Field(None, min_length=1, description="reward of each type")
    prior_alpha: float = Field(1.0, ge=0.1, le=1e6)
    prior_beta: float = Field(1.0, ge=0.1, le=1e6)
    exploration_bonus: float = Field(1.0, ge=0.1, le=10, description="factor of the posterior's variance, about")
    exploration_decay: float = Field(0.99, ge=0.9, le=1, description="factor of the bonus for each interaction")
    exploration_floor: float = Field(0.1, ge=0, le=5, description="least exploration; 0: in the end the mean")
    decay_factor: float = Field(0.995, ge=0.9, le=1, description="factor of an event's count for each day of age")
    decay_window_days: int = Field(365, ge=1, le=3650, description="older events do not count")
    min_weight: float = Field(
        0.05, ge=0, le=0.5, description="least share of a draw, before the weights are made to sum to 1"
    )
    max_weight: float = Field(
        0.95, ge=0.5, le=1, description="largest share of a draw, before the weights are made to sum to 1"
    )
    max_reward_per_interaction: float = Field(5.0, ge=0.1, le=100)
    rollout_pct: float = Field(100.0, ge=0, le=100, description="share of users who get learned weights")
    shadow_mode: bool = Field(False, description="learned weights are computed and recorded, static ones are served")
    circuit_breaker_timeout_ms: int = Field(
        1000, ge=1, le=30_000, description="time after which static weights are served"
    )

    @field_validator("demographic_features")
    @classmethod
    def _are_paths(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in value or ():
            if not _FEATURE.fullmatch(name):
                raise ValueError(f"{name[:60]!r} is not INPUT.name or CONTEXT.name")
            if name.partition(".")[2] in PERSONAL:
                raise ValueError(f"{name} is personal: segments are recorded by their texts")
        return value

    @property
    def rewards(self) -> RewardMap:
        """Rewards by type: the map, else 1 for the signal."""
        rewards = self.reward_map if self.reward_map is not None else {self.reward_signal: 1.0}
        return RewardMap(rewards, self.max_reward_per_interaction)

    @property
    def is_personal(self) -> bool:
        """Whether users have weights of their own."""
        return bool(self.context_features)

    @property
    def segment_paths(self) -> tuple[tuple[str, ...], ...]:
        """Paths in `metadata` of the texts that make up the segment; empty: no segments."""
        return tuple(tuple(name.split(".")[1:]) for name in self.demographic_features or ())
