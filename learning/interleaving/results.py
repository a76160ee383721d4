"""Result of an experiment: which of two rankings people prefer, and whether the numbers can be trusted."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any, Literal, NamedTuple

from learning.estimators.interleaving import Credit, ShareEstimate, Team, estimate_share
from learning.interleaving.events import DraftClick, DraftParser, DraftRecord, EventCounts, ExperimentScope, read_drafts
from learning.interleaving.tokens import token_verifier
from learning.scope import Refusal
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas.event_time import from_epoch_ms, iso_ms

ALPHA = 0.05
"""Largest p-value of a preference that decides an experiment."""
BROKEN_RATIO_P = 0.001
"""p-value of the sample ratio below which no verdict is given."""
MAX_NAMES = 10
"""Maximum pairs of names that an answer lists."""

ExperimentVerdict = Literal["a", "b", "undecided", "refused"]


class ExperimentResult(NamedTuple):
    """Preference between two rankings, with the checks of the experiment."""

    scope: ExperimentScope
    names: Sequence[tuple[str, str]]
    """Pairs of names of the rankings, most frequent first."""
    drafts: int
    wins: dict[Team, int]
    ties: int
    """Drafts without a click on a result of one team alone."""
    shared_only: int
    """Ties with clicks, all on results in the common beginning of the rankings."""
    preference: ShareEstimate
    """Share of b in the wins."""
    sample_ratio: ShareEstimate
    """Share of drafts in which the first coin named b. The true share is 1/2."""
    verdict: ExperimentVerdict
    problems: Sequence[str]
    """Reasons of a refused verdict."""
    counts: EventCounts
    notes: Sequence[str]

    def described(self) -> dict[str, Any]:
        """Return the result as plain values."""
        invalid = sum(self.counts.invalid.values())
        return {
            "experiment": self.scope.experiment,
            "namespace": self.scope.namespace,
            "since": iso_ms(self.scope.since),
            "until": iso_ms(self.scope.until),
            "interaction_type": self.scope.outcome_type,
            "rankings": [{"a": a, "b": b} for a, b in self.names],
            "drafts": self.drafts,
            "wins_a": self.wins["a"],
            "wins_b": self.wins["b"],
            "ties": self.ties,
            "ties_with_shared_clicks": self.shared_only,
            "preference_for_b": self.preference._asdict(),
            "sample_ratio": self.sample_ratio._asdict(),
            "verdict": self.verdict,
            "problems": list(self.problems),
            "tokens": {
                "events": self.counts.events,
                "invalid": invalid,
                "invalid_share": invalid / self.counts.events if self.counts.events else None,
                "reasons": dict(sorted(self.counts.invalid.items())),
            },
            "notes": list(self.notes),
        }


async def read_result(
    settings: Settings, database: ClickHouse, scope: ExperimentScope, progress: Callable[[int], None] = lambda _: None
) -> ExperimentResult:
    """Count the drafts of an experiment. `progress` receives the number of events read so far.

    Memory: a few numbers, whatever the number of drafts. Raises Refusal without events, and where TALLY_API_KEY signed
    most tokens and is not set; RangeTooLarge; Unavailable.
    """
    parser = DraftParser(scope, await token_verifier(settings, database, scope.namespace))
    names, winners, firsts = Counter[tuple[str, str]](), Counter[Team | None](), Counter[Team]()
    shared_only = 0
    async with aclosing(read_drafts(settings, database, scope, parser)) as pieces:
        async for drafts in pieces:
            for draft in drafts:
                _count_name(names, draft.names)
                winners[draft.winner] += 1
                firsts[draft.first] += 1
                shared_only += draft.winner is None and draft.clicks > 0
            progress(parser.counts.events)
    _check_keys(scope, parser.counts)
    _check_any(scope, parser.counts)
    wins: dict[Team, int] = {"a": winners["a"], "b": winners["b"]}
    drafts_shown = winners.total()
    preference = estimate_share(wins["b"], wins["a"] + wins["b"])
    ratio = estimate_share(firsts["b"], drafts_shown)
    problems = _problems(names, ratio)
    return ExperimentResult(
        *(scope, [pair for pair, _ in names.most_common(MAX_NAMES)], drafts_shown, wins, winners[None], shared_only),
        *(preference, ratio, _verdict(preference, problems), problems, parser.counts, _notes(parser.counts)),
    )


def _count_name(names: Counter[tuple[str, str]], pair: tuple[str, str]) -> None:
    """Count a pair of names; of an experiment with ever new ones, the first MAX_NAMES + 1 alone."""
    if pair in names or len(names) <= MAX_NAMES:
        names[pair] += 1


def _check_keys(scope: ExperimentScope, counts: EventCounts) -> None:
    # Anyone who sends events can name TALLY_API_KEY in a forged token, so a few of these refuse nothing.
    if counts.of_unknown_root > counts.events - counts.invalid.total():
        raise Refusal(
            f"{counts.of_unknown_root:,} events have tokens signed by TALLY_API_KEY, which is not set here, or not for "
            f"namespace {scope.namespace} (TALLY_API_NAMESPACES)"
        )


def _check_any(scope: ExperimentScope, counts: EventCounts) -> None:
    if not counts.events:
        days = f"{scope.since:%Y-%m-%d %H:%M} to {scope.until:%Y-%m-%d %H:%M} UTC"
        raise Refusal(
            f"no event of namespace {scope.namespace} from {days} has a token of experiment "
            f"{scope.experiment[:60]!r} in metadata.interleaving"
        )


def _problems(names: Counter[tuple[str, str]], ratio: ShareEstimate) -> list[str]:
    problems = []
    if ratio.p_value < BROKEN_RATIO_P:
        problems.append(
            f"the first coin named b in {ratio.successes:,} of {ratio.trials:,} drafts (p {ratio.p_value:.2g}), and "
            "half of them are expected: events of some drafts are lost, or drafts were chosen after they were made"
        )
    if len(names) > 1:
        shown = ", ".join(f"{a} and {b}" for (a, b), _ in names.most_common(3))
        problems.append(f"the rankings have several names ({shown}): give each comparison an experiment of its own")
    return problems


def _verdict(preference: ShareEstimate, problems: Sequence[str]) -> ExperimentVerdict:
    if problems:
        return "refused"
    if preference.p_value > ALPHA:
        return "undecided"
    return "b" if 2 * preference.successes > preference.trials else "a"


def _notes(counts: EventCounts) -> list[str]:
    notes = []
    if invalid := counts.invalid.total():
        reasons = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.invalid.items()))
        notes.append(
            f"{invalid:,} of {counts.events:,} events have tokens that do not verify, and are not counted ({reasons})"
        )
    if counts.of_unknown_root:
        notes.append(
            f"{counts.of_unknown_root:,} of these tokens name TALLY_API_KEY, which is not set here or not for the "
            "namespace, as their key"
        )
    if counts.made_before:
        notes.append(f"{counts.made_before:,} drafts are left out: they were made before the range")
    return notes


class DraftFilter(NamedTuple):
    """Drafts of a page: those with an outcome, after the id that a cursor names."""

    outcome: Literal["a", "b", "tie"] | None
    limit: int
    after: str = ""


class DraftPage(NamedTuple):
    """Page of drafts in the order of their ids, and the id to continue after; None at the end."""

    drafts: Sequence[dict[str, Any]]
    next_cursor: str | None


async def list_drafts(
    settings: Settings, database: ClickHouse, scope: ExperimentScope, wanted: DraftFilter
) -> DraftPage:
    """List the drafts of an experiment with the clicks that decided them.

    Raises Refusal where TALLY_API_KEY signed most tokens and is not set; RangeTooLarge; Unavailable.
    """
    parser = DraftParser(scope, await token_verifier(settings, database, scope.namespace))
    found = list[DraftRecord]()
    async with aclosing(read_drafts(settings, database, scope, parser, wanted.after)) as pieces:
        async for drafts in pieces:
            found += [draft for draft in drafts if wanted.outcome in (None, draft.winner or "tie")]
            if len(found) > wanted.limit:
                break
    _check_keys(scope, parser.counts)
    page = found[: wanted.limit]
    following = page[-1].interleaving_id if len(found) > wanted.limit else None
    return DraftPage([_described_draft(draft) for draft in page], following)


def _described_draft(draft: DraftRecord) -> dict[str, Any]:
    return {
        "interleaving_id": draft.interleaving_id,
        "execution_id": draft.execution_id,
        "made_at": _time(draft.issued_ms),
        "first": draft.first,
        "outcome": draft.winner or "tie",
        "decided_by": None if draft.decided_by is None else _described_click(draft.decided_by),
        "other_clicks": [_described_click(click) for click in draft.others],
        "clicks": draft.clicks,
    }


def _described_click(click: DraftClick) -> dict[str, Any]:
    team: Credit = click.token.team
    return {
        **{"interaction_id": click.interaction_id, "execution_id": click.execution_id},
        **{"feature_id": click.feature_id, "position": click.token.position, "team": team},
        "timestamp": _time(click.appended_ms),
    }


def _time(epoch_ms: int) -> str:
    return iso_ms(from_epoch_ms(epoch_ms))
