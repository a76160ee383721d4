"""Rounds: one at a time, of everything that has arrived, and each item gets a result."""

import asyncio
from typing import Any, NamedTuple

import pytest

from runtime.rounds import LEAST_PAUSE_S, PAUSE_PER_ITEM_S, Rounds


class Number(NamedTuple):
    """An item."""

    value: int
    future: "asyncio.Future[Any]"


class Served:
    """Rounds that note their items, and wait for a release."""

    def __init__(self, max_items: int = 1_000, max_pause_s: float = 0) -> None:
        self.rounds: list[list[int]] = []
        self.released = asyncio.Event()
        self.queue = Rounds[Number](self._serve, "serving numbers", max_items=max_items, max_pause_s=max_pause_s)

    def add(self, value: int) -> "asyncio.Future[Any]":
        """Add a number; its result is its double."""
        future = asyncio.get_running_loop().create_future()
        self.queue.add(Number(value, future))
        return future

    async def _serve(self, items: list[Number]) -> None:
        self.rounds.append([item.value for item in items])
        await self.released.wait()
        for item in items:
            if item.value == 13:
                raise ZeroDivisionError
            item.future.set_result(2 * item.value)


async def test_items_that_arrive_during_a_round_form_the_next() -> None:
    served = Served(max_items=4)
    first = served.add(1)
    await asyncio.sleep(0)
    others = [served.add(value) for value in range(2, 8)]
    served.released.set()
    assert await asyncio.gather(first, *others) == [2, 4, 6, 8, 10, 12, 14]
    assert served.rounds == [[1], [2, 3, 4, 5], [6, 7]]
    assert await served.add(8) == 16, "it begins again after it was idle"


async def test_an_error_of_a_round_is_the_result_of_its_items_alone() -> None:
    served = Served(max_items=2)
    served.released.set()
    found = await asyncio.gather(*map(served.add, (1, 13, 2)), return_exceptions=True)
    assert found[0] == 2
    assert isinstance(found[1], ZeroDivisionError)
    assert found[2] == 4


async def test_finish_waits_for_everything_and_close_for_nothing() -> None:
    served = Served()
    asyncio.get_running_loop().call_later(0.05, served.released.set)
    future = served.add(1)
    await served.queue.finish()
    assert future.result() == 2
    served.released.clear()
    running, waiting = served.add(2), None
    await asyncio.sleep(0)
    waiting = served.add(3)
    await served.queue.close()
    for each in (running, waiting):
        with pytest.raises(asyncio.CancelledError):
            await each


async def test_items_gather_after_a_round_of_several() -> None:
    together = round(LEAST_PAUSE_S / PAUSE_PER_ITEM_S)
    served = Served(max_pause_s=1)
    served.released.set()
    await asyncio.gather(*map(served.add, range(100, 100 + together - 1)))
    at_once = served.add(1)
    for _ in range(3):
        await asyncio.sleep(0)
    assert at_once.result() == 2, "a round of few items is followed by no pause"
    await asyncio.gather(*map(served.add, range(200, 1_200)))
    later = [served.add(2), served.add(3)]
    for _ in range(3):
        await asyncio.sleep(0)
    later.append(served.add(4))
    assert await asyncio.gather(*later) == [4, 6, 8]
    assert [len(each) for each in served.rounds] == [together - 1, 1, 1_000, 3]


async def test_the_queue_can_be_closed_during_a_pause() -> None:
    served = Served(max_pause_s=3_600)
    served.released.set()
    await asyncio.gather(*map(served.add, range(20, 1_020)))
    waiting = served.add(2)
    await asyncio.sleep(0)
    await served.queue.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert len(served.rounds) == 1
