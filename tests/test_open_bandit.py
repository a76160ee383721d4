"""The Open Bandit logs agree with their CSV files, row for row, and importing twice stores once."""

import csv
import io
import zipfile
from collections import Counter
from typing import Any, get_args

import pytest

from producers.open_bandit import Campaign, LoggingPolicy, find_wheel, read_log
from runtime.errors import TallyError
from tests.lab import Lab


def csv_rows(policy: str, campaign: str) -> list[dict[str, str]]:
    with zipfile.ZipFile(find_wheel()) as wheel:
        text = wheel.read(f"obp/dataset/obd/{policy}/{campaign}/{campaign}.csv").decode()
    return list(csv.DictReader(io.StringIO(text)))


def expected(row: dict[str, str], policy: str) -> tuple[Any, ...]:
    types = ("impression", "click") if row["click"] == "1" else ("impression",)
    whole_ms = row["timestamp"][:23].ljust(23, "0")
    return row["item_id"], int(row["position"]) - 1, types, whole_ms, policy, float(row["propensity_score"])


@pytest.mark.parametrize("policy", get_args(LoggingPolicy))
@pytest.mark.parametrize("campaign", get_args(Campaign))
async def test_an_imported_log_equals_its_file(lab: Lab, policy: LoggingPolicy, campaign: Campaign) -> None:
    await lab.emit_all(read_log(policy, campaign, "default"))
    counts = await lab.drain()
    assert (counts.stored, counts.duplicates, counts.rejected) == (10_000, 0, 0)
    stored = await lab.rows(
        "SELECT feature_id, position, interaction_type, toString(occurred_at), retriever_id, "
        "JSONExtractFloat(metadata, 'propensity') FROM interactions"
    )
    rows = csv_rows(policy, campaign)
    assert Counter((*row[:2], tuple(row[2]), *row[3:]) for row in stored) == Counter(expected(r, policy) for r in rows)
    assert await lab.rows("SELECT uniqExact(execution_id) FROM interactions") == [(10_000,)]


async def test_importing_again_stores_nothing_and_counts_duplicates(lab: Lab) -> None:
    numbers = (
        "SELECT count(), countIf(has(interaction_type, 'click')), "
        "countIf(position = 0), countIf(position = 1), countIf(position = 2) FROM interactions FINAL"
    )
    await lab.emit_all(read_log("random", "all", "default"))
    await lab.drain()
    assert await lab.rows(numbers) == [(10_000, 38, 3322, 3412, 3266)]
    await lab.emit_all(read_log("random", "all", "default"))
    # Other claims: as after more than their time to live, only the ids tell.
    counts = await lab.drain(key_prefix=f"{lab.settings.key_prefix}-later")
    assert (counts.stored, counts.duplicates) == (0, 10_000)
    assert await lab.rows(numbers) == [(10_000, 38, 3322, 3412, 3266)]
    assert await lab.rows("SELECT count() FROM outcomes FINAL WHERE duplicate_of = interaction_id") == [(10_000,)]


def test_ids_of_an_imported_log_differ_by_namespace() -> None:
    one, other = (next(read_log("bts", "men", space)).interaction_id for space in ("one", "other"))
    assert one != other


def test_a_missing_wheel_is_an_error_with_instructions(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    with pytest.raises(TallyError, match="make up"):
        find_wheel()
