"""Rejections of records that are invalid in the log itself: flaws of records, faults of record batches."""

from consumers.record_limits import MOST_HEADERS
from kernels import boundary
from kernels.boundary import BatchFault, Headers, MalformedHeaders, RecordBatches, read_headers
from schemas.rejection import Reason, Rejection

_FLAWS = {
    boundary.MISPLACED: Rejection("bad_record", "offset", "names another offset than its position in its batch"),
    boundary.BAD_TIME: Rejection("bad_record", "timestamp", "lies outside 1970 to 2262"),
    boundary.LARGE: Rejection("too_large", "", "is larger than any event, uncompressed (TALLY_MAX_RECORD_BYTES)"),
    boundary.MANY_HEADERS: Rejection("bad_record", "headers", f"are more than {MOST_HEADERS:,}, and left out here"),
}
_BAD_HEADERS = Rejection("bad_record", "headers", "are not of Kafka's format, and left out here")
_FAULTS = {
    boundary.MALFORMED: "a record is not of Kafka's format",
    boundary.LEFT_OVER: "bytes are left after its last record",
    boundary.DISORDERED: "its records' offsets do not rise within the batch's own",
    boundary.MISCOUNTED: "it cannot have as many records as it states",
    boundary.UNDECODABLE: "it cannot be decompressed",
    boundary.OVERSIZED: "uncompressed it is larger than TALLY_BATCH_UNCOMPRESSED_BYTES",
}


def headers_and_flaw(batches: RecordBatches, start: int, coded: int) -> tuple[Headers, Rejection | None]:
    """Decode the two header columns of a row: the record's headers, and why it cannot be an event."""
    flaw = coded >> boundary.FLAW_SHIFT
    if flaw == boundary.UNREAD:
        return (), _rejection_of(batches.faults[start])
    if flaw == boundary.MANY_HEADERS:
        return (), _FLAWS[flaw]
    try:
        return read_headers(batches.text[start : start + (coded & boundary.SIZE)].tobytes()), _FLAWS.get(flaw)
    except MalformedHeaders:
        return (), _BAD_HEADERS


def _rejection_of(fault: BatchFault) -> Rejection:
    reason: Reason = "batch_too_large" if fault.code == boundary.OVERSIZED else "bad_batch"
    why = f"{_FAULTS[fault.code]} ({fault.detail})" if fault.detail else _FAULTS[fault.code]
    return Rejection(
        reason, "", f"the batch of offsets {fault.first_offset} to {fault.last_offset} cannot be read: {why}"
    )
