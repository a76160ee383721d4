"""Folders of any name, and whatever is in the working directory: the stack starts, and finds its data again."""

import re
import signal
from functools import partial
from pathlib import Path

import pytest

from deploy.embedded.services import _property_value
from deploy.embedded.stack import Stack
from runtime.errors import TallyError
from runtime.settings import Settings
from tally.cli import INTERRUPTED
from tests.test_cli import Running
from tests.waiting import eventually

ROOT = Path(__file__).parent.parent
NAME = "Käse, été #1 100% a:b::c\\d {e,f} [g] *? &h=i;j 'k' \"l\" $m ~ 数据"
"""Characters with a meaning in comma-separated lists, properties files, class paths, URLs, shells or patterns."""
EVENT = '{"feature_id": "d", "interaction_type": ["click"], "position": 0}'


def poisoned(folder: Path) -> Path:
    """A working directory that has modules and settings by names that processes of the stack look for."""
    marker = folder / "imported"
    for name in ("schemas", "kernels", "runtime", "tally", "deploy", "consumers", "chdb", "uvicorn", "aiokafka"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"open({str(marker)!r}, 'a').write({name!r})\nraise SystemExit(1)\n")
    (folder / "json.py").write_text("raise SystemExit(1)\n")
    (folder / "config.xml").write_text("<clickhouse><path>/nowhere</path></clickhouse>")
    (folder / "log4j2.properties").write_text("no properties")
    return marker


def all_found(running: Running, ids: list[str]) -> bool:
    """Return whether each of these events is stored."""
    return all(running.tally("lookup", each).returncode == 0 for each in ids)


def test_the_second_start_finds_what_the_first_has_stored(tmp_path: Path) -> None:
    work, data_dir = tmp_path / "work", tmp_path / NAME / "data, 2"
    marker = poisoned(work)
    data_dir.parent.mkdir()
    ids: list[str] = []
    for start in (1, 2):
        running = Running(data_dir, "--no-demo", "--workers", "1", working_dir=work)
        try:
            eventually(running.is_ready)
            ids.append(running.json("emit", "-", given=EVENT)["interaction_id"])
            eventually(partial(all_found, running, ids))
            assert sum(each["end_offset"] for each in running.status()["partitions"]) == start
        finally:
            running.process.send_signal(signal.SIGINT)
            assert running.process.wait(60) == INTERRUPTED, running.said()
    assert not marker.exists()
    assert (data_dir / "kafka" / "data" / "meta.properties").exists()
    assert {path.name for path in tmp_path.iterdir()} == {work.name, NAME}


@pytest.mark.parametrize("name", ["line\nbreak", "bell\x07", "no utf-8 \udce9"])
def test_a_folder_that_cannot_be_used_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(TallyError, match="control characters, or is not UTF-8") as raised:
        Stack(Settings(data_dir=tmp_path / name)).__enter__()
    assert ascii(name)[1:-1] in ascii(str(raised.value)).replace("\\\\", "\\")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("/data", "/data"),
        (" x ", "\\ x "),
        ("a\\b", "a\\\\b"),
        ("é\t", "\\u00e9\\u0009"),
        ("数😀", "\\u6570\\ud83d\\ude00"),
    ],
)
def test_a_value_is_written_as_java_reads_it(value: str, written: str) -> None:
    assert _property_value(value) == written


@pytest.mark.parametrize(
    "path", ["Makefile", "docker-compose.yml", "deploy/images/Dockerfile", *ROOT.glob("deploy/k8s/*.yaml")], ids=str
)
def test_no_module_is_run_with_the_working_directory_first(path: str | Path) -> None:
    """With -P a folder `schemas/` beside the Makefile, or in the container, is not imported."""
    text = re.sub(r"[\"',\[\]]+", " ", (ROOT / path).read_text())
    runs = re.findall(r"python\S*\s+((?:-\w+\s+)*)-m\s+(\S+)", text)
    assert not [module for options, module in runs if "-P" not in options and module != "venv"]
