"""Capacity is arithmetic: it grows with the load."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.settings import Settings
from tally.capacity import CLAIM_BYTES, GIB, OLD_TABLE_BYTES, TABLE_BYTES, TABLE_REPLICAS, TIB, Load, need_of


def test_the_table_and_the_claims_are_rows_times_bytes() -> None:
    settings = Settings()
    need = need_of(Load(1_000, peak=2, days=10), settings)
    assert need.rows == 1_000 * 86_400 * 10
    assert need.table_tib == pytest.approx(need.rows * TABLE_BYTES * TABLE_REPLICAS / TIB, abs=0.01)
    day_tib = need.rows / 10 * TABLE_REPLICAS / TIB
    year = need_of(Load(1_000, peak=2, days=365), settings)
    assert year.table_tib == pytest.approx(day_tib * (30 * TABLE_BYTES + 335 * OLD_TABLE_BYTES), abs=0.01)
    claims = 2_000 * settings.claim_ttl_ms / 1000
    assert need.redis_gib == pytest.approx(claims * CLAIM_BYTES / GIB, abs=0.1)


@given(st.floats(1, 1e6), st.floats(1, 10), st.integers(1, 1000), st.floats(1.1, 4))
def test_a_larger_load_never_needs_less(rate: float, peak: float, days: int, more: float) -> None:
    settings = Settings()
    need = need_of(Load(rate, peak=peak, days=days), settings)
    for larger in (Load(rate * more, peak=peak, days=days), Load(rate, peak=peak * more, days=days)):
        other = need_of(larger, settings)
        assert other.workers >= need.workers
        assert other.redis_gib >= need.redis_gib
        assert other.clickhouse_cores >= need.clickhouse_cores
    assert need.partitions % need.workers == 0, "each worker has as many"
    assert need.partitions >= rate * peak / 25_000
