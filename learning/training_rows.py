"""Results with their labels, from the events of executions: pure functions over arrays."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from learning.training_request import TrainingRequest
from schemas.rewards import GRADE_THRESHOLDS, MICROS

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class ShownResults(NamedTuple):
    """Results of consecutive executions, in their order. Arrays have one entry for each result, unless noted."""

    executions: pa.StringArray
    """One for each execution."""
    queries: pa.StringArray
    """One for each execution."""
    began_ms: Integers
    """Time of the first impression of each execution."""
    execution: Integers
    """Index of the result's execution."""
    document: pa.StringArray
    shown_ms: Integers
    """Time of the first impression in milliseconds since 1970."""
    position: Integers
    segment: pa.StringArray
    is_clicked: Flags
    reward: Integers
    """Sum of the rewards in millionths."""
    highest: Integers
    """Highest reward of one event in millionths; 0 without a positive one."""
    features: Sequence[pa.DoubleArray]

    def only(self, kept: Flags) -> "ShownResults":
        """Return the results that are kept. Executions without one remain in the arrays of executions."""
        mask = pa.array(kept)
        return self._replace(
            execution=self.execution[kept],
            document=self.document.filter(mask),
            shown_ms=self.shown_ms[kept],
            position=self.position[kept],
            segment=self.segment.filter(mask),
            is_clicked=self.is_clicked[kept],
            reward=self.reward[kept],
            highest=self.highest[kept],
            features=[feature.filter(mask) for feature in self.features],
        )


def results_of(batch: pa.RecordBatch, horizon_ms: int) -> ShownResults:
    """Return the results of a batch of executions, sorted by execution, position and document.

    The batch has the columns of `learning.training_sql.select_events`: the events of an execution are sorted by
    document, its impressions first, by time. The first impression gives time, position, segment and features. Clicks
    and rewards are those of events from its time up to, including, `horizon_ms` later. A document without an
    impression is no result.
    """
    columns: Mapping[str, Any] = dict(zip(batch.schema.names, batch.columns, strict=True))
    documents = columns["document"]
    counts = pc.list_value_length(documents).to_numpy(zero_copy_only=False).astype(np.int64)
    execution = np.repeat(np.arange(len(counts)), counts)
    document, is_other, ms, reward, is_click = (
        columns[name].flatten() for name in ("document", "is_other", "ms", "reward", "is_click")
    )
    starts = _starts(execution, document)
    times, rewards = ms.to_numpy(), reward.to_numpy()
    result = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(times))))
    delay_ms = times - times[starts][result]
    counts_for_label = (delay_ms >= 0) & (delay_ms <= horizon_ms)
    counted = np.where(counts_for_label, rewards, 0)
    is_clicked = _reduced(np.logical_or, counts_for_label & is_click.to_numpy().astype(np.bool_), starts)
    total, highest = _reduced(np.add, counted, starts), _reduced(np.maximum, np.maximum(counted, 0), starts)

    position = columns["position"].flatten()
    kept = np.flatnonzero(is_other.to_numpy()[starts] == 0)
    first = starts[kept]
    order = np.lexsort((position.to_numpy()[first], execution[first]))  # stable: by document last
    kept, first = kept[order], first[order]
    at = pa.array(first)
    return ShownResults(
        columns["execution"],
        columns["query"],
        columns["began_ms"].to_numpy(),
        execution[first],
        document.take(at),
        times[first],
        position.to_numpy()[first].astype(np.int64),
        columns["segment"].flatten().take(at),
        is_clicked[kept].astype(np.bool_),
        total[kept],
        highest[kept],
        [columns[name].flatten().take(at) for name in columns if name[0] == "f" and name[1:].isdigit()],
    )


def _starts(execution: Integers, document: pa.StringArray) -> Integers:
    """Return the index of the first event of each (execution, document)."""
    if not len(execution):
        return np.empty(0, np.int64)
    is_first = np.ones(len(execution), np.bool_)
    is_other_document = pc.not_equal(document[1:], document[:-1]).to_numpy(zero_copy_only=False)
    is_first[1:] = (execution[1:] != execution[:-1]) | is_other_document
    return np.flatnonzero(is_first)


def _reduced(function: np.ufunc, values: npt.NDArray[np.generic], starts: Integers) -> Integers:
    return function.reduceat(values, starts) if len(starts) else np.empty(0, np.int64)


