"""JSON Schema of a record value, for producers in other languages: `python -m schemas.json_schema`."""

import json
import sys

from schemas.identity import ID_PATTERN
from schemas.interaction import Interaction


def as_text() -> str:
    """Return the text of `schemas/interaction.schema.json`: the JSON Schema of record values (`schemas/wire.py`)."""
    schema = Interaction.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Tally record value"
    schema["properties"]["interaction_id"] = {
        "anyOf": [{"type": "string", "pattern": ID_PATTERN}, {"type": "null"}],
        "default": None,
        "description": "Minted where the event is accepted; a foreign producer leaves it out.",
        "title": "Interaction Id",
    }
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_text())
