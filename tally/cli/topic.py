"""Commands that change a topic in use."""

import asyncio
from typing import Annotated

import typer

from tally.cli.options import AsJson, DataDir, answer_json, load_settings, needs
from tally.cli.output import out, say

app = typer.Typer(help="Change a live topic.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `expand` a subcommand: typer promotes the only command of a group."""


@app.command()
@needs("worker")
def expand(
    partitions: Annotated[int, typer.Option(help="New partition count; must be a multiple of the current one.", min=2)],
    drain_timeout: Annotated[
        float, typer.Option(help="Seconds to drain before giving up and releasing producers.", min=1, max=86_400)
    ] = 300,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Add partitions to the topic. Duplicates of earlier events are still found.

    Producers are held meanwhile: the API answers 503 and `emit` raises Unavailable until the workers have drained the
    topic, and for TALLY_DELIVERY_TIMEOUT_MS and 5 s more. After an interruption or a failure, run it again.

    Example: tally topic expand --partitions 16
    """
    from tally.expand import Expand

    settings = load_settings(data_dir, "kafka", "clickhouse")
    before = asyncio.run(Expand(settings, partitions, drain_timeout_s=drain_timeout, say=say).run())
    if as_json:
        answer_json({"topic": settings.topic, "partitions_before": before, "partitions": partitions})
    else:
        out.print(f"topic {settings.topic}: {before} partitions before, {partitions} now", highlight=False)
