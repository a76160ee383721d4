"""Views for analysts. Their parameters are a namespace and a range of `timestamp` (the append time).

Each view reads FINAL within the range: a row that was inserted twice counts once, and a day's query reads a day.
Click-through follows Joachims et al. (2005): a shown result was clicked or was not. Each type counts once for an
execution and feature, and clicks without a recorded impression are counted apart.
"""

_RANGE = "namespace = {namespace:String} AND timestamp >= {since:DateTime64(3)} AND timestamp < {until:DateTime64(3)}"

_RESULTS = f"""
SELECT
    coalesce(execution_id, interaction_id) AS execution,
    feature_id,
    max(has(interaction_type, 'impression')) AS shown,
    max(has(interaction_type, 'click')) AS clicked,
    if(shown, minIf(position, has(interaction_type, 'impression')), min(position)) AS place,
    any(retriever_id) AS retriever
FROM interactions FINAL
WHERE {_RANGE}
GROUP BY execution, feature_id
HAVING shown OR clicked
"""

_CLICK_THROUGH = """
    countIf(shown) AS impressions,
    countIf(shown AND clicked) AS clicks,
    countIf(clicked AND NOT shown) AS clicks_without_impression,
    if(impressions = 0, NULL, clicks / impressions) AS click_through
"""

VIEWS: dict[str, str] = {
    "click_through_by_position": f"""
CREATE OR REPLACE VIEW click_through_by_position AS
SELECT place AS position, {_CLICK_THROUGH}
FROM ({_RESULTS}) GROUP BY position ORDER BY position
""",
    "click_through_by_retriever": f"""
CREATE OR REPLACE VIEW click_through_by_retriever AS
SELECT retriever AS retriever_id, {_CLICK_THROUGH}
FROM ({_RESULTS}) GROUP BY retriever_id ORDER BY impressions DESC, retriever_id
""",
    "counts_by_type_and_hour": f"""
CREATE OR REPLACE VIEW counts_by_type_and_hour AS
SELECT toStartOfHour(coalesce(occurred_at, timestamp)) AS hour, type, count() AS interactions
FROM interactions FINAL ARRAY JOIN arrayDistinct(interaction_type) AS type
WHERE {_RANGE}
GROUP BY hour, type ORDER BY hour, interactions DESC, type
""",
    "verdicts_by_hour": f"""
CREATE OR REPLACE VIEW verdicts_by_hour AS
SELECT
    toStartOfHour(timestamp) AS hour,
    countIf(verdict = 'stored') AS stored,
    countIf(verdict = 'duplicate') AS duplicates,
    countIf(verdict = 'rejected') AS rejected,
    countIf(verdict = 'moved') AS moved,
    if(count() = moved, 0, duplicates / (count() - moved)) AS duplicate_rate,
    if(count() = moved, 0, rejected / (count() - moved)) AS rejection_rate
FROM (
    SELECT timestamp, 'stored' AS verdict FROM interactions FINAL WHERE {_RANGE}
    UNION ALL
    SELECT timestamp, CAST(verdict, 'String') AS verdict FROM outcomes FINAL WHERE {_RANGE}
)
GROUP BY hour ORDER BY hour
""",
}
