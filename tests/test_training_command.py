"""`tally export training` and `tally export verify`."""

import asyncio
import hashlib
import json
import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from learning.training import Snapshot, TrainingCounts
from learning.training_manifest import MANIFEST_SUFFIX, Manifest, ManifestError, parse_manifest
from learning.training_sql import LogPart
from learning.training_verify import PartChange, TrainingComparison
from runtime.deletions import Deletion, Deletions
from tally.training import read_manifest
from tests.cli_lab import CommandResult, command, environment, names_in
from tests.lab import Lab
from tests.test_training_bytes import events_of
from tests.training_lab import BEGIN, END, event, request_for, store

RANGE = ("--retriever", "hybrid", "--since", "2026-03-01", "--until", "2026-03-11")


async def export(lab: Lab, *options: str) -> CommandResult:
    return await asyncio.to_thread(command, "export", *options, env=environment(lab.settings))


async def exported(lab: Lab, file: Path, *options: str) -> Any:
    """The answer of an export that must succeed."""
    done = await export(lab, "training", *RANGE, "--output", str(file), "--json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def verified(lab: Lab, file: Path) -> tuple[int, Any]:
    done = await export(lab, "verify", f"{file}{MANIFEST_SUFFIX}", "--json")
    return done.returncode, json.loads(done.stdout)


async def test_a_file_with_its_manifest(lab: Lab, tmp_path: Path) -> None:
    await store(lab.database, events_of(random.Random(1), 20))
    file = tmp_path / "train.parquet"
    features = "document_score, metadata.price"
    rewards = ("--rewards", "click=1,purchase=4", "--max-reward", "2", "--horizon-hours", "0.5")
    found = await exported(lab, file, "--label", "reward", "--features", features, "--validation", "0.9999", *rewards)
    assert found["counts"]["rows"] == 200
    assert found["counts"]["train"]["rows"] + found["counts"]["validation"]["rows"] == 200
    assert found["files"] == [
        {
            "name": "train.parquet",
            "suffix": "",
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
    ]
    assert found["manifest"] == f"{file}{MANIFEST_SUFFIX}"
    manifest = json.loads(file.with_name(f"train.parquet{MANIFEST_SUFFIX}").read_text())
    assert manifest["files"] == found["files"]
    assert manifest["counts"] == found["counts"]
    assert manifest["request"]["rewards"] == {"click": 1.0, "purchase": 4.0}
    assert manifest["request"]["horizon_ms"] == 1_800_000
    assert manifest["request"]["validation_from"] == "2026-03-01T00:01:26.400Z"
    assert [part["rows"] for part in manifest["offsets"]] == [await lab.count("interactions")]
    table = parquet.read_table(file)
    assert [column["name"] for column in manifest["schema"]] == table.schema.names
    assert all(column["meaning"] for column in manifest["schema"])
    assert set(table["label"].to_pylist()) >= {0.0, 1.0, 2.0}
    assert sorted(names_in(tmp_path)) == ["train.parquet", "train.parquet.manifest.json"]
    assert await verified(lab, file) == (0, await same(lab, file))


async def same(lab: Lab, file: Path) -> Any:
    """The answer of `verify` for a training set whose bytes are the same."""
    manifest = read_manifest(Path(f"{file}{MANIFEST_SUFFIX}"))
    return {
        "same": True,
        "reasons": [],
        "deleted": 0,
        "deleted_ids": [],
        "changes": [],
        "files": {name: "same" for name, _ in manifest.files},
        "log": [digest._asdict() for _, digest in manifest.files],
        "pyarrow": manifest.writer,
    }


async def test_text_files_with_weights_from_propensities(lab: Lab, tmp_path: Path) -> None:
    await store(lab.database, events_of(random.Random(2), 20))
    points = [
        {"position": at, "impressions": 9, "clicks": 1, "items": 1, "value": 1 / (1 + at), "low": None, "high": None,
         "reason": ""} for at in range(10)
    ]  # fmt: skip
    curves = tmp_path / "curves.json"
    curves.write_text(json.dumps({"curves": [{"segment": "phone", "points": points}]}))
    file = tmp_path / "out" / "train"
    file.parent.mkdir()
    options = ("--label", "ips", "--propensities", str(curves), "--clip", "4", "--by", "metadata.device")
    await exported(lab, file, *options, "--format", "lightgbm", "--validation", "2026-03-01T00:05:00Z")
    names = [f"train{part}{side}" for part in ("", ".validation") for side in ("", ".query", ".weight", ".position")]
    assert sorted(names_in(file.parent)) == sorted([*names, f"train{MANIFEST_SUFFIX}"])
    weights = {float(line) for line in (file.parent / "train.weight").read_text().split()}
    assert 1.0 in weights
    assert max(weights) == 4.0
    assert (await verified(lab, file))[0] == 0


async def test_verify_names_what_has_changed(lab: Lab, tmp_path: Path) -> None:
    """Deletions, rows that are gone, rows that are new, a changed file, a missing file."""
    events = events_of(random.Random(3), 20)
    await store(lab.database, events)
    file = tmp_path / "train.parquet"
    await exported(lab, file)
    await store(lab.database, [event("late", at_s=1)], first=10_000)
    assert await verified(lab, file) == (0, await same(lab, file))

    content = file.read_bytes()
    file.write_bytes(content + b"x")
    code, found = await verified(lab, file)
    assert (code, found["same"], found["reasons"]) == (1, True, ["train.parquet on disk is changed"])
    file.unlink()
    code, found = await verified(lab, file)
    assert (code, found["same"], found["reasons"]) == (0, True, ["train.parquet on disk is gone"])
    file.write_bytes(content)

    deletions = Deletions(lab.database)
    gone = [Deletion(f"int_{number:032x}", "default") for number in range(12)]
    for each in gone:
        await deletions.note(each)
    await deletions.erase(gone)
    code, found = await verified(lab, file)
    assert (code, found["same"], found["deleted"]) == (1, False, 12)
    assert found["deleted_ids"] == [each.interaction_id for each in gone[:10]]
    assert found["changes"] == [
        {"topic": "simulated", "partition": 0, "deleted": 12, "missing": 0, "added": 0, "first": None}
    ]
    assert "12 of the events that it was made from are deleted" in found["reasons"][0]

    await lab.database.command("ALTER TABLE interactions DELETE WHERE _offset IN (20, 21) SETTINGS mutations_sync = 2")
    found = (await verified(lab, file))[1]
    assert [(each["deleted"], each["missing"]) for each in found["changes"]] == [(12, 2)]
    assert "2 rows of partition 0 of topic simulated are gone" in found["reasons"][1]

    await lab.database.command("TRUNCATE TABLE interactions")
    code, found = await verified(lab, file)
    assert code == 1
    assert found["changes"][0]["missing"] == len(events)
    assert "showed no results" in found["reasons"][-1]
    again = [event("new", at_s=number) for number in range(len(events))]
    await store(lab.database, again)
    done = await export(lab, "verify", f"{file}{MANIFEST_SUFFIX}")
    assert done.returncode == 1
    assert "the reason is not known" in done.stderr


async def test_recorded_rows_that_are_not_those_of_the_log_are_named(lab: Lab, tmp_path: Path) -> None:
    """An edited manifest whose request still gives the same bytes."""
    await store(lab.database, [event("a"), event("b")])
    file = tmp_path / "train.parquet"
    await exported(lab, file)
    path = tmp_path / f"train.parquet{MANIFEST_SUFFIX}"
    manifest = json.loads(path.read_text())
    for edited, says in ({"rows": 9}, "7 rows of partition 0"), ({"first": 1}, "first row of partition 0 of topic"):
        offsets = [{**manifest["offsets"][0], **edited}]
        path.write_text(json.dumps({**manifest, "offsets": offsets}))
        code, found = await verified(lab, file)
        assert (code, found["same"], len(found["reasons"])) == (0, True, 1)
        assert says in found["reasons"][0]


async def test_another_version_of_pyarrow_and_new_rows_are_reasons(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(lab.database, [event("first")])
    await store(lab.database, [event("last", at_s=3)], first=3)
    file = tmp_path / "train.parquet"
    await exported(lab, file)
    await store(lab.database, [event("filled in", at_s=1)], first=1)
    monkeypatch.setattr(pa, "__version__", "99.0")
    code, found = await verified(lab, file)
    assert code == 1
    assert found["changes"][0]["added"] == 1
    assert "1 row of partition 0 of topic simulated below the recorded offset is new" in found["reasons"][0]
    assert "99.0" in found["reasons"][1]


async def test_warnings_name_rows_that_cannot_be_judged_yet(lab: Lab, tmp_path: Path) -> None:
    """The horizon of an impression of this minute has not ended; nobody has clicked."""
    await store(lab.database, [event("a")])
    await lab.emit(event("b", occurred_at=None))
    await lab.drain()
    options = ("--retriever", "hybrid", "--since", "2026-03-01", "--until", "2126-01-01", "--validation", "0")
    done = await export(lab, "training", *options, "--output", str(tmp_path / "t"))
    assert done.returncode == 0, done.stderr
    assert "the horizon of 1 rows had not ended" in done.stderr
    assert "no row has a positive label" in done.stderr


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--features", "position"], "--features"),
        (["--label", "best"], "--label"),
        (["--validation", "1.5"], "--validation"),
        (["--validation", "soon"], "soon"),
        (["--validation", "2025-01-01"], "--validation"),
        (["--horizon-hours", "0"], "--horizon-hours"),
        (["--horizon-hours=-inf"], "--horizon-hours"),
        (["--horizon-hours=nan"], "--horizon-hours"),
        (["--propensities", "/nowhere"], "--propensities"),
        (["--rewards", "click"], "--rewards"),
        (["--clip", "0"], "--clip"),
        (["--by", "device"], "by"),
        (["--days", "3"], "--since"),
        (["--output", "/nowhere/file"], "/nowhere/file"),
        (["--output", "x" * 250], "name too long"),
    ],
)
async def test_an_invalid_option_is_named(shared_lab: Lab, options: list[str], named: str, tmp_path: Path) -> None:
    done = await export(shared_lab, "training", *RANGE, "--output", str(tmp_path / "t"), *options)
    assert done.returncode in (1, 2)
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert names_in(tmp_path) == []


async def test_a_range_is_needed(shared_lab: Lab, tmp_path: Path) -> None:
    done = await export(shared_lab, "training", "--retriever", "r", "--output", str(tmp_path / "t"))
    assert done.returncode == 2
    assert "--since" in done.stderr


async def test_nothing_is_left_of_a_training_set_without_rows(shared_lab: Lab, tmp_path: Path) -> None:
    done = await export(shared_lab, "training", *RANGE, "--retriever", "nobody", "--output", str(tmp_path / "t"))
    assert done.returncode == 1
    assert "'nobody' of namespace default showed no results from" in done.stderr
    assert names_in(tmp_path) == []


async def test_an_existing_file_is_replaced_only_by_force(lab: Lab, tmp_path: Path) -> None:
    await store(lab.database, [event("a")])
    manifest = tmp_path / f"t{MANIFEST_SUFFIX}"
    manifest.write_text("mine")
    done = await export(lab, "training", *RANGE, "--output", str(tmp_path / "t"))
    assert done.returncode == 1
    assert "--force" in done.stderr
    assert manifest.read_text() == "mine"
    await exported(lab, tmp_path / "t", "--force")
    assert (await verified(lab, tmp_path / "t"))[0] == 0


def change(found: Any) -> Callable[[Any], None]:
    """Return a function that updates parts of a request."""
    return lambda manifest: manifest["request"].update(found)


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: found.pop("files"),
        lambda found: found.update(format_version=2),
        lambda found: found.update(created_at=3),
        lambda found: found.update(offsets=[{"topic": "t"}]),
        lambda found: found.update(counts=[]),
        change({"label": "best"}),
        change({"features": ["user_id"]}),
        change({"rewards": {"love": 1}}),
        change({"propensities": [{"points": 3}]}),
        change({"propensities": "x"}),
        change({"max_reward": "x"}),
        change({"since": "2026-13-01"}),
        change({"horizon_ms": float("inf")}),
        *(change({name: 10**400}) for name in ("max_reward", "clip")),
        change({"rewards": {"click": 10**400}}),
        change({"query_path": []}),
        change({"retriever": "\ud800"}),
        change({"propensities": [{"segment": "\ud800", "points": [{"position": 0, "value": 1.0}]}], "by": ["d"]}),
        *(
            lambda found, last=last: found["offsets"][0].update(last=last)
            for last in (float("inf"), 10**30, -1, "3", True)
        ),
        *(
            lambda found, name=name: found.update(files=[{"name": name, "suffix": "", "bytes": 1, "sha256": ""}])
            for name in ("", ".", "a\0", "a/b", "..", "\ud800", "a" * 256)
        ),
        lambda found: found["counts"].update(rows="many"),
        lambda found: found["counts"]["train"].update(rows=None),
        lambda found: found.update(schema=None),
        lambda found: found["writer"].update(pyarrow="\ud800"),
    ],
)
def test_a_damaged_manifest_is_refused(damage: Callable[[Any], Any]) -> None:
    snapshot = {"topic": "t", "partition": 0, "first": 0, "last": 1, "rows": 2}
    found = json.loads(_manifest_text(snapshot))
    parse_manifest(json.dumps(found))
    damage(found)
    with pytest.raises(ManifestError):
        parse_manifest(json.dumps(found))


def _manifest_text(part: dict[str, Any]) -> str:
    request = request_for(validation_from=END - timedelta(hours=1))
    return Manifest(request, Snapshot(BEGIN, [LogPart(**part)]), TrainingCounts(), [], [], "26").text()


async def test_a_file_that_is_no_manifest_is_refused(shared_lab: Lab, tmp_path: Path) -> None:
    for content in (b"", b"[]", b"3", b"\xff", b'{"format_version": 1}', b"[" * 100_000):
        (tmp_path / "m").write_bytes(content)
        done = await export(shared_lab, "verify", str(tmp_path / "m"))
        assert done.returncode == 2, content
        assert "Traceback" not in done.stderr
    assert (await export(shared_lab, "verify", str(tmp_path / "none"))).returncode == 2


def test_one_deleted_event_is_singular() -> None:
    unused: Any = None
    manifest = Manifest(unused, unused, unused, [], [], "1.0")
    changes = [PartChange("t", 0, 1, 1, 0)]
    found = TrainingComparison(False, "", [], changes, ["int_1"], "1.0").reasons(manifest)
    assert found == [
        "1 of the events that it was made from is deleted since: int_1",
        "1 row of partition 0 of topic t is gone, such as by retention",
    ]
