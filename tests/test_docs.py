"""Documents are correct: generated pages are current, and examples run."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

from runtime.settings_doc import as_markdown
from schemas.json_schema import as_text
from tally import capacity_doc
from tests.lab import Lab

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def run(command: list[str], lab: Lab, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command as a person would who has the environment's commands on the path."""
    scripts = str(Path(sys.executable).parent)
    environment = {**os.environ, **lab.settings.as_environment(), "PATH": f"{scripts}:{os.environ['PATH']}"}
    return subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, cwd=folder, timeout=120
    )


def test_the_json_schema_is_current() -> None:
    assert (ROOT / "schemas" / "interaction.schema.json").read_text() == as_text(), "run `make docs`"


def test_the_page_of_settings_is_current() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == as_markdown(), "run `make docs`"


def test_the_page_of_capacity_is_current() -> None:
    assert capacity_doc.PAGE.read_text() == capacity_doc.page(), "run `make docs`"


async def test_the_python_example_emits_an_event(lab: Lab) -> None:
    (example,) = blocks("python")
    done = await asyncio.to_thread(run, [sys.executable, "-c", example], lab, ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("int_")
    await lab.drain()
    assert await lab.rows("SELECT feature_id, user_id FROM interactions") == [("doc-17", "ada")]


async def test_the_example_of_another_client_puts_an_event_where_it_belongs(lab: Lab) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "wire.md").read_text(), re.DOTALL)
    done = await asyncio.to_thread(run, [sys.executable, "-c", example], lab, ROOT)
    assert done.returncode == 0, done.stderr
    counts = await lab.drain()
    assert (counts.stored, counts.moved) == (1, 0)


async def test_the_shell_examples_run(lab: Lab, tmp_path: Path) -> None:
    tasks = blocks("bash")[0]
    # Nothing consumes while the first commands run, so none of them may wait for verdicts.
    script = "set -e\n" + re.sub(r"^(tally (?:import|simulate) .*)$", r"\1 --wait 0", tasks, flags=re.MULTILINE)
    done = await asyncio.to_thread(run, ["/bin/sh", "-c", script], lab, tmp_path)
    await lab.database.command("DROP DATABASE IF EXISTS tally_again")
    assert done.returncode == 0, done.stderr
    assert "outcomes are the same, 0 are not" in done.stdout
    assert "open-bandit bts/women: 10,000 accepted" in done.stdout
    assert "simulated: 2,500 accepted" in done.stdout
    assert "Click-through by position" in done.stdout
    assert (tmp_path / "positions.png").exists()
    assert await lab.count("interactions") > 10_000


def test_every_file_the_documents_name_is_there() -> None:
    for page in ("README.md", "ARCHITECTURE.md", "docs/reliability.md", "docs/wire.md"):
        for name in re.findall(
            r"`((?:schemas|runtime|consumers|producers|readers|deploy|tests|docs)/[\w./-]+)`", (ROOT / page).read_text()
        ):
            assert (ROOT / name).exists(), f"{page} names {name}"
