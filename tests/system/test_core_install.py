"""A core install without compiler and with Kafka alone: it emits, and its command line names missing extras."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from runtime.settings import Settings
from tests.lab import Lab, reading

ROOT = Path(__file__).parents[2]
EXTRAS = {
    *("numba", "llvmlite", "numpy", "redis", "hiredis", "clickhouse_connect", "lz4"),
    *("fastapi", "uvicorn", "httptools", "chdb", "matplotlib", "opentelemetry"),
}
EMIT = """
import asyncio, json, sys
from importlib.util import find_spec
from tally import Interaction, Producer, Settings

async def emit():
    interaction = Interaction(feature_id="core", interaction_type=["click"], position=0, execution_id="exec-1")
    async with Producer(Settings.load()) as producer:
        return await producer.emit(interaction)

receipt = asyncio.run(emit())
print(json.dumps({
    "receipt": [receipt.interaction_id, receipt.partition, receipt.offset],
    "loaded": sorted(sys.modules),
    "found": [name for name in json.loads(sys.argv[1]) if find_spec(name)],
}))
"""
EVENT = '{"feature_id": "line", "interaction_type": ["click"], "position": 0}'


class Core(NamedTuple):
    """An environment that has the locked core dependencies and Tally."""

    folder: Path

    def run(
        self, program: str, *arguments: str, settings: Settings | None = None, given: str | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program of the environment with nothing of this process's own environment."""
        known = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return subprocess.run(
            [str(self.folder / "bin" / program), *arguments],
            check=False,
            input=given,
            capture_output=True,
            text=True,
            env=known | (settings.as_environment() if settings else {}),
            cwd=self.folder,
            timeout=120,
        )


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Core:
    """Install from the lock file (needs the package index) and from a wheel of this checkout."""
    folder = tmp_path_factory.mktemp("core")
    environment = folder / "environment"
    pip = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(wheel, check=True, timeout=300)
    (built,) = folder.glob("*.whl")
    venv.create(environment)
    into = [*pip, "--python", str(environment / "bin" / "python"), "install"]
    locked = str(ROOT / "requirements" / "core.txt")
    subprocess.run([*into, "--require-hashes", "-r", locked], check=True, timeout=600)
    subprocess.run([*into, "--no-deps", str(built)], check=True, timeout=300)
    return Core(environment)


async def test_a_core_install_emits_without_numba_and_llvm(core: Core, lab: Lab) -> None:
    done = core.run("python", "-c", EMIT, json.dumps(sorted(EXTRAS)), settings=lab.settings)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["found"] == []
    loaded = {name.partition(".")[0] for name in answer["loaded"]}
    assert loaded & (EXTRAS | {"kernels", "typer", "rich"}) == set()
    async with reading(lab.settings, lab.settings.topic) as records:
        (record,) = records
    assert [record.partition, record.offset] == answer["receipt"][1:]
    assert json.loads(record.value or b"")["interaction_id"] == answer["receipt"][0]
    size = sum(path.lstat().st_size for path in core.folder.rglob("*"))
    print(f"core install: {size / 1e6:.0f} MB, {len(answer['loaded'])} modules loaded for an emit")  # noqa: T201  (a measurement)


async def test_the_command_line_of_a_core_install_emits_lines(core: Core, lab: Lab) -> None:
    done = core.run("tally", "emit", "-", "--json", settings=lab.settings, given=EVENT)
    assert (done.returncode, done.stderr.startswith("1 accepted, 0 refused in ")) == (0, True), done.stderr
    async with reading(lab.settings, lab.settings.topic) as records:
        assert [json.loads(record.value or b"")["feature_id"] for record in records] == ["line"]


def test_help_needs_no_extra(core: Core) -> None:
    done = core.run("tally", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "consume" in done.stdout


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("up", "embedded"),
        ("init", "worker"),
        ("consume", "worker"),
        ("serve", "api"),
        ("simulate", "worker"),
        ("import open-bandit", "worker"),
        ("lookup int_0198b2c0a1b27c3d8e4f5061728394a5", "worker"),
        ("tail", "worker"),
        ("report positions", "worker"),
        ("evaluate policy hybrid --policy uniform", "learning"),
        ("status", "worker"),
        ("audit", "worker"),
        ("keys list", "worker"),
        ("topic expand --partitions 8", "worker"),
        ("dlq list", "worker"),
        ("dlq show interactions/0/1", "worker"),
        ("dlq replay", "worker"),
        ("replay --into other", "worker"),
    ],
)
def test_a_command_without_its_extra_names_it_in_one_line(core: Core, command: str, extra: str) -> None:
    done = core.run("tally", *command.split())
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: this command needs ")
    assert line.endswith(f', which is not installed: pip install "tally-server[{extra}]"')
