"""Queries that one file names by text and another by id, and those that all files have."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from learning.estimators.ranking import RankedQuery
from learning.run_files import EvaluationFileError, GradedDocuments, Rankings, read_text
from learning.target_policy import normalized_query

MissingQueries = Literal["refuse", "zero", "skip"]
SHOWN_QUERIES = 5
_ESCAPE = re.compile(r"\\(.?)")
_ESCAPED = {"\\": "\\", "t": "\t", "n": "\n", "r": "\r"}


class ComparedQueries(NamedTuple):
    """Judged queries that count, with their rankings."""

    ids: Sequence[str]
    """Ids in their order."""
    rankings: Sequence[Sequence[RankedQuery]]
    """Ranked queries of each run, in the order of the ids."""
    left_out: int
    """Judged queries that a run lacks, if they are skipped."""


def read_query_names(path: Path) -> Mapping[str, str]:
    """Read lines `QUERY_ID<tab>QUERY`, as `tally learn judgments --queries` writes them.

    Returns the id of each normalised text. Raises EvaluationFileError.
    """
    pairs = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        name, *texts = line.rstrip("\r").split("\t")
        if len(texts) != 1 or not name.strip():
            raise EvaluationFileError(f"{path}: line {number}: 2 columns are needed (id, text), separated by a tab")
        pairs.append((name.strip(), _unescaped(path, number, texts[0])))
    if not pairs:
        raise EvaluationFileError(f"{path}: has no queries")
    return _ids_by_text(path, pairs)


def dataset_query_names(path: Path, inputs: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the `query_id` of each normalised text of a dataset's inputs; inputs without just one text have none."""
    pairs = []
    for name, value in inputs.items():
        texts = list(_texts(value))
        if len(texts) == 1:
            pairs.append((name, texts[0]))
    return _ids_by_text(path, pairs)


def named_by_id(path: Path, run: Rankings, names: Mapping[str, str]) -> Rankings:
    """Return a run, read from `path`, with ids instead of the texts of queries. `names`: id of each normalised text.

    A run of which all queries are named by id is returned as it is. Raises EvaluationFileError if two queries have the
    same id.
    """
    ids = set(names.values())
    if all(query in ids for query in run):
        return run
    found: dict[str, Sequence[str]] = {}
    given: dict[str, str] = {}
    for query, ranking in run.items():
        name = names.get(normalized_query(query), query)
        if name in found:
            raise EvaluationFileError(
                f"{path}: {given[name][:60]!r} and {query[:60]!r} are the same query, {name[:60]!r}"
            )
        found[name], given[name] = ranking, query
    return found


def compared_queries(
    runs: Sequence[tuple[Path, Rankings]], judgments: GradedDocuments, missing: MissingQueries
) -> ComparedQueries:
    """Return the judged queries in order of their ids, with their rankings in each run.

    Queries without judgments are left out. Judged queries that a run lacks are an error (`refuse`), count as empty
    rankings (`zero`), or are left out of all runs (`skip`). Raises EvaluationFileError for them, and for a run that has
    none of the judged queries.
    """
    ids = sorted(judgments)
    for path, run in runs:
        lacking = [query for query in ids if query not in run]
        if len(lacking) == len(ids):
            raise EvaluationFileError(_nothing_in_common(path, run, ids))
        if lacking and missing == "refuse":
            shown = ", ".join(query[:60] for query in lacking[:SHOWN_QUERIES])
            more = f" and {len(lacking) - SHOWN_QUERIES:,} more" if len(lacking) > SHOWN_QUERIES else ""
            raise EvaluationFileError(
                f"{path} has no ranking of {len(lacking):,} of {len(ids):,} judged queries: {shown}{more}; "
                "--missing zero counts them as empty, --missing skip leaves them out"
            )
    kept = [query for query in ids if all(query in run for _, run in runs)] if missing == "skip" else ids
    if not kept:
        raise EvaluationFileError("no judged query is in every run")
    rankings = [[RankedQuery(run.get(query, ()), judgments[query]) for query in kept] for _, run in runs]
    return ComparedQueries(kept, rankings, len(ids) - len(kept))


def _nothing_in_common(path: Path, run: Rankings, ids: Sequence[str]) -> str:
    return (
        f"{path} has none of the {len(ids):,} judged queries: it has {next(iter(run))[:60]!r}, the judgments have "
        f"{ids[0][:60]!r}. Does one file name queries by text and the other by id? Then give --queries, the file that "
        "`tally learn judgments --queries` writes"
    )


def _ids_by_text(path: Path, pairs: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name, text in pairs:
        other = found.setdefault(normalized_query(text), name)
        if other != name:
            raise EvaluationFileError(f"{path}: {other[:60]!r} and {name[:60]!r} have the same text, {text[:60]!r}")
    return found


def _unescaped(path: Path, number: int, text: str) -> str:
    def character(found: re.Match[str]) -> str:
        if found[1] not in _ESCAPED:
            raise EvaluationFileError(f"{path}: line {number}: write a backslash as two of them")
        return _ESCAPED[found[1]]

    return _ESCAPE.sub(character, text)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
