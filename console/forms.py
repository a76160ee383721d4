"""Fields of forms, bounded."""

from collections.abc import Mapping, Sequence

from starlette.datastructures import FormData

from console.view import View

MAX_FIELDS = 50
MAX_TEXT_CHARACTERS = 512


async def read_form(view: View) -> FormData:
    """Return the fields of a posted form."""
    return await view.request.form(max_files=0, max_fields=MAX_FIELDS)


def text_of(form: Mapping[str, object], name: str, most: int = MAX_TEXT_CHARACTERS) -> str:
    """Return a text field without blanks around it; empty if it is missing."""
    value = form.get(name, "")
    return value.strip()[:most] if isinstance(value, str) else ""


def selected(form: Mapping[str, object], names: Sequence[str]) -> dict[str, str]:
    """Return the named text fields that are not empty, as they are: another text would select something else."""
    return {name: text for name in names if isinstance(text := form.get(name), str) and text}
