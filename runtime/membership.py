"""Commits by group members only: a worker that its group has expelled commits nothing until it has rejoined.

Until then the client has neither member id nor generation. The broker treats a commit without them as one of a tool
outside the group, and accepts it while the group is empty. So an old commit in flight could undo a manual rewind, and
the records between would never be read again.
"""

from typing import Any

from aiokafka import AIOKafkaConsumer, __version__
from aiokafka.errors import UnknownMemberIdError
from aiokafka.protocol.commit import OffsetCommitRequest

from runtime.whole_batches import WRITTEN_FOR

_NO_GENERATION = OffsetCommitRequest.DEFAULT_GENERATION_ID


def commit_as_member_only(client: AIOKafkaConsumer) -> None:
    """Make a started, subscribed client fail commits with CommitFailedError while it is not a group member.

    A client with manually assigned partitions is such a tool, and still commits. The function replaces private parts
    of aiokafka, so it leaves any other version than WRITTEN_FOR unchanged.
    """
    if not __version__.startswith(WRITTEN_FOR):
        return
    coordinator: Any = client._coordinator
    send = coordinator._do_commit_offsets  # reads the generation and writes the request without an await in between

    async def send_as_member(assignment: Any, offsets: Any) -> None:
        if coordinator.generation == _NO_GENERATION and coordinator._subscription.partitions_auto_assigned():
            raise UnknownMemberIdError(coordinator.group_id)
        await send(assignment, offsets)

    coordinator._do_commit_offsets = send_as_member
