"""`tally dlq`: list, show and replay dead letters."""

import json
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.errors import TallyError
from schemas.event_time import from_epoch_ms, iso_ms
from schemas.json_bounds import MAX_DEPTH, depth_of_text
from schemas.letter import Letter, Origin
from schemas.rejection import Reason
from tally.cli.options import AsJson, DataDir, answer_json, checked_namespace, load_settings, needs, parse_range
from tally.cli.output import cell, counted, err, out, table

if TYPE_CHECKING:
    from runtime.clickhouse import ClickHouse
    from tally.dead_letters.replay import ReplayProgress

app = typer.Typer(help="Find, show and replay dead letters.", no_args_is_help=True)


def _origin(text: str) -> Origin:
    try:
        return Origin.parse(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not an origin: write topic/partition/offset, as `dlq list` does"
        ) from None


ByReason = Annotated[Reason | None, typer.Option("--reason", help="Only dead letters of this reason.")]
ByField = Annotated[
    str | None, typer.Option("--field", help="Only dead letters of this field, dotted as the list shows it.")
]
ByNamespace = Annotated[
    str | None, typer.Option("--namespace", help="Only dead letters of this namespace; '' for those of none.")
]
AppendedSince = Annotated[str | None, typer.Option("--since", help="Only records appended at this time or later.")]
AppendedUntil = Annotated[str | None, typer.Option("--until", help="Only records appended before this time.")]


@app.command("list")
@needs("worker")
def list_letters(
    reason: ByReason = None,
    field: ByField = None,
    namespace: ByNamespace = None,
    since: AppendedSince = None,
    until: AppendedUntil = None,
    limit: Annotated[int, typer.Option(help="Maximum dead letters shown; all are counted.", min=0)] = 50,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """List the matching dead letters, and count them by reason.

    Examples:
        tally dlq list --reason wrong_type --since 2026-11-22
        tally dlq list --json --limit 100000
    """
    from tally.answering import asked
    from tally.dead_letters.description import describe
    from tally.dead_letters.reading import Selection, read_letters

    settings = load_settings(data_dir, "kafka")
    selection = Selection(reason, field, namespace, *parse_range(since, until))
    letters = table(
        *("origin", "appended", "namespace", "reason", "field", "message"),
        title=settings.dead_letter_topic_name,
        keep=("origin", "reason", "field", "message", "namespace"),
    )
    counts: Counter[str] = Counter()

    async def run() -> None:
        async with aclosing(read_letters(settings, selection)) as found:
            async for letter in found:
                counts[letter.reason] += 1
                if counts.total() > limit:
                    continue
                if as_json:
                    answer_json(describe(letter))
                else:
                    shown = (letter.namespace, letter.reason, letter.field, letter.message)
                    when = iso_ms(from_epoch_ms(letter.append_ms))
                    letters.add_row(letter.origin, when, *shown)

    asked(settings, ["kafka"], run)
    if not as_json:
        out.print(letters)
        by_reason = ", ".join(f"{name} {count:,}" for name, count in counts.most_common())
        out.print(f"{counted(counts.total(), 'letter')}{': ' if by_reason else ''}{by_reason}", highlight=False)


@app.command()
@needs("worker")
def show(
    origin: Annotated[str, typer.Argument(help="topic/partition/offset of the rejected record.")],
    data_dir: DataDir = None,
) -> None:
    """Show one dead letter as JSON: reason of its rejection, key, value and headers.

    Examples:
        tally dlq show interactions/3/1042
    """
    from tally.answering import asked
    from tally.dead_letters.description import describe
    from tally.dead_letters.reading import Selection, read_letters

    settings = load_settings(data_dir, "kafka")
    wanted = _origin(origin)

    async def find() -> Letter | None:
        async with aclosing(read_letters(settings, Selection(origins=frozenset([wanted])))) as found:
            return await anext(found, None)

    letter = asked(settings, ["kafka"], find)
    if letter is None:
        raise TallyError(f"no dead letter of {wanted} on {settings.dead_letter_topic_name}")
    answer_json(describe(letter))


@app.command("replay")
@needs("worker")
def replay_letters(
    reason: ByReason = None,
    field: ByField = None,
    namespace: ByNamespace = None,
    since: AppendedSince = None,
    until: AppendedUntil = None,
    origin: Annotated[list[str] | None, typer.Option(help="Only the dead letter of this origin; repeatable.")] = None,
    patch: Annotated[
        str | None, typer.Option(help="JSON merge patch (RFC 7396) applied to each value, or @file.")
    ] = None,
    as_namespace: Annotated[
        str | None,
        typer.Option(help="Namespace for all of them, instead of their headers'.", callback=checked_namespace),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate only; put nothing on the topic.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Put dead letters on the topic again if they are valid now, or with the patch. Replaying twice stores once.

    Each keeps its event time and gets a new id, which the outcome of the rejection names as `replayed_as`.

    Examples:
        tally dlq replay --reason wrong_type --patch '{"position": 0}' --dry-run
        tally dlq replay --origin interactions/3/1042 --patch @fix.json
    """
    from tally.answering import queried
    from tally.dead_letters.reading import Selection
    from tally.dead_letters.replay import ReplayProgress, replay

    settings = load_settings(data_dir, "kafka", "clickhouse")
    origins = frozenset(map(_origin, origin or ()))
    selection = Selection(reason, field, namespace, *parse_range(since, until), origins)
    change = _patch(patch)

    if as_namespace and namespace is None and not origins:
        raise typer.BadParameter("needs --namespace or --origin, to select the letters", param_hint="--as-namespace")

    async def run(database: "ClickHouse") -> ReplayProgress:
        done = ReplayProgress()
        steps = replay(settings, database, selection, patch=change, as_namespace=as_namespace, dry_run=dry_run)
        with err.status("reading letters") as progress:
            async with aclosing(steps):
                async for done in steps:
                    progress.update(f"{counted(done.read, 'letter')} read, {done.passing:,} valid now")
        return done

    _report(queried(settings, run, others=["kafka"]), dry_run=dry_run, as_json=as_json)


def _patch(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        written = Path(text[1:]).read_text("utf-8-sig") if text.startswith("@") else text
        depth = depth_of_text(written)
        if depth > MAX_DEPTH:
            raise typer.BadParameter(f"nests {depth} levels, at most {MAX_DEPTH} are allowed", param_hint="--patch")
        found = json.loads(written)
    except OSError as error:
        raise TallyError(f"cannot read {text[1:]}: {error.strerror}") from error
    except ValueError as error:
        raise typer.BadParameter(f"is not JSON: {error}", param_hint="--patch") from None
    if not isinstance(found, dict):
        raise typer.BadParameter('is not a JSON object, such as {"position": 0}', param_hint="--patch")
    return found


def _report(done: "ReplayProgress", *, dry_run: bool, as_json: bool) -> None:
    failing = done.failing.total()
    if as_json:
        passed = "would_pass" if dry_run else "replayed"
        answer_json(
            {
                "letters": done.read,
                passed: done.passing,
                "still_rejected": failing,
                "settled": done.settled,
                "why": dict(done.failing),
            }
        )
        return
    passing = "valid now" if dry_run else "on the topic again"
    settled = f", {done.settled:,} settled before" if done.settled else ""
    line = f"{counted(done.read, 'letter')}: {done.passing:,} {passing}, {failing:,} still rejected{settled}"
    out.print(line, highlight=False)
    for why, count in done.failing.most_common(10):
        out.print(cell(f"  {count:,} {why}"))
