"""Documents are true: generated pages are current, examples run, and every name and link in them exists."""

import asyncio
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import metrics
from runtime.settings import Settings
from runtime.settings_doc import as_markdown
from schemas.json_schema import as_text
from tally import capacity_doc
from tests.http_lab import KEY, consuming, served, with_key
from tests.lab import Lab

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] if path.is_file()
)
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
HEADINGS = ["Context", "Decision", "Consequences", "Measurements"]
MAX_ARCHITECTURE_BYTES = 12_000
MAX_DECISION_LINES = 60

HISTORY = "CHANGELOG.md"
"""The one page that names files, settings and metrics which are gone."""
NOT_YET = (
    "make test-system",
    "schemas/fields.py",
    "tests/system/",
    "tests/system/test_cli.py",
    "tests/system/test_expand.py",
    "tests/system/test_instance_names.py",
    "tests/system/test_rolling.py",
)
"""Names that other changes of the same release bring: files and targets that may be missing until then."""
FOLDERS = "schemas|kernels|runtime|producers|consumers|readers|clients|tally|deploy|benchmarks|tests|docs|requirements"
NOT_SETTINGS = {"TALLY_TEST_STANDINS", "TALLY_IMAGE"}


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


def run(command: list[str], lab: Lab, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command as a person would who has the environment's commands on the path."""
    scripts = str(Path(sys.executable).parent)
    environment = {**os.environ, **lab.settings.as_environment(), "PATH": f"{scripts}:{os.environ['PATH']}"}
    return subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, cwd=folder, timeout=300
    )


def test_the_json_schema_is_current() -> None:
    assert (ROOT / "schemas" / "interaction.schema.json").read_text() == as_text(), "run `make docs`"


def test_the_page_of_settings_is_current() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == as_markdown(), "run `make docs`"


def test_the_page_of_capacity_is_current() -> None:
    assert capacity_doc.PAGE.read_text() == capacity_doc.page(), "run `make docs`"


async def test_the_python_example_emits_an_event(lab: Lab) -> None:
    (example,) = blocks("README.md", "python")
    done = await asyncio.to_thread(run, [sys.executable, "-c", example], lab, ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("int_")
    await lab.drain()
    assert await lab.rows("SELECT feature_id, user_id FROM interactions") == [("doc-17", "ada")]


async def test_the_example_of_another_client_puts_an_event_where_it_belongs(lab: Lab) -> None:
    (example,) = blocks("docs/wire.md", "python")
    done = await asyncio.to_thread(run, [sys.executable, "-c", example], lab, ROOT)
    assert done.returncode == 0, done.stderr
    counts = await lab.drain()
    assert (counts.stored, counts.moved) == (1, 0)


async def test_the_first_tasks_of_the_readme_run(lab: Lab, tmp_path: Path) -> None:
    (tasks,) = blocks("README.md", "bash")
    settings = with_key(lab.settings, read_wait_ms=60_000, delivery_timeout_ms=60_000, api_namespaces=("default",))
    async with served(settings) as url, consuming(lab.settings):
        here = (
            tasks.replace("http://127.0.0.1:8080", url).replace("your-key", KEY).replace("curl -s", "curl -sS --fail")
        )
        done = await asyncio.to_thread(run, ["/bin/sh", "-c", f"set -e\n{here}"], lab, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"feature_id":"doc-17"') == 3, "once by id, twice in the list (results, items)"
    assert "Click-through by position" in done.stdout
    assert "Audit of" in done.stdout


async def test_the_tour_of_commands_runs(lab: Lab, tmp_path: Path) -> None:
    (tour,) = blocks("docs/commands.md", "bash")
    # Nothing consumes while the first commands run, so none of them may wait for verdicts.
    script = "set -e\n" + re.sub(r"^(tally (?:import|simulate) .*)$", r"\1 --wait 0", tour, flags=re.MULTILINE)
    done = await asyncio.to_thread(run, ["/bin/sh", "-c", script], lab, tmp_path)
    await lab.database.command("DROP DATABASE IF EXISTS tally_again")
    assert done.returncode == 0, done.stderr
    assert "outcomes are the same, 0 are not" in done.stdout
    assert "open-bandit bts/women: 10,000 accepted" in done.stdout
    assert "simulated: 2,500 accepted" in done.stdout
    assert "Click-through by position" in done.stdout
    assert (tmp_path / "positions.png").exists()
    assert await lab.count("interactions") > 10_000


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    assert not list(broken_links(page))


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY])
def test_every_name_exists(page: str) -> None:
    text = text_of(page)
    files = re.findall(rf"`((?:{FOLDERS})/[\w./*-]*)`", text)
    assert not [name for name in files if name not in NOT_YET and not list(ROOT.glob(name.rstrip("/")))]
    settings = {f"TALLY_{name.upper()}" for name in Settings.model_fields} | NOT_SETTINGS
    assert set(re.findall(r"\bTALLY_[A-Z_]+\b", text)) <= settings
    known = {metrics.name_of(metric) for metric in metrics.every_metric()}
    assert set(re.findall(r"`(tally_(?:http|worker|lag|partition|collector|retries)_\w+)`", text)) <= known
    targets = re.findall(r"^([\w-]+):", text_of("Makefile"), re.MULTILINE)
    named = {f"make {name}" for name in re.findall(r"`make ([\w-]+)", text)}
    assert not [name for name in named if name not in NOT_YET and name.removeprefix("make ") not in targets]


def test_architecture_is_a_map_and_not_a_book() -> None:
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
    assert terms == sorted(terms, key=str.lower)
