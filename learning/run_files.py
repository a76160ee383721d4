"""Files of rankings and judgments: TREC and JSON.

TREC runs have lines `query Q0 document rank score tag`. Documents are ordered as trec_eval orders them: by score, the
highest first, equal scores by document id, the last in byte order first; ranks are not read. TREC qrels have lines
`query iteration document grade`.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from runtime.errors import TallyError

RUN_COLUMNS = ("query", "Q0", "document", "rank", "score", "tag")
QRELS_COLUMNS = ("query", "iteration", "document", "grade")
MAX_GRADE = 1_000
_FIELD = re.compile(r"[^ \t\r\f\v]+")
"""Text between ASCII white space: a document id may have other spaces."""

Rankings = Mapping[str, Sequence[str]]
"""Documents of each query, best first."""
GradedDocuments = Mapping[str, Mapping[str, int]]
"""Grade of each judged document of each query."""
Queries = TypeVar("Queries", Rankings, GradedDocuments)


class JudgedQueries(NamedTuple):
    """Judgments of a file."""

    grades: GradedDocuments
    inputs: Mapping[str, Any]
    """Input of each query of a dataset by `query_id`, such as {"text": "shoes"}; empty for another file."""


class EvaluationFileError(TallyError):
    """Unusable file of rankings or judgments. The message names the file, and the line or query to change."""

    exit_code = 2


def read_run(path: Path) -> Rankings:
    """Read a run: a TREC file, or JSON `{query: [document, ...]}` or `{query: {document: score}}`."""
    text = read_text(path)
    scores: dict[str, dict[str, float]] = {}
    if text.lstrip().startswith("{"):
        rankings: dict[str, Sequence[str]] = {}
        for query, value in _object(path, text).items():
            if isinstance(value, dict):
                scores[query] = {name: _score(path, query, score) for name, score in value.items()}
                rankings[query] = _ordered(scores[query])
            else:
                rankings[query] = _distinct(path, query, _texts(path, query, value))
        return _nonempty(path, rankings)
    for number, fields in _lines(path, text, RUN_COLUMNS):
        query, _, document, _, score, _ = fields
        found = scores.setdefault(query, {})
        if document in found:
            raise EvaluationFileError(f"{path}:{number}: document {document[:60]!r} is twice in query {query[:60]!r}")
        found[document] = _score(path, f"line {number}", score)
    return _nonempty(path, {query: _ordered(found) for query, found in scores.items()})


def read_qrels(path: Path) -> JudgedQueries:
    """Read judgments: TREC qrels, JSON `{query: {document: grade}}` or `{query: [document, ...]}`, or a dataset.

    A dataset is the JSON of `tally evaluate dataset show NAME --json`; its queries are named by `query_id`.
    """
    text = read_text(path)
    if text.lstrip().startswith("{"):
        return _json_judgments(path, _object(path, text))
    found: dict[str, dict[str, int]] = {}
    for number, (query, _, document, grade) in _lines(path, text, QRELS_COLUMNS):
        judged = found.setdefault(query, {})
        if document in judged:
            raise EvaluationFileError(f"{path}:{number}: document {document[:60]!r} is twice in query {query[:60]!r}")
        judged[document] = _grade(path, f"line {number}", grade)
    return JudgedQueries(_nonempty(path, found), {})


def read_text(path: Path) -> str:
    """Return the text of a file. Raises EvaluationFileError."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise EvaluationFileError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise EvaluationFileError(f"{path}: no UTF-8 at byte {error.start}") from None


def _lines(path: Path, text: str, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield number and fields of each line that is not blank."""
    for number, line in enumerate(text.split("\n"), 1):
        found = _FIELD.findall(line)
        if found and len(found) != len(columns):
            needed = f"{len(columns)} columns are needed ({', '.join(columns)})"
            raise EvaluationFileError(f"{path}: line {number}: {needed}, and it has {len(found)}")
        if found:
            yield number, found


def _object(path: Path, text: str) -> dict[str, Any]:
    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise EvaluationFileError(f"{path}: the key {twice[:60]!r} is twice in one object")
        return found

    try:
        return dict(json.loads(text, object_pairs_hook=distinct))
    except (ValueError, RecursionError) as error:
        raise EvaluationFileError(f"{path}: is not JSON: {str(error)[:200]}") from None


def _json_judgments(path: Path, found: Mapping[str, Any]) -> JudgedQueries:
    if isinstance(found.get("queries"), list):
        return _dataset_judgments(path, found["queries"])
    return JudgedQueries(_nonempty(path, {query: _grades(path, query, value) for query, value in found.items()}), {})


def _dataset_judgments(path: Path, queries: Sequence[Any]) -> JudgedQueries:
    judgments: dict[str, dict[str, int]] = {}
    inputs = {}
    for query in queries:
        if not isinstance(query, dict) or not isinstance(query.get("query_id"), str):
            raise EvaluationFileError(f"{path}: a query of the dataset has no query_id")
        name = query["query_id"]
        if name in judgments:
            raise EvaluationFileError(f"{path}: two queries of the dataset have the query_id {name[:60]!r}")
        relevant = _grades(path, name, query.get("relevant_documents", []))
        judgments[name] = relevant | _grades(path, name, query.get("relevance_scores") or {})
        inputs[name] = query.get("query_input")
    return JudgedQueries(_nonempty(path, judgments), inputs)


def _grades(path: Path, query: str, value: Any) -> dict[str, int]:
    if isinstance(value, dict):
        return {document: _grade(path, query, grade) for document, grade in value.items()}
    return dict.fromkeys(_distinct(path, query, _texts(path, query, value)), 1)


def _grade(path: Path, place: str, value: Any) -> int:
    try:
        grade = int(value) if isinstance(value, str) else value
    except ValueError:
        grade = None
    if isinstance(grade, bool) or not isinstance(grade, int) or abs(grade) > MAX_GRADE:
        raise EvaluationFileError(f"{path}: {place[:60]}: a grade is a whole number from -{MAX_GRADE} to {MAX_GRADE}")
    return grade


def _score(path: Path, place: str, value: Any) -> float:
    try:
        score = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if not math.isfinite(score):
        raise EvaluationFileError(f"{path}: {place[:60]}: the score {str(value)[:40]!r} is not a number")
    return score


def _texts(path: Path, query: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise EvaluationFileError(f"{path}: query {query[:60]!r}: write a list of documents, or an object")
    return value


def _distinct(path: Path, query: str, documents: list[str]) -> list[str]:
    if len(set(documents)) < len(documents):
        twice = next(each for each in documents if documents.count(each) > 1)
        raise EvaluationFileError(f"{path}: document {twice[:60]!r} is twice in query {query[:60]!r}")
    return documents


def _ordered(scores: Mapping[str, float]) -> list[str]:
    by_id = sorted(scores, key=lambda document: document.encode(errors="surrogatepass"), reverse=True)
    return sorted(by_id, key=lambda document: scores[document], reverse=True)


def _nonempty(path: Path, found: Queries) -> Queries:
    if not found:
        raise EvaluationFileError(f"{path}: has no queries")
    return found
