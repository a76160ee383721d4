"""All commands. Importing them loads no store's client and nothing compiled: each command imports what it uses."""

from importlib.metadata import version
from typing import Annotated

import typer

from tally.cli import (
    ask,
    audit,
    connect,
    counts,
    dlq,
    evaluate,
    export,
    feed,
    interleaving,
    judgments,
    keys,
    learning_config,
    policy,
    propensities,
    replay,
    report,
    run,
    simulate,
    sql,
    status,
    tail,
    training,
    weight_history,
    weights,
    whatif,
)
from tally.cli.output import out

app = typer.Typer(
    help="Search interactions through Kafka into ClickHouse, with every accepted event accounted for.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"tally {version('tally-server')}", highlight=False)
        raise typer.Exit


@app.callback()
def _tally(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


for run_command in (run.up, run.init, run.consume, run.serve):
    app.command(rich_help_panel="Run")(run_command)
app.command("emit", rich_help_panel="Produce")(feed.emit)
app.command("simulate", rich_help_panel="Produce")(simulate.simulate)
imports = typer.Typer(help="Import published logs.", no_args_is_help=True)
imports.command("open-bandit")(feed.open_bandit)
app.add_typer(imports, name="import", rich_help_panel="Produce")
for ask_command in (ask.lookup, tail.tail, report.report, sql.sql, status.status, connect.connect, audit.audit):
    app.command(rich_help_panel="Query")(ask_command)
app.command(rich_help_panel="Run")(run.capacity)
export.app.command()(training.training)
export.app.command()(training.verify)
app.add_typer(export.app, name="export", rich_help_panel="Query")
learn = typer.Typer(help="Learn from stored events, with intervals.", no_args_is_help=True)
learn.command("propensities")(propensities.propensities)
learn.command("judgments")(judgments.judgments)
learn.command("counts")(counts.counts)
learn.command("weight-history")(weight_history.weight_history)
learn.command("session-use")(weight_history.session_use)
learn.add_typer(learning_config.app, name="config")
learn.command("interleaving")(interleaving.interleaving)
learn.command("whatif")(whatif.whatif)
learn.add_typer(weights.app, name="weights")
app.add_typer(learn, name="learn", rich_help_panel="Learn")
evaluate.app.command()(policy.policy)
app.add_typer(evaluate.app, name="evaluate", rich_help_panel="Learn")
app.add_typer(keys.app, name="keys", rich_help_panel="Run")
app.add_typer(run.topic, name="topic", rich_help_panel="Run")
app.add_typer(dlq.app, name="dlq", rich_help_panel="Repair")
app.command(rich_help_panel="Repair")(replay.replay)
