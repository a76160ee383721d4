"""Bytes of training sets: a function of the log and the deletions, in files that learners read."""

import io
import itertools
import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from learning import training, training_groups
from learning.estimators.curve import PropensityCurve, PropensityPoint
from learning.scope import Refusal
from learning.training import take_snapshot
from learning.training_request import TrainingFormat, TrainingRequest
from runtime.analytics import RangeTooLarge
from runtime.clickhouse import connect
from runtime.deletions import Deletion, Deletions
from schemas.interaction import Interaction
from tally.replay import Replay
from tests.crashes import crash_at
from tests.lab import Lab
from tests.training_lab import BEGIN, event, made, request_for, store, store_numbered

KINDS = ("click", "purchase", "negative_feedback", "dwell")
CURVE = PropensityCurve(
    "", "em", 0, tuple(PropensityPoint(at, 9, 1, 1, 1 / (1 + at), None, None, "") for at in range(10))
)
FORMATS: tuple[TrainingFormat, ...] = ("parquet", "libsvm", "lightgbm")


def events_of(chance: random.Random, executions: int, results: int = 10) -> list[Interaction]:
    """Events of executions, some of them at the same time."""
    found = []
    for number in range(executions):
        execution, at_s = f"e{chance.randrange(10**9)}", 60 * (number // 2)
        user = f"u{number % 7}"
        for place, document in enumerate(f"d{each}" for each in chance.sample(range(1000), results)):
            fields: dict[str, Any] = {"execution": execution, "position": place, "user_id": user}
            metadata = {"price": chance.choice([1, 2.25, None]), "device": "phone"}
            score = chance.choice([None, chance.random()])
            found.append(event(document, at_s=at_s, document_score=score, metadata=metadata, **fields))
            if chance.random() < 0.3:
                found.append(event(document, chance.choice(KINDS), at_s + 30, **fields))
    return found


def request_of(output: TrainingFormat = "parquet", executions: int = 60) -> TrainingRequest:
    """A request with a validation set, and with all columns."""
    middle = BEGIN + timedelta(seconds=60 * (executions // 4))
    features = ("document_score", "metadata.price")
    return request_for("ips", features, output, validation_from=middle, curves=[CURVE])


@pytest.mark.parametrize("output", FORMATS)
async def test_the_same_log_gives_the_same_bytes(lab: Lab, output: TrainingFormat, monkeypatch: Any) -> None:
    """Again, with rows inserted again in another order, after merges, and with another number of threads."""
    monkeypatch.setattr(training_groups, "GROUP_ROWS", 128)
    events = events_of(random.Random(1), 60)
    await store(lab.database, events)
    request = request_of(output)
    first, written = await made(lab, request)
    assert first == (await made(lab, request))[0]
    assert written.counts.total.rows == 600

    numbered = list(enumerate(events))
    random.Random(2).shuffle(numbered)
    await store_numbered(lab.database, numbered[:20])
    await store_numbered(lab.database, list(enumerate(events))[100:])
    assert first == (await made(lab, request))[0]
    await lab.database.command("OPTIMIZE TABLE interactions FINAL")
    assert first == (await made(lab, request))[0]
    for threads, block in ((1, 3), (8, 2048)):
        monkeypatch.setitem(training.STREAM_SETTINGS, "max_threads", threads)
        monkeypatch.setitem(training.STREAM_SETTINGS, "max_block_size", block)
        assert first == (await made(lab, request))[0]


async def test_later_events_change_nothing_up_to_the_snapshot(lab: Lab) -> None:
    """Events that are stored after the snapshot, with event times in the middle of the range."""
    events = events_of(random.Random(3), 20)
    await store(lab.database, events)
    request = request_of()
    snapshot = await take_snapshot(lab.settings, lab.database, request)
    before, _ = await made(lab, request, snapshot)
    late = events_of(random.Random(4), 20) + [
        event(each.feature_id, "purchase", 1, each.execution_id) for each in events
    ]
    await store(lab.database, late, first=len(events))
    assert before == (await made(lab, request, snapshot))[0]
    assert before != (await made(lab, request))[0]


@given(st.integers(0, 2**32), st.sets(st.integers(0, 6)))
@settings(max_examples=5)
async def test_an_erased_user_leaves_no_trace(lab: Lab, seed: int, erased: set[int]) -> None:
    """The bytes, and the snapshot, are those of a log without the events of the user."""
    events = list(enumerate(events_of(random.Random(seed), 20)))
    gone = {f"u{number}" for number in erased}
    kept = [(number, each) for number, each in events if each.user_id not in gone]
    request = request_of("libsvm", 20)
    try:
        await store_numbered(lab.database, events)
        await store_numbered(lab.database, events[5:40])
        deletions = Deletions(lab.database)
        deleted = [Deletion(f"int_{number:032x}", "default") for number, each in events if each.user_id in gone]
        for each_deletion in deleted[:3]:
            await deletions.note(each_deletion)
        await deletions.erase(deleted)
        with_erased = await outcome(lab, request)
        await lab.database.command("TRUNCATE TABLE interactions")
        await store_numbered(lab.database, kept)
        assert with_erased == await outcome(lab, request)
    finally:
        await lab.database.command("TRUNCATE TABLE interactions")


async def outcome(lab: Lab, request: TrainingRequest) -> Any:
    """Bytes, counts and offsets, or the refusal."""
    snapshot = await take_snapshot(lab.settings, lab.database, request)
    try:
        files, written = await made(lab, request, snapshot)
    except Refusal as error:
        return str(error)
    return files, written.counts, snapshot.parts


async def test_a_killed_worker_and_a_replay_give_the_same_bytes(lab: Lab) -> None:
    """A worker dies between the insert of its rows and the commit, another one continues, and the log is replayed."""
    await lab.emit_all(events_of(random.Random(5), 30))
    with crash_at("stored"):
        await lab.drain(batch_rows=100)
    await lab.drain(batch_rows=70)
    request = request_of()
    resumed, written = await made(lab, request)
    assert written.counts.total.rows == 300
    name = f"{lab.settings.topic}_again"
    try:
        replay = Replay(lab.settings, name, lab.database)
        await replay.prepare(None, None)
        await replay.decide()
        again = lab.settings.model_copy(update={"database": name})
        async with connect(again) as database:
            lab.database = database
            assert resumed == (await made(lab, request))[0]
    finally:
        async with connect(lab.settings) as database:
            await database.command(f"DROP DATABASE IF EXISTS {name}")


async def test_groups_and_sorts_go_to_disk(lab: Lab, monkeypatch: Any) -> None:
    """A training set that does not fit into the memory allowed is made with the help of the disk."""
    await lab.database.command(
        "INSERT INTO interactions (namespace, interaction_id, feature_id, interaction_type, position, execution_id, "
        "retriever_id, query_snapshot, timestamp, _event_time_ms, _topic, _offset) "
        "SELECT 'default', concat('int_', leftPad(toString(number), 32, '0')), 'd', ['impression'], 0, "
        "concat('e', toString(cityHash64(number))), 'hybrid', concat('{\"long\":\"', repeat('x', 10000), '\"}'), "
        "{at:DateTime64(3, 'UTC')} + toIntervalMillisecond(number), {ms:Int64} + number, 't', number "
        "FROM numbers(10000)",
        {"at": BEGIN, "ms": int(BEGIN.timestamp() * 1000)},
    )
    lab.settings = lab.settings.model_copy(update={"report_memory_bytes": 200 * 1024 * 1024})
    monkeypatch.setitem(training.STREAM_SETTINGS, "max_threads", 1)
    _, written = await made(lab, request_for(features=()))
    assert written.counts.total.rows == 10_000
    for part in ("group_by", "sort"):
        monkeypatch.setitem(training.STREAM_SETTINGS, f"max_bytes_before_external_{part}", 0)
        monkeypatch.setitem(training.STREAM_SETTINGS, f"max_bytes_ratio_before_external_{part}", 0)
    with pytest.raises(RangeTooLarge, match="TALLY_REPORT_MEMORY_BYTES"):
        await made(lab, request_for(features=()))


async def test_row_groups_are_bounded_by_rows_and_bytes(lab: Lab, monkeypatch: Any) -> None:
    await store(lab.database, [event(f"d{at:02}", query_snapshot={"text": "x" * 100}) for at in range(30)])
    sizes: list[list[int]] = []
    for rows, size in ((7, 10**9), (1000, 1000), (1000, 1)):
        monkeypatch.setattr(training_groups, "GROUP_ROWS", rows)
        monkeypatch.setattr(training_groups, "GROUP_BYTES", size)
        files, _ = await made(lab, request_for())
        found = parquet.ParquetFile(io.BytesIO(files[""])).metadata
        sizes.append([found.row_group(at).num_rows for at in range(found.num_row_groups)])
    assert sizes[0] == [7, 7, 7, 7, 2]
    assert len(set(sizes[1][:-1])) == 1
    assert 1 < sizes[1][0] < 10
    assert sizes[2] == [1] * 30


async def test_lightgbm_reads_parquet(lab: Lab) -> None:
    await store(lab.database, events_of(random.Random(6), 60))
    files, _ = await made(lab, request_of())
    rows = parquet.read_table(io.BytesIO(files[""]))
    train = rows.filter(np.array(rows["split"]) == "train")
    sizes = [len(list(group)) for _, group in itertools.groupby(train["qid"].to_pylist())]
    data = lightgbm.Dataset(
        train.select(["document_score", "metadata.price"]),
        label=train["label"],
        group=sizes,
        weight=train["weight"],
        position=train["position"].to_numpy(),
        params={"verbose": -1},
    )
    booster = lightgbm.train({"objective": "lambdarank", "verbose": -1}, data, num_boost_round=2)
    assert booster.num_feature() == 2
    assert np.asarray(data.get_group()).tolist() == [10] * 30
    assert set(np.asarray(data.get_weight()).tolist()) > {1.0}


async def test_lightgbm_reads_its_text_files(lab: Lab, tmp_path: Path) -> None:
    await store(lab.database, events_of(random.Random(6), 60))
    files, _ = await made(lab, request_of("lightgbm"))
    columns, _ = await made(lab, request_of())
    rows = parquet.read_table(io.BytesIO(columns[""]))
    for part, name in (("", "train"), (".validation", "validation")):
        for suffix, content in files.items():
            (tmp_path / f"set{suffix}").write_bytes(content)
        data = lightgbm.Dataset(str(tmp_path / f"set{part}"), params={"verbose": -1}).construct()
        wanted = rows.filter(np.array(rows["split"]) == name)
        assert np.asarray(data.get_group()).tolist() == [10] * 30
        for found, column in ((data.get_label(), "label"), (data.get_weight(), "weight")):
            assert np.asarray(found) == pytest.approx(wanted[column].to_numpy())
        assert np.asarray(data.get_position()).tolist() == wanted["position"].to_pylist()


async def test_xgboost_reads_libsvm(lab: Lab, tmp_path: Path) -> None:
    await store(
        lab.database,
        [*events_of(random.Random(6), 60), event("x # y", execution='q"\n#', at_s=10**5, document_score=None)],
    )
    files, _ = await made(lab, request_of("libsvm"))
    file = tmp_path / "set"
    file.write_bytes(files[""])
    data = xgboost.DMatrix(f"{file}?format=libsvm&indexing_mode=1")
    assert data.get_uint_info("group_ptr").tolist() == list(range(0, 301, 10))
    columns, _ = await made(lab, request_of())
    rows = parquet.read_table(io.BytesIO(columns[""]))
    for part, name in (("", "train"), (".validation", "validation")):
        own = rows.filter(np.array(rows["split"]) == name)
        of_rows = dict(zip(own["qid"].to_pylist(), own["weight"].to_pylist(), strict=True))
        assert [float(line) for line in files[f"{part}.weight"].splitlines()] == list(of_rows.values())
    (tmp_path / "set.weight").write_bytes(files[".weight"])
    data.set_weight(np.loadtxt(tmp_path / "set.weight"))
    assert len(set(data.get_weight())) > 2
    model = xgboost.train({"objective": "rank:ndcg", "base_score": 0.5}, data, 2)
    assert model.num_features() == 2
    data.set_weight(np.ones(30))
    unweighted = xgboost.train({"objective": "rank:ndcg", "base_score": 0.5}, data, 2)
    assert unweighted.get_dump() != model.get_dump(), "weights count"
    last = files[".validation"].decode().splitlines()[-1]
    assert last == '0 qid:31 # "q\\"\\n#" "x # y"'


async def test_an_execution_in_two_groups_has_one_weight(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    await store(lab.database, events_of(random.Random(6), 20))
    whole, _ = await made(lab, request_of("libsvm", 20))
    monkeypatch.setattr(training_groups, "GROUP_ROWS", 7)
    assert (await made(lab, request_of("libsvm", 20)))[0] == whole
