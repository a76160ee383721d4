"""Table of the naive loop and Quix Streams. It imports nothing, because their environments lack Tally's packages."""

COLUMNS = [
    "interaction_id", "feature_id", "interaction_type", "position", "metadata", "user_id", "session_id",
    "execution_id", "retriever_id", "query_snapshot", "document_score", "result_set_size", "feature_uri",
]  # fmt: skip
CREATE = """
CREATE TABLE {table} (interaction_id String, feature_id String, interaction_type Array(LowCardinality(String)),
position UInt32, metadata String, user_id Nullable(String), session_id Nullable(String), execution_id Nullable(String),
retriever_id LowCardinality(Nullable(String)), query_snapshot String, document_score Nullable(Float64),
result_set_size Nullable(UInt32), feature_uri LowCardinality(Nullable(String)))
ENGINE = MergeTree ORDER BY interaction_id
"""
