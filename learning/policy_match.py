"""Matching of logged results with a target policy: probabilities, support, and entries for the reward model."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from learning.estimators.reward_model import PolicyEntries
from learning.scope import Refusal
from learning.target_policy import Floats, Hashes, Integers, PolicyTable, TargetPolicy, UniformPolicy

_ODD = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)


class LoggedKeys(NamedTuple):
    """Query, document and position of shown results: arrays with one entry each."""

    query: Hashes
    document: Hashes
    position: Integers

    def only(self, chosen: npt.NDArray[Any]) -> "LoggedKeys":
        """Return the entries that a mask or an array of indexes chooses."""
        return LoggedKeys(self.query[chosen], self.document[chosen], self.position[chosen])


class MatchedResults(NamedTuple):
    """Policy's view of logged results. Arrays have one entry for each result that is kept."""

    kept: npt.NDArray[np.bool_]
    """Results for whose query and position the policy has probabilities; one entry for each result of the log."""
    probability: Floats
    item: Integers
    """Number of the pair of query and document."""
    context: Integers
    entries: PolicyEntries
    """Probabilities of items that the log shows."""
    unseen_share: float
    """Mean share of the policy's probability on documents that the log never shows for that query and position."""


def match_policy(policy: TargetPolicy, logged: LoggedKeys, most: int) -> MatchedResults:
    """Match results with a policy. Raises Refusal if the policy fits none, and for more than `most` entries."""
    kept = np.ones(len(logged.query), np.bool_)
    if isinstance(policy, PolicyTable):
        kept = np.isin(_contexts(policy, logged), _contexts(policy, policy))
        if not kept.any():
            raise Refusal("the policy has no probabilities for any query and position of the log")
        logged = logged.only(kept)
    _, first, item = np.unique(_mixed(logged.query, logged.document), return_index=True, return_inverse=True)
    items = logged.only(first)
    if isinstance(policy, UniformPolicy):
        context, entries = _uniform(policy, logged, items)
        probability = entries.probability[item]
    else:
        context, entries = _listed(policy, logged, items, most)
        probability = _probabilities(policy, logged)
    unseen_share = round(1 - _seen_share(logged, probability), 12)
    return MatchedResults(kept, probability, item, context, entries, unseen_share)


def _uniform(policy: UniformPolicy, logged: LoggedKeys, items: LoggedKeys) -> tuple[Integers, PolicyEntries]:
    queries, context = np.unique(logged.query, return_inverse=True)
    of_item = np.searchsorted(queries, items.query)
    documents = np.bincount(of_item)
    if policy.documents is not None and documents.max() > policy.documents:
        raise Refusal(
            f"the log shows {documents.max():,} documents for a query, and the policy uniform:{policy.documents} "
            f"has {policy.documents:,}"
        )
    size = documents if policy.documents is None else np.full(len(documents), policy.documents)
    return context, PolicyEntries(of_item, np.arange(len(of_item)), 1 / size[of_item])


def _listed(policy: PolicyTable, logged: LoggedKeys, items: LoggedKeys, most: int) -> tuple[Integers, PolicyEntries]:
    """Join the items with the policy's entries about their document."""
    at_position = logged.position if policy.has_positions else np.zeros_like(logged.position)
    contexts, context = np.unique(_mixed(logged.query, at_position.astype(np.uint64)), return_inverse=True)
    key = _mixed(policy.query, policy.document) if policy.has_queries else policy.document
    wanted = _mixed(items.query, items.document) if policy.has_queries else items.document
    order = np.argsort(key, kind="stable")
    low, high = (np.searchsorted(key[order], wanted, side) for side in ("left", "right"))
    count = high - low
    if count.sum() > most:
        raise Refusal(f"the policy has more than {most:,} probabilities of documents of the log (TALLY_LEARNING_CELLS)")
    item = np.repeat(np.arange(len(wanted)), count)
    entry = order[np.arange(len(item)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(low, count)]
    there = _mixed(items.query[item], policy.position[entry].astype(np.uint64))
    place = np.minimum(np.searchsorted(contexts, there), len(contexts) - 1)
    is_logged = contexts[place] == there
    return context, PolicyEntries(place[is_logged], item[is_logged], policy.probability[entry][is_logged])


def _probabilities(policy: PolicyTable, logged: LoggedKeys) -> Floats:
    """Return the probability of each result, 0 for a document that the policy does not have."""
    key, wanted = (_mixed(_contexts(policy, each), each.document) for each in (policy, logged))
    order = np.argsort(key, kind="stable")
    place = order[np.minimum(np.searchsorted(key[order], wanted), len(key) - 1)]
    return np.where(key[place] == wanted, policy.probability[place], 0.0)


def _contexts(policy: PolicyTable, of: LoggedKeys | PolicyTable) -> Hashes:
    """Return keys of query and position, of which the policy may have both, one or none."""
    none = np.zeros(len(of.query), np.uint64)
    query = of.query if policy.has_queries else none
    return _mixed(query, of.position.astype(np.uint64) if policy.has_positions else none)


def _seen_share(logged: LoggedKeys, probability: Floats) -> float:
    """Return the mean, over the results, of the probability of all documents that the log shows at that place."""
    place = _mixed(logged.query, logged.position.astype(np.uint64))
    _, context = np.unique(place, return_inverse=True)
    _, first = np.unique(_mixed(place, logged.document), return_index=True)
    seen = np.bincount(context[first], probability[first])
    return float(np.minimum(seen[context], 1).mean())


def _mixed(first: Hashes, second: Hashes) -> Hashes:
    """Return one key for a pair of 64-bit numbers (wrapping multiplication, as in splitmix64)."""
    mixed = (first ^ (first >> _SHIFT)) * _ODD + second
    mixed = (mixed ^ (mixed >> _SHIFT)) * _ODD
    found: Hashes = mixed ^ (mixed >> _SHIFT)
    return found
