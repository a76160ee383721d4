"""Table of fields: one more field is a line of the model and a migration, and nothing else."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from runtime.settings import Settings
from schemas.fields import MAX_NAME_BYTES, fields_of
from schemas.interaction import Id, OccurredAt
from schemas.tables import INTERACTIONS, KEPT_COLUMNS
from tests.test_compiled import change
from tests.test_packages import MAY_IMPORT, ROOT

END_OF_FIELDS = '    @model_validator(mode="before")\n'
FIELDS = "    campaign_id: Id | None = None\n    shelf: Int32 | None = None\n\n"
END_OF_MIGRATIONS = ")\nBOOTSTRAP = ("
MIGRATION = f"""    Migration(
        1_000,
        ("ALTER TABLE {INTERACTIONS} ADD COLUMN IF NOT EXISTS campaign_id Nullable(String), "
         "ADD COLUMN IF NOT EXISTS shelf Nullable(UInt32)",),
        oldest=4,
    ),
"""


async def test_an_added_field_is_a_line_of_the_model_and_a_migration(settings: Settings, tmp_path: Path) -> None:
    """`tests.added_fields` has the checks: emitting, scanning, storing, reading, filtering, erasing."""
    for package in (*MAY_IMPORT, "tests"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    change(tmp_path / "schemas" / "interaction.py", END_OF_FIELDS, FIELDS + END_OF_FIELDS)
    change(tmp_path / "schemas" / "tables.py", END_OF_MIGRATIONS, MIGRATION + END_OF_MIGRATIONS)
    environment = {**os.environ, **settings.as_environment(), "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-P", "-m", "tests.added_fields"]
    ran = await asyncio.to_thread(
        subprocess.run, command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_a_tombstone_keeps_the_parts_of_the_deduplication_key_and_nothing_else_of_an_interaction() -> None:
    kept = "namespace interaction_id feature_id interaction_type execution_id timestamp"
    internal = "_event_time_ms _idempotency_key _keyed _topic _partition _offset"
    assert tuple(f"{kept} {internal}".split()) == KEPT_COLUMNS


def test_a_model_that_is_no_table_is_refused() -> None:
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
