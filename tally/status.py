"""Status of an installation: each store is asked for its part, and one that does not answer hides no other."""

import asyncio
from dataclasses import dataclass, field

from readers.overview import PartitionLag, VerdictCounts, count_verdicts, count_withheld, read_lag
from readers.stuck_now import find_stuck
from runtime import clickhouse
from runtime.errors import TallyError, Unavailable
from runtime.ports import responds_to_http
from runtime.settings import Settings
from runtime.stack_file import StackFile, StackPhase, process_exists
from runtime.stuck import StuckPartition
from tally.answering import configured_stores, faults_of


@dataclass
class Status:
    """Answers of the stores; None where a store did not answer."""

    stack: StackFile | None = None
    partitions: list[PartitionLag] | None = None
    stuck: list[StuckPartition] | None = None
    verdicts: VerdictCounts | None = None
    withheld: dict[str, int] | None = None
    problems: list[str] = field(default_factory=list)
    exit_code: int = 0
    """4 when a store does not answer, 1 for other problems."""

    @property
    def lag(self) -> int | None:
        """Records that are not committed."""
        return None if self.partitions is None else sum(each.lag for each in self.partitions)

    def add(self, problem: TallyError | str) -> None:
        """Add a problem and raise the exit code to it."""
        self.problems.append(str(problem))
        self.exit_code = max(self.exit_code, problem.exit_code if isinstance(problem, Unavailable) else 1)


async def read_status(settings: Settings) -> Status:
    """Ask the stores of these settings, and the processes of the stack if one runs in `settings.data_dir`."""
    status = Status(stack=StackFile.of_running_stack(settings.data_dir))
    faults = await faults_of(settings, *configured_stores(settings))
    for fault in faults.values():
        status.add(fault)
    for store, ask in {"kafka": _ask_log, "clickhouse": _ask_tables}.items():
        if store not in faults:
            try:
                await ask(settings, status)
            except TallyError as error:
                status.add(error)
    for each in status.stuck or ():
        status.add(str(each))
    if status.stack:
        await _ask_stack(status.stack, status)
        if (phase := StackPhase.of(settings.data_dir)) and phase.state == "stopping":
            status.add(f"the stack is stopping (pid {phase.pid})")
    return status


async def _ask_log(settings: Settings, status: Status) -> None:
    status.partitions = await read_lag(settings)
    status.stuck = await find_stuck(settings, status.partitions)


async def _ask_tables(settings: Settings, status: Status) -> None:
    async with clickhouse.connect(settings) as database:
        status.verdicts = await count_verdicts(settings, database)
        status.withheld = await count_withheld(settings, database)


async def _ask_stack(stack: StackFile, status: Status) -> None:
    running = sum(map(process_exists, stack.pids.workers))
    if running < stack.workers:
        status.add(f"{running} of {stack.workers} workers run")
    if not await asyncio.to_thread(responds_to_http, f"{stack.endpoints.api}/v1/health"):
        status.add(f"the API at {stack.endpoints.api} does not answer")
