"""Boundary of the compiled code: the only module of `kernels` that other packages import.

Each function takes a text and positions in it, and returns new arrays. Its docstring is its contract, on top of these
rules for all of them:

- **Text.** A contiguous, read-only array of bytes (uint8), such as `np.frombuffer(some_bytes, np.uint8)` returns. For
  any other kind of array the functions are compiled again, which takes seconds. Positions and sizes are int64 bytes.
- **Slack.** No input needs bytes after its end. Up to 32 bytes at a time are read, but none outside the array.
- **Ownership.** Inputs are neither changed nor kept. Results belong to the caller, and share no memory with inputs
  unless the docstring says so.
- **Trust.** Bytes of texts and of record batches may be anything. Positions, sizes and row numbers must be within
  their arrays: compiled code checks no bounds.
- **Threads.** Compiled loops release the interpreter's lock and share nothing. A `ClaimIndex` belongs to one thread.
- **First call.** It compiles, for seconds, unless the machine code is on disk (`kernels.compiled`).

| area | functions | types and constants |
|---|---|---|
| record batches | `read_batches`, `read_headers` | `RecordBatches`, `BatchFault`, `ReadLimits`, `record_format` |
| events | `scan`, `scan_or_validate`, `select`, `read_text` | `Columns`, `Scanned`, `SPAN_AT`, `NUMBER_AT` |
| keys | `hash_dedup_keys`, `hash_partition_keys` | |
| request bodies | `count_commas`, `split_batch` | |
| records to send | `encode_records` | `OutgoingEvents`, `EncodedRecords` |
| Native columns | `encode_texts`, `encode_ids`, `read_scores` | `TextColumn` |
| claims | | `ClaimIndex`, `Fingerprints`, `SLICE_BITS`, `SLICE_MASK` |
| machine code | `remove_outdated`, `release_compiler` | |

Of `record_format` others use the constants: columns of rows, flaws of records, faults of batches.
"""

from kernels import record_format
from kernels.claim_index import SLICE_BITS, SLICE_MASK, ClaimIndex, Fingerprints
from kernels.compiled import release_compiler, remove_outdated
from kernels.encode_records import EncodedRecords, OutgoingEvents, encode_records
from kernels.native_columns import TextColumn, encode_ids, encode_texts, read_scores
from kernels.record_batches import BatchFault, ReadLimits, RecordBatches, read_batches
from kernels.record_format import Bytes, Headers, Integers, MalformedHeaders, read_headers
from kernels.request_body import count_commas, split_batch
from kernels.scan_event import NUMBER_AT, SPAN_AT, Columns, read_text, select
from kernels.scan_keys import hash_dedup_keys, hash_partition_keys
from kernels.scanner import Scanned, scan, scan_or_validate
