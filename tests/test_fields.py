"""Table of fields: one more field is a line of the model and a migration, and nothing else."""

import pytest
from pydantic import BaseModel

from schemas.fields import MAX_NAME_BYTES, fields_of
from schemas.interaction import Id, OccurredAt
from schemas.tables import KEPT_COLUMNS


def test_a_tombstone_keeps_only_the_deduplication_key_of_an_interaction() -> None:
    kept = "namespace interaction_id feature_id interaction_type execution_id timestamp"
    internal = "_event_time_ms _idempotency_key _keyed _topic _partition _offset"
    assert tuple(f"{kept} {internal}".split()) == KEPT_COLUMNS


def test_a_model_that_is_not_a_table_is_refused() -> None:
    class Untyped(BaseModel):
        name: str

    class TwoTimes(BaseModel):
        begun: OccurredAt
        ended: OccurredAt | None = None

    class LongName(BaseModel):
        model_config = {}

    long = "n" * (MAX_NAME_BYTES + 1)
    with pytest.raises(TypeError, match="field name has 0 FieldType"):
        fields_of(Untyped)
    with pytest.raises(TypeError, match="two fields of kind time"):
        fields_of(TwoTimes)
    with pytest.raises(TypeError, match="longer than"):
        fields_of(type("Long", (LongName,), {"__annotations__": {long: Id}}))
