"""Documents are true: generated pages are current, examples run, and every name and link in them exists."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from console import settings_doc
from console.settings import PREFIX, ConsoleSettings
from runtime import metrics
from runtime.settings import NOT_SETTINGS, Settings
from runtime.settings_doc import as_markdown
from schemas.interaction import NO_FEATURE_URI
from schemas.json_schema import as_text
from tally import capacity

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] if path.is_file()
)
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
HEADINGS = ["Context", "Decision", "Consequences", "Measurements"]
MAX_ARCHITECTURE_BYTES = 13_000
MAX_DECISION_LINES = 60

HISTORY = "CHANGELOG.md"
"""The one page that names files, settings and metrics which are gone."""
FOLDERS = (
    "console|schemas|kernels|runtime|producers|consumers|readers|clients|tally|deploy|benchmarks|tests|docs|"
    "requirements"
)


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text_of(page), re.DOTALL)


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: str) -> Iterator[str]:
    """Yield the relative links of a page that lead nowhere."""
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        if re.match(r"\w+:", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            yield link


def test_the_json_schema_is_current() -> None:
    assert (ROOT / "schemas" / "interaction.schema.json").read_text() == as_text(), "run `make docs`"


def test_the_page_of_settings_is_current() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == as_markdown(), "run `make docs`"


def test_the_settings_of_the_console_are_current() -> None:
    page = settings_doc.PAGE.read_text()
    assert settings_doc.table() in page, "run `make docs`"
    assert settings_doc.with_table(page) == page


def test_the_page_of_capacity_is_current() -> None:
    assert capacity.PAGE.read_text() == capacity.page(Settings()), "run `make docs`"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_has_a_target(page: str) -> None:
    assert not list(broken_links(page))


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY])
def test_every_name_in_a_document_exists(page: str) -> None:
    text = text_of(page)
    files = re.findall(rf"`((?:{FOLDERS})/[\w./*-]*)`", text)
    assert not [name for name in files if not list(ROOT.glob(name.rstrip("/")))]
    settings = {f"TALLY_{name.upper()}" for name in Settings.model_fields} | NOT_SETTINGS
    settings |= {f"{PREFIX}{name.upper()}" for name in ConsoleSettings.model_fields}
    assert set(re.findall(r"\bTALLY_[A-Z_]+\b", text)) <= settings
    known = {metrics.name_of(metric) for metric in metrics.every_metric()}
    assert set(re.findall(r"`(tally_(?:http|worker|lag|partition|collector|retries)_\w+)`", text)) <= known
    targets = re.findall(r"^([\w-]+):", text_of("Makefile"), re.MULTILINE)
    named = {f"make {name}" for name in re.findall(r"`make ([\w-]+)", text)}
    assert not [name for name in named if name.removeprefix("make ") not in targets]


def test_the_section_that_the_warning_names_exists() -> None:
    named = re.search(r"\((\S+), section '([^']+)'\)", NO_FEATURE_URI)
    assert named is not None
    assert re.search(rf"^#+ {named[2]}$", (ROOT / named[1]).read_text(), re.MULTILINE)


def test_the_size_of_the_architecture_document_is_bounded() -> None:
    assert (ROOT / "ARCHITECTURE.md").stat().st_size <= MAX_ARCHITECTURE_BYTES


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda path: path.name)
def test_a_decision_is_a_page_with_four_sections(decision: Path) -> None:
    text = decision.read_text()
    assert re.match(rf"# {int(decision.name[:4])}\. \w", text)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS
    assert text.count("\n") <= MAX_DECISION_LINES
    assert f"({decision.name})" in text_of("docs/decisions/README.md")


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {re.split(r"[\[<>=]", requirement)[0] for group in groups for requirement in group}
    table = re.findall(r"^\| [\w, ]+ \| (.+?) \| ", text_of("docs/dependencies.md"), re.MULTILINE)
    explained = {name for cell in table for name in re.sub(r"\(.*?\)", "", cell).replace(" ", "").split(",")}
    assert declared - {"tally", "tally-server"} == explained - {"package"}


def test_the_glossary_is_in_order() -> None:
    terms = re.findall(r"^\| ([^|]+) \| ", text_of("docs/glossary.md"), re.MULTILINE)[1:]
    assert terms == sorted(set(terms), key=str.lower)
