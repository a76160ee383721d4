"""All code is compiled before a worker joins its group, because later it would miss heartbeats."""

import subprocess
import sys

SCRIPT = """
import numba
from consumers.precompile import precompile
from kernels import (
    blake2b,
    claim_index,
    native_columns,
    record_format,
    scan_event,
    scan_fields,
    scan_json,
    scan_keys,
    scan_texts,
)
from tests.validating import all_records
from tests.test_records import batch_of
from consumers.batch import Batch
from consumers.columns import interaction_rows
from consumers.validation import Validation
from consumers.claims.client import Lease
from consumers.claims.owners import make_rows
import numpy as np

def compiled():
    modules = (
        blake2b, claim_index, native_columns, record_format, scan_event, scan_fields, scan_json, scan_keys, scan_texts,
    )
    found = {value for module in modules for value in vars(module).values() if hasattr(value, "signatures")}
    return {(each.__name__, str(signature)) for each in found for signature in each.signatures}

precompile()
before = compiled()
rare = b'{"document_id":"\\\\u00e9","interaction_type":["view"],"position":0,"occurred_at":"2026-01-01 00:00"}'
plain = b'{"feature_id":"f","interaction_type":["click","view"],"position":1,"metadata":{"a":1},"user_id":null}'
values = [rare, plain, b"{}", None]
batches = [batch_of([(1, b"k", value, [("a", b"1")]) for value in values], 3)]
events = Validation("t", "default", 1).validate(Batch(all_records({0: batches, 1: batches}))).events
assert len(events) == 4
interaction_rows("t", events[np.array([True, False, True, True])])
interaction_rows("t", events[1:3])
lease = Lease(0, b"", b"", 0, True, 0, 0)
for start in range(0, 40_000, 8_000):
    lease.add(start, events.rows[np.zeros(8_000, np.int64)], 1_000)
    lease.index.find(np.arange(1, 9, dtype=np.uint32))
print(sorted(compiled() - before))
"""


def test_nothing_is_compiled_after_precompilation() -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "[]"
