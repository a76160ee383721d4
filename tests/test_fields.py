"""Table of fields: every list of fields is derived from it."""

from kernels.scan_event import NUMBER_FIELDS, SPAN_FIELDS
from readers.filters import FILTER_FIELDS
from schemas.record import InteractionRecord
from schemas.tables import ERASED_COLUMNS, KEPT_COLUMNS, PUBLIC_COLUMNS
from schemas.wire import ACCEPTED_KEYS


def test_the_derived_lists_are_those_that_were_written_out() -> None:
    fields = (
        "feature_id interaction_type position metadata user_id session_id execution_id retriever_id query_snapshot "
        "document_score result_set_size feature_uri occurred_at"
    )
    assert tuple(f"interaction_id {fields} timestamp".split()) == PUBLIC_COLUMNS
    assert tuple(f"document_id {fields} interaction_id".split()) == ACCEPTED_KEYS
    added = "interaction_id deduplicated timestamp warning"
    assert list(InteractionRecord.model_fields) == f"{fields} {added}".split()
    kept = "namespace interaction_id feature_id interaction_type execution_id timestamp"
    internal = "_event_time_ms _idempotency_key _keyed _topic _partition _offset"
    assert tuple(f"{kept} {internal}".split()) == KEPT_COLUMNS
    nulls = "user_id session_id retriever_id document_score result_set_size feature_uri occurred_at"
    assert {
        "position": "0",
        "metadata": "''",
        "query_snapshot": "''",
        **dict.fromkeys(nulls.split(), "NULL"),
    } == ERASED_COLUMNS
    texts = "feature_id user_id session_id execution_id retriever_id feature_uri"
    assert tuple(f"{texts} document_score metadata query_snapshot".split()) == SPAN_FIELDS
    assert NUMBER_FIELDS == ("position", "result_set_size", "occurred_at")
    assert {
        **dict.fromkeys(("interaction_id", *texts.split()), "text"),
        **dict.fromkeys(("position", "document_score", "result_set_size"), "number"),
        "interaction_type": "texts",
        "occurred_at": "time",
        "timestamp": "time",
    } == FILTER_FIELDS
