"""Tasks end with their owner: nothing continues in the background after it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from consumers.worker import Worker
from producers.producer import Producer
from runtime import tasks
from runtime.errors import Unavailable
from tests.crashes import at_failpoint
from tests.http_lab import EVENT, PATH, api_of, with_key
from tests.lab import Lab, click
from tests.test_packages import MAY_IMPORT

ROOT = Path(__file__).parent.parent
PACKAGES = tuple(f"{ROOT / name}/" for name in MAY_IMPORT)


@contextmanager
def nothing_left() -> Iterator[None]:
    """Fail when the block leaves a task that has not ended."""
    before = asyncio.all_tasks()
    yield
    left = [task.get_coro() for task in asyncio.all_tasks() - before]
    assert [each for each in left if _file_of(each).startswith(PACKAGES)] == []


def _file_of(work: Any) -> str:
    return str(getattr(getattr(work, "cr_code", None), "co_filename", ""))


async def _lose_one_cancellation(ended: list[str]) -> None:
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    try:
        await asyncio.Event().wait()
    finally:
        ended.append("ended")


async def test_a_task_that_loses_a_cancellation_is_cancelled_again() -> None:
    ended: list[str] = []
    task = asyncio.create_task(_lose_one_cancellation(ended))
    await asyncio.sleep(0)
    await tasks.cancel_and_wait(task, None)
    assert (task.done(), ended) == (True, ["ended"])


async def test_the_first_error_of_several_ends_the_others_before_it_is_raised() -> None:
    """As when dead letters are written: a task that outlives the worker would use a closed client."""
    ended: list[str] = []

    async def fail() -> None:
        raise Unavailable("gone")

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    with nothing_left(), pytest.raises(Unavailable, match="gone"):
        await tasks.gather_or_cancel([wait(), fail(), wait()])
    assert ended == ["ended", "ended"]


async def test_the_error_of_a_background_task_is_logged_when_it_happens(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise KeyError("of nobody's")

    async with tasks.running(fail(), "counting"):
        for _ in range(3):
            await asyncio.sleep(0)
        assert "counting failed and is not retried: KeyError" in caplog.text


async def test_a_worker_that_has_caught_up_leaves_no_task(lab: Lab) -> None:
    await lab.put(b"not json")
    await lab.emit(click("a"), click("b"))
    with nothing_left():
        assert (await lab.drain()).stored == 2


async def test_a_worker_that_is_stopped_during_a_batch_leaves_no_task(lab: Lab) -> None:
    """The batch outlasts TALLY_STOP_TIMEOUT_MS: it is cancelled, and has ended when the worker has."""
    await lab.emit(click())
    worker = Worker(lab.settings.model_copy(update={"stop_timeout_ms": 1_000}), instance=None, until_caught_up=False)

    async def stop_and_hang(name: str) -> None:
        if name == "validated":
            worker.stop()
            await asyncio.Event().wait()

    with at_failpoint(stop_and_hang), nothing_left(), pytest.raises(Unavailable, match="TALLY_STOP_TIMEOUT_MS"):
        await worker.run()


async def test_an_api_that_has_stopped_leaves_no_task(lab: Lab) -> None:
    with nothing_left():
        async with api_of(with_key(lab.settings)) as api:
            created = await api.post(PATH, json=EVENT)
            assert created.status_code == 200
            asking = asyncio.create_task(api.get(f"{PATH}/{created.json()['interaction_id']}"))
            await asyncio.sleep(0)
            await tasks.cancel_and_wait(asking)  # a client that leaves while its id is being looked up


async def test_results_that_are_not_read_to_their_end_leave_no_task(lab: Lab) -> None:
    with nothing_left():
        async with Producer(lab.settings) as producer:
            results = producer.emit_many(click(f"doc-{number}") for number in range(50_000))
            await anext(results)
            await results.aclose()  # type: ignore[attr-defined]
