"""Commands that change a topic in use."""

import asyncio
from typing import Annotated

import typer

from runtime.settings import Settings
from tally.cli.options import AsJson, DataDir, answer_json
from tally.cli.output import out, say
from tally.expand import Expand

app = typer.Typer(help="Change a live topic.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """A group, though it has one command."""


@app.command()
def expand(
    partitions: Annotated[int, typer.Option(help="New partition count; must be a multiple of the current one.", min=2)],
    drain_timeout: Annotated[
        float, typer.Option(help="Seconds to drain before giving up and releasing producers.", min=1, max=86_400)
    ] = 300,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Give the topic more partitions. Events continue to be recognised as duplicates of earlier ones.

    Producers are held meanwhile: the API answers 503 and `emit` raises Unavailable, for as long as the workers need to
    drain the topic, and then for TALLY_DELIVERY_TIMEOUT_MS and 5 s more. Interrupted or failed, run it again.

    Example: tally topic expand --partitions 16
    """
    settings = Settings.load(data_dir).need("kafka", "clickhouse")
    before = asyncio.run(Expand(settings, partitions, drain_timeout_s=drain_timeout, say=say).run())
    if as_json:
        answer_json({"topic": settings.topic, "partitions_before": before, "partitions": partitions})
    else:
        out.print(f"topic {settings.topic}: {before} partitions before, {partitions} now", highlight=False)
