"""A worker that the group has expelled changes none of the group's offsets."""

from typing import Any

import pytest
from aiokafka.protocol.group import LeaveGroupRequest

from consumers.worker import Worker
from runtime import kafka
from tests.crashes import at_failpoint
from tests.lab import Lab, click
from tests.test_backup import rewind
from tests.waiting import eventually_async


async def _expel(worker: Worker) -> None:
    """Remove the worker from its group, and wait until a heartbeat has reported it."""
    assert worker._parts is not None
    coordinator: Any = worker._parts.consumer._coordinator
    await coordinator._send_req(LeaveGroupRequest(coordinator.group_id, coordinator.member_id))

    async def has_noticed() -> bool:
        return bool(coordinator.generation < 0)

    await eventually_async(has_noticed)


async def test_a_commit_in_flight_cannot_undo_a_rewind_once_the_group_has_expelled_the_worker(lab: Lab) -> None:
    """The group is empty then, and offsets may be set back, as after a restore; an old commit must not follow."""
    settings = lab.settings
    await lab.emit(*(click(f"doc-{number}", f"exec-{number}") for number in range(40)))
    worker = Worker(settings, instance=None, until_caught_up=True)
    rewound = dict.fromkeys(range(settings.partitions), 0)
    committed: list[dict[int, int]] = []

    async def rewind_before_the_commit(name: str) -> None:
        if name == "recorded" and not committed:
            await _expel(worker)
            await rewind(settings, rewound)
        if name == "committed" and not committed:
            async with kafka.admin(settings) as admin:
                committed.append(await kafka.committed_offsets(admin, settings.group, settings.topic))

    with at_failpoint(rewind_before_the_commit):
        counts = await worker.run()
    assert committed == [rewound]
    assert counts.already_recorded == await lab.count("interactions") == 40, "it joined again, and read all of it again"


@pytest.mark.parametrize("version", ["0.13.0", "0.15.1"])
def test_an_unknown_client_version_is_not_patched(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a client is replaced whose private parts may differ."""
    from runtime import membership

    client: Any = object()
    monkeypatch.setattr(membership, "__version__", version)
    membership.commit_as_member_only(client)
