"""Commits by members only: a worker that its group has expelled commits nothing until it has joined again.

Until then the client has neither member id nor generation. The broker takes a commit without them for one of a tool
outside the group, and accepts it while the group is empty: an old commit in flight could undo a rewind that somebody
has made meanwhile, and the records between would never be read again.
"""

from typing import Any

from aiokafka import AIOKafkaConsumer, __version__
from aiokafka.errors import UnknownMemberIdError
from aiokafka.protocol.commit import OffsetCommitRequest

from runtime.whole_batches import WRITTEN_FOR

_NO_GENERATION = OffsetCommitRequest.DEFAULT_GENERATION_ID


def commit_as_member_only(client: AIOKafkaConsumer) -> None:
    """Let a started client that subscribes refuse to commit while it is in no group, with CommitFailedError.

    A client that is assigned its partitions by hand is such a tool, and continues committing as one. Private parts of
    aiokafka are replaced, so another version than the one this was written for is left as it is.
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
