"""Why an event was rejected: the closed list of reasons, and the value that carries one."""

from typing import Literal, NamedTuple

Reason = Literal[
    "empty",  # no bytes at all
    "tombstone",  # a null value: Kafka's delete marker, which means nothing here
    "not_utf8",  # bytes that are no UTF-8, or an escape that is half a surrogate pair
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
    "bad_header",  # of ours, and not UTF-8, empty, too long or no number
    "bad_record",  # contradicts the record batch that it is in
    "bad_batch",  # a record batch that cannot be read: nobody knows what is at its offsets
    "batch_too_large",  # the same, for what it would take uncompressed
    "conflict",  # fields that contradict one another
    "namespace_held",  # valid, and held because most of what its namespace sent was not (TALLY_REJECT_POLICY=hold)
    "not_moved",  # valid and misplaced, and Kafka does not take its copy on the partition of its key
    "refused_by_table",  # valid here, and still ClickHouse will not take the row: a constraint, a narrower type
    "internal_error",  # processing the record raised an unexpected error: a fault of Tally's, not of its sender
]


class Rejection(NamedTuple):
    """An event that is not stored. `field` is dotted, or empty when the value as a whole is at fault."""

    reason: Reason
    field: str
    message: str
