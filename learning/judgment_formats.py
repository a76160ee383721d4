"""Formats of judgments: JSON lines, Parquet, TREC qrels, and the published service's evaluation dataset."""

import io
import itertools
import unicodedata
from collections.abc import Iterator
from typing import Any

import msgspec

from learning.estimators.judging import grades_of
from learning.judgments import Judgment, Judgments
from learning.scope import Refusal, ScopeError

ROWS_TOGETHER = 10_000
DATASET_HIGHEST_GRADE = 5
"""Highest relevance score of the published service."""
MAX_DATASET_NAME = 200
"""Largest length of a dataset's name in characters, by the published service."""
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def json_lines(found: Judgments) -> Iterator[bytes]:
    """Yield an object for each judgment, in pieces of whole lines."""
    encoder = msgspec.json.Encoder()
    rows = found.rows()
    while some := list(itertools.islice(rows, ROWS_TOGETHER)):
        yield encoder.encode_lines([row._asdict() for row in some])


def parquet(found: Judgments) -> Iterator[bytes]:
    """Yield a Parquet file with the columns of `Judgment`. The same judgments give the same bytes."""
    import pyarrow  # noqa: PLC0415  (large, and needed for this format alone)
    from pyarrow import parquet as files  # noqa: PLC0415

    text, whole = pyarrow.string(), pyarrow.int64()
    kinds = {"query": text, "document": text, "grade": whole, "impressions": whole, "clicks": whole}
    schema = pyarrow.schema([pyarrow.field(name, kinds.get(name, pyarrow.float64())) for name in Judgment._fields])
    file = io.BytesIO()
    rows = found.rows()
    with files.ParquetWriter(file, schema, compression="zstd") as writer:
        while some := list(itertools.islice(rows, ROWS_TOGETHER)):
            columns = [list(column) for column in zip(*some, strict=True)]
            writer.write_table(pyarrow.table(columns, schema=schema))
            yield file.getvalue()
            file.seek(0)
            file.truncate()
    yield file.getvalue()


def query_ids(found: Judgments) -> dict[str, str]:
    """Return an id for each listed query, q1 and so on in order of the texts."""
    listed = dict.fromkeys(found.counts.query[item] for item in found.order)
    return {found.counts.queries[query]: f"q{number}" for number, query in enumerate(listed, 1)}


def trec_qrels(found: Judgments) -> Iterator[bytes]:
    """Yield lines `QUERY_ID 0 DOCUMENT GRADE`, with ids of `query_ids`. Raises Refusal as `trec_document` does."""
    ids = query_ids(found)
    rows = found.rows()
    while some := list(itertools.islice(rows, ROWS_TOGETHER)):
        lines = (f"{ids[row.query]} 0 {trec_document(row.document)} {row.grade}\n" for row in some)
        yield "".join(lines).encode()


def query_lines(found: Judgments) -> Iterator[bytes]:
    """Yield lines `QUERY_ID<tab>QUERY` for `trec_qrels`. Backslash, tab and line ends are escaped by a backslash."""
    for text, name in query_ids(found).items():
        yield query_line(name, text).encode()


def query_line(name: str, text: str) -> str:
    """Return a line of `query_lines`."""
    return f"{name}\t{text.translate(_ESCAPES)}\n"


def trec_document(document: str) -> str:
    """Return a document id, unchanged, as a field of qrels. Raises Refusal for one that is no field."""
    if document and not any(each.isspace() or unicodedata.category(each) == "Cc" for each in document):
        return document
    raise Refusal(
        f"document {document[:60]!r} is empty, or has white space or a control character, which qrels cannot hold: "
        "choose --format jsonl, parquet or dataset"
    )


def dataset_name(found: Judgments, chosen: str | None) -> str:
    """Return the name of a dataset, by default `RETRIEVER METHOD`. Raises ScopeError for a length that is not valid."""
    name = f"{found.scope.retriever} {found.method}" if chosen is None else chosen
    if not 0 < len(name) <= MAX_DATASET_NAME:
        raise ScopeError("dataset-name", f"the name of a dataset has from 1 to {MAX_DATASET_NAME} characters")
    return name


def evaluation_dataset(found: Judgments, name: str) -> dict[str, Any]:
    """Return the body of the published service's call to create a dataset.

    Scores of rates are whole numbers from 0 to 5, those of graded are its grades. Relevant are documents with a score
    above 0; queries without any are left out. Raises Refusal if none is left.
    """
    scores = dict(zip(found.order, _scores(found), strict=True))
    queries = []
    ids = query_ids(found)
    for query, items in itertools.groupby(found.order, key=lambda item: found.counts.query[item]):
        relevance = {found.counts.documents[item]: scores[item] for item in items}
        relevant = [document for document, score in relevance.items() if score > 0]
        text = found.counts.queries[query]
        if relevant:
            queries.append({
                "query_id": ids[text],
                "query_input": _nested(found.scope.query_path, text),
                "relevant_documents": relevant,
                "relevance_scores": relevance,
            })  # fmt: skip
    if not queries:
        raise Refusal("no query has a document with a score above 0")
    scope = found.scope
    metadata = {
        "retriever_id": scope.retriever,
        "method": found.method,
        "since": scope.since.isoformat(),
        "until": scope.until.isoformat(),
        "notes": list(found.notes),
    }
    return {"dataset_name": name, "queries": queries, "metadata": metadata}


def _scores(found: Judgments) -> list[int]:
    if found.method == "graded":
        return [found.grades[item] for item in found.order]
    query, value = found.counts.query[found.order], found.estimates.value[found.order]
    scores: list[int] = grades_of(query, value, DATASET_HIGHEST_GRADE).tolist()
    return scores


def _nested(path: tuple[str, ...], text: str) -> dict[str, Any]:
    """Return an object with a text at a path."""
    head, *rest = path
    return {head: _nested(tuple(rest), text) if rest else text}
