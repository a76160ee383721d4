"""Folders of any name and any content of the working directory: the stack starts and finds its data."""

import json
import signal
from functools import partial
from pathlib import Path

from tally.cli import INTERRUPTED
from tests.cli_lab import Running
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
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
    return all(running.as_process("lookup", each).returncode == 0 for each in ids)


def test_the_second_start_finds_the_data_of_the_first(tmp_path: Path) -> None:
    work, data_dir = tmp_path / "work", tmp_path / NAME / "data, 2"
    marker = poisoned(work)
    data_dir.parent.mkdir()
    ids: list[str] = []
    for start in (1, 2):
        running = Running(data_dir, "--no-demo", "--workers", "1", working_dir=work)
        try:
            eventually(running.is_ready)
            ids.append(json.loads(running.as_process("emit", "-", "--json", given=EVENT).stdout)["interaction_id"])
            eventually(partial(all_found, running, ids))
            assert sum(each["end_offset"] for each in running.status()["partitions"]) == start
        finally:
            running.process.send_signal(signal.SIGINT)
            assert running.process.wait(60) == INTERRUPTED, running.output()
    assert not marker.exists()
    assert (data_dir / "kafka" / "data" / "meta.properties").exists()
    assert {path.name for path in tmp_path.iterdir()} == {work.name, NAME}
