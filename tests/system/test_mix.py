"""A short run of `make mix`, and reads of a client's own writes."""

import argparse
import asyncio
from pathlib import Path

import httpx
import pytest

from deploy.embedded.stack import Stack
from runtime.settings import Settings
from schemas.identity import mint_id
from tests import mix
from tests.http_lab import BEARER, PATH, consuming, served, with_key
from tests.lab import Lab

TRIES = 1_000
AT_ONCE = 20


async def test_a_client_reads_what_it_has_just_written(lab: Lab) -> None:
    """1,000 times, with two workers: a GET right after its POST is never a 404."""
    settings = with_key(lab.settings, read_wait_ms=60_000, delivery_timeout_ms=60_000)

    async def write_and_read(api: httpx.AsyncClient, times: int) -> None:
        for _ in range(times):
            event = {"feature_id": "d", "interaction_type": ["click"], "position": 0, "execution_id": mint_id()}
            created = (await api.post(PATH, json=event)).json()
            read = await api.get(f"{PATH}/{created['interaction_id']}")
            assert read.status_code == 200, read.text
            assert read.json() == created

    async with (
        served(settings) as url,
        consuming(lab.settings, workers=2),
        httpx.AsyncClient(base_url=url, headers=BEARER, timeout=120) as api,
    ):
        await asyncio.gather(*(write_and_read(api, TRIES // AT_ONCE) for _ in range(AT_ONCE)))


async def test_a_mix_of_calls_has_no_problems_while_a_broker_stops(
    stack: Stack, settings: Settings, tmp_path: Path
) -> None:
    options = argparse.Namespace(clients=12, tries=40, seconds=3.0, measure=1.0, stopped=1.5, folder=tmp_path)
    patient = mix.STOPPED_ACK_MS
    mix.STOPPED_ACK_MS = 500
    try:
        own = {"rate_limit_per_s": 0, "batch_age_ms": 50}
        problems = await mix.run(stack, settings.model_copy(update=own), options)
    finally:
        mix.STOPPED_ACK_MS = patient
    assert not problems


@pytest.mark.parametrize("wrong", [500, 502, 503, 0])
def test_a_wrong_answer_is_a_problem(wrong: int) -> None:
    seen = mix.Responses()
    seen.statuses["create", 200] += 5
    assert not seen.wrong({200})
    seen.statuses["create", wrong] += 1
    assert seen.wrong({200}) == {f"create {wrong}": 1}