def grades_of(highest: Integers) -> Integers:
    """Return the grade, 0 to 4, of each highest reward in millionths (`schemas.rewards.GRADE_THRESHOLDS`)."""
    reached = np.searchsorted(np.array([round(each * MICROS) for each in GRADE_THRESHOLDS]), highest, side="right")
    return np.where(highest > 0, 1 + reached, 0)


def propensities_of(curves: Mapping[str, Mapping[int, float]], segment: pa.StringArray, position: Integers) -> Floats:
    """Return the propensity of each result's position in its segment; NaN where it is unknown."""
    found = np.full(len(position), np.nan)
    for name, values in curves.items():
        if not values:
            continue
        known = np.array(sorted(values))
        place = np.minimum(np.searchsorted(known, position), len(known) - 1)
        value = np.array([values[each] for each in known.tolist()])[place]
        is_of = pc.equal(segment, pa.scalar(name)).to_numpy(zero_copy_only=False) & (known[place] == position)
        found[is_of] = value[is_of]
    return found


def weights_of(propensity: Floats, is_clicked: Flags, execution: Integers, clip: float) -> Floats:
    """Return the weight of each result: the mean of min(1 / propensity, clip) over the clicks of its execution.

    With one click this is the query weight of Wang et al., 2018, "Position Bias Estimation for Unbiased Learning to
    Rank in Personal Search": each pair of a clicked and another result counts 1 / propensity of the click, as in
    Joachims, Swaminathan and Schnabel, 2017, "Unbiased Learning-to-Rank with Biased Feedback". With several clicks the
    mean is an approximation. An execution without a click has weight 1.

    `execution`: index of each result's execution, from 0.
    """
    executions = int(execution.max(initial=-1)) + 1
    clicks = np.bincount(execution[is_clicked], minlength=executions)
    total = np.bincount(execution[is_clicked], 1 / np.maximum(propensity[is_clicked], 1 / clip), executions)
    return np.where(clicks > 0, total / np.maximum(clicks, 1), 1.0)[execution]


class TrainingRows(NamedTuple):
    """Rows of a training set, and the results that they are made of."""

    results: ShownResults
    table: pa.Table
    unknown: int
    """Results at a position without a propensity, if propensities were given."""


def training_rows(results: ShownResults, request: TrainingRequest) -> TrainingRows:
    """Return the rows of results. Label `ips` leaves out those at a position whose propensity is unknown.

    All results of such a position are left out, clicked or not. A weight of 0 would not do that: the rank objectives
    of LightGBM still compare other results with them.
    """
    propensity = propensities_of(request.propensities(), results.segment, results.position)
    is_unknown = np.isnan(propensity)
    unknown = int(is_unknown.sum()) if request.curves else 0
    if request.label == "ips" and unknown:
        results, propensity = results.only(~is_unknown), propensity[~is_unknown]
    return TrainingRows(results, _table(results, request, propensity), unknown)


def _table(results: ShownResults, request: TrainingRequest, propensity: Floats) -> pa.Table:
    """Return the columns of a training set. Texts of executions are dictionaries: each is held once."""
    label: pa.Array[Any]
    if request.label == "reward":
        label = pa.array(results.reward / MICROS)
    elif request.label == "graded":
        label = pa.array(grades_of(results.highest).astype(np.int32))
    else:
        label = pa.array(results.is_clicked.astype(np.int32))
    is_ips = request.label == "ips"
    weight = (
        weights_of(propensity, results.is_clicked, results.execution, request.clip)
        if is_ips
        else np.ones(len(propensity))
    )
    is_validation = results.began_ms[results.execution] >= request.validation_from_ms
    index = results.execution.astype(np.int32)
    columns: dict[str, pa.Array[Any]] = {
        "qid": pa.DictionaryArray.from_arrays(index, results.executions),
        "query": pa.DictionaryArray.from_arrays(index, results.queries),
        "document": results.document,
        "shown_at": pa.array(results.shown_ms).cast(pa.timestamp("ms", tz="UTC")),
        "position": pa.array(results.position.astype(np.int32)),
        **({"segment": results.segment} if request.scope.segment_path else {}),
        "label": label,
        "reward": pa.array(results.reward / MICROS),
        "propensity": pa.array(propensity, mask=np.isnan(propensity)),
        "weight": pa.array(weight),
        "split": pa.DictionaryArray.from_arrays(is_validation.astype(np.int32), ["train", "validation"]),
        **dict(zip(request.features, results.features, strict=True)),
    }
    return pa.table(columns)
