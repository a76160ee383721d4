"""Rejections: the closed list of reasons, and a reason with its field and message."""

from typing import Literal, NamedTuple

Reason = Literal[
    "empty",  # no bytes at all
    "tombstone",  # a null value: Kafka's delete marker, which means nothing here
    "not_utf8",  # bytes that are not UTF-8, or an escape that is half of a surrogate pair
    "not_json",  # not RFC 8259, NaN and Infinity included
    "too_deep",  # nests deeper than 32
    "number_out_of_range",  # a number no double can hold, or past the field's bounds
    "not_an_object",
    "unknown_field",
    "missing_field",
    "wrong_type",
    "unknown_interaction_type",
    "too_large",
    "bad_time",
    "bad_id",
    "bad_header",  # a header of Tally's that is not UTF-8, empty, too long or not a number
    "bad_record",  # contradicts the record batch that it is in
    "bad_batch",  # in a record batch that cannot be read
    "batch_too_large",  # in a record batch whose uncompressed size is above the limit
    "conflict",  # fields that contradict one another
    "namespace_held",  # valid; its namespace's reject fuse has tripped (TALLY_REJECT_POLICY=hold)
    "not_moved",  # valid and misplaced; Kafka refuses its copy on the partition of its key
    "refused_by_table",  # valid; ClickHouse refuses the row because of a constraint or a narrower type
    "internal_error",  # processing it raised an unexpected error: a fault of Tally, not of the sender
]


class Rejection(NamedTuple):
    """Reason why a record cannot be stored. `field` is a dotted name, or '' for the value as a whole."""

    reason: Reason
    field: str
    message: str
