"""The JSON Schema file is what the model says now."""

from pathlib import Path

import schemas
from schemas.json_schema import as_text


def test_the_committed_schema_is_current() -> None:
    committed = Path(schemas.__path__[0]) / "interaction.schema.json"
    assert committed.read_text() == as_text(), "run `make docs`"
