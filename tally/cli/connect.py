"""`tally connect`."""

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.errors import TallyError
from tally.cli.options import AsJson, DataDir, answer_json, load_settings, needs
from tally.cli.output import cell, out

if TYPE_CHECKING:
    from tally.connect import Connections

CLIENTS = (
    *("api", "curl", "clickhouse-client", "clickhouse-connect", "pandas", "polars", "grafana", "jdbc"),
    *("kafka", "kcat", "redis-cli"),
)
"""Names of the examples. `tally.connect` has their texts, and needs the client of ClickHouse."""


@needs("worker")
def connect(
    client: Annotated[str | None, typer.Argument(help=f"Only the example of one of: {', '.join(CLIENTS)}.")] = None,
    show_secrets: Annotated[
        bool, typer.Option("--show-secrets", help="Also print passwords and the API key, as variables of the shell.")
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Show how other programs connect: addresses, users and an example for each client. Nothing is connected.

    Examples read passwords from variables of the shell. Set them: eval "$(tally connect env --show-secrets)"

    Examples:
        tally connect
        tally connect clickhouse-connect > example.py
        tally connect --json --show-secrets
    """
    from runtime.stack_file import StackFile
    from tally.connect import Connections

    if client not in (None, "env", *CLIENTS):
        raise typer.BadParameter(f"{client!r} is not one of env, {', '.join(CLIENTS)}", param_hint="CLIENT")
    settings = load_settings(data_dir)
    stack = StackFile.of_running_stack(settings.data_dir)
    is_embedded = stack is not None and stack.endpoints.clickhouse == settings.clickhouse.get_secret_value()
    found = Connections(settings, api_url=stack.endpoints.api if stack and is_embedded else "")
    if client not in (None, "env", *(each.client for each in found.examples)):
        raise TallyError(f"the address for {client} is not set: TALLY_KAFKA or TALLY_REDIS")
    examples = [each for each in found.examples if client in (None, each.client)]
    if as_json:
        secrets = found.secrets if show_secrets else dict.fromkeys(found.secrets)
        texts = {each.client: each.text for each in examples}
        answer_json({**found.addresses, "environment": secrets, "examples": texts})
        return
    exports = [
        f"export {name}={shlex.quote(secret) if show_secrets else '...'}" for name, secret in found.secrets.items()
    ]
    lines = exports if client == "env" else [each.text for each in examples]
    if client is None:
        hint = "" if show_secrets or not exports else " (add --show-secrets to see them)"
        lines = [*_summary(found), f"\n# passwords that the examples read{hint}", *exports]
        lines += [f"\n# {each.client}: {each.about}\n{each.text}" for each in examples]
    for line in "\n".join(lines).split("\n"):
        out.print(cell(line), soft_wrap=True)


def _summary(found: "Connections") -> Iterator[str]:
    """Yield a line for each store with an address, and for the API."""
    addresses = found.addresses
    clickhouse = addresses["clickhouse"]
    host, port, user = clickhouse["host"], clickhouse["port"], clickhouse["user"]
    rights = "may only read" if clickhouse["read_only"] else "may write: set TALLY_ANALYST to a read-only user"
    yield f"clickhouse  {host}:{port}, database {clickhouse['database']}; user {user} {rights}"
    if kafka := addresses.get("kafka"):
        yield f"kafka       {kafka['bootstrap_servers']}, topic {kafka['topic']}"
    if redis := addresses.get("redis"):
        yield f"redis       {redis['url']}"
    if api := addresses.get("api"):
        yield f"api         {api['url']}, documentation {api['documentation']}"
