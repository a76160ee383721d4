"""Faults, injected while a worker waits at its failpoint or has just died there."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING

from tests.chaos.crew import Member

if TYPE_CHECKING:
    from tests.chaos.run import Run

_BRIEFLY_S = (0.02, 0.4)
_PAST_THE_QUERY_TIMEOUT_S = 1.3
_REFUSALS = {252: "TOO_MANY_PARTS", 241: "MEMORY_LIMIT_EXCEEDED", 159: "TIMEOUT_EXCEEDED"}


async def died(run: "Run", member: Member) -> None:
    """crash, kill: it is replaced later like every dead worker."""
    await member.ended(10)


async def stop(run: "Run", member: Member) -> None:
    """Others get its partitions and work them off; then it wakes up and continues where it was."""
    run.crew.start()
    await run.until(run.is_caught_up, 8)
    member.signal(signal.SIGCONT)


async def rebalance(run: "Run", member: Member) -> None:
    """Workers join while it holds a batch; one of them leaves again."""
    first, _second = run.crew.start(), run.crew.start()
    await asyncio.sleep(run.random.uniform(*_BRIEFLY_S))
    member.let_continue()
    await asyncio.sleep(run.random.uniform(*_BRIEFLY_S))
    first.signal(signal.SIGTERM)


async def flush(run: "Run", member: Member) -> None:
    await run.claims.forget()
    member.let_continue()


async def rollback(run: "Run", member: Member) -> None:
    await run.claims.forget()
    await run.claims.restore()
    member.let_continue()


async def cut(run: "Run", member: Member) -> None:
    proxy = run.proxy()
    proxy.refusing = True
    proxy.cut()
    member.let_continue()
    await asyncio.sleep(run.random.uniform(*_BRIEFLY_S))


async def lost_answers(run: "Run", member: Member) -> None:
    run.proxy().lost_answers = run.random.choice((1, 2))
    member.let_continue()
    await asyncio.sleep(_BRIEFLY_S[1])


async def half_requests(run: "Run", member: Member) -> None:
    run.proxy().cut_requests_after = run.random.choice((1, 60, 400, 1_500, 6_000))
    member.let_continue()
    await asyncio.sleep(_BRIEFLY_S[1])


async def late_answers(run: "Run", member: Member) -> None:
    run.proxy().hold_answers()
    member.let_continue()
    await asyncio.sleep(_PAST_THE_QUERY_TIMEOUT_S)


async def late_requests(run: "Run", member: Member) -> None:
    """Let the last request arrive between another worker's lookup of stored rows and its own, larger insert."""
    proxy = run.proxies["clickhouse"]
    held = proxy.hold_requests()
    member.let_continue()
    await asyncio.sleep(_BRIEFLY_S[1])
    run.crew.dismiss(member)
    proxy.pass_requests()
    larger = run.through.model_copy(update={"batch_rows": 4 * run.through.batch_rows})
    heir = run.crew.start(
        settings=larger, instance=member.orders.instance, failpoint="claimed", passes=1, action="tell"
    )
    await heir.met(5)
    held.set()
    await asyncio.sleep(_BRIEFLY_S[1])
    heir.let_continue()


async def error_codes(run: "Run", member: Member) -> None:
    """Return each error code once, or too many parts for inserts during the fault."""
    kinds, proxy = list(_REFUSALS), run.proxies["clickhouse"]
    lasting = run.random.random() < 0.5
    codes = [252] * 500 if lasting else run.random.sample(kinds, len(kinds))
    proxy.canned_for = b"INSERT" if lasting else b""
    proxy.canned += [canned(code, run.random) for code in codes]
    member.let_continue()
    await asyncio.sleep(3 * _BRIEFLY_S[1])


def canned(code: int, random: Random) -> bytes:
    """An error answer of ClickHouse."""
    text = f"Code: {code}. DB::Exception: in this campaign. ({_REFUSALS[code]})".encode()
    head = f"HTTP/1.1 {random.choice((500, 503))} Refused\r\nX-ClickHouse-Exception-Code: {code}\r\n"
    return f"{head}Content-Length: {len(text)}\r\nConnection: close\r\n\r\n".encode() + text


async def slow(run: "Run", member: Member) -> None:
    run.proxy().delay_s = run.random.uniform(0.005, 0.05)
    member.let_continue()
    await asyncio.sleep(_BRIEFLY_S[1])


async def restart(run: "Run", member: Member) -> None:
    """The part is killed, and gone for a while."""
    going = asyncio.create_task(run.restart_part())
    await asyncio.sleep(run.random.uniform(*_BRIEFLY_S))
    member.let_continue()
    await going


FAULTS: dict[str, Callable[["Run", Member], Awaitable[None]]] = {
    "crash": died,
    "kill": died,
    "stop": stop,
    "rebalance": rebalance,
    "flush": flush,
    "rollback": rollback,
    "cut": cut,
    "lost-answers": lost_answers,
    "half-requests": half_requests,
    "late-answers": late_answers,
    "late-requests": late_requests,
    "error-codes": error_codes,
    "slow": slow,
    "restart": restart,
}
