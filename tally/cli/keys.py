"""`tally keys`."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from runtime.errors import TallyError
from runtime.http.keys import MAX_TOKEN_LIFE_S, SCOPES, PageToken, Scope, hash_of, key_id_of
from tally.cli.options import AsJson, DataDir, answer_json, checked_namespace, load_settings, needs
from tally.cli.output import cell, out, say, table

if TYPE_CHECKING:
    from runtime.http.key_store import KeyStore

Answer = TypeVar("Answer")

app = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)


def _scopes(text: str) -> list[Scope]:
    named = [each.strip() for each in text.split(",")]
    found = [scope for scope in SCOPES if scope in named]
    if unknown := sorted(set(named) - set(SCOPES)):
        raise typer.BadParameter(f"{', '.join(unknown)!r}: known are {', '.join(SCOPES)}", param_hint="--scopes")
    return found


def _namespaces(text: str) -> list[str]:
    from schemas.wire import check_namespace

    try:
        return [check_namespace(each.strip()) for each in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--namespaces") from None


def _with_store(data_dir: Path | None, ask: "Callable[[KeyStore], Awaitable[Answer]]") -> Answer:
    from runtime.http.key_store import KeyStore
    from tally.answering import queried

    return queried(load_settings(data_dir, "clickhouse"), lambda database: ask(KeyStore(database)))


@app.command()
@needs("worker")
def create(
    name: Annotated[str, typer.Argument(help="Name that tells people who uses the key.")],
    scopes: Annotated[
        str, typer.Option(help="Scopes, separated by commas: write, read, delete, admin.")
    ] = "write,read",
    namespaces: Annotated[
        str, typer.Option(help="Namespaces, separated by commas; the first is the default.")
    ] = "default",
    rate: Annotated[
        int, typer.Option(help="Requests per second; 0 = TALLY_RATE_LIMIT_PER_S.", min=0, max=1_000_000)
    ] = 0,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Create a key. It is shown once; only its hash is stored.

    Examples:
        tally keys create shop-backend --namespaces shop
        tally keys create analyst --scopes read --json
    """
    chosen, spaces = _scopes(scopes), _namespaces(namespaces)
    key_id, key = _with_store(data_dir, lambda store: store.create(name, chosen, spaces, rate))
    if as_json:
        answer_json({"key_id": key_id, "key": key, "scopes": chosen, "namespaces": spaces})
        return
    out.print(cell(key), soft_wrap=True)
    say(f"key {key_id} may {', '.join(chosen)} in {', '.join(spaces)}; it will not be shown again")


@app.command("list")
@needs("worker")
def list_keys(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List all keys, revoked ones included, without their secrets.

    Examples:
        tally keys list --json
    """
    found = _with_store(data_dir, lambda store: store.list())
    if as_json:
        answer_json([each._asdict() for each in found])
        return
    keys = table(
        *("key", "name", "scopes", "namespaces", "rate/s", "created", "revoked"),
        title="Keys",
        keep=("key", "name", "revoked", "scopes", "namespaces"),
    )
    for each in found:
        revoked = f"{each.revoked_at:%Y-%m-%d %H:%M}" if each.revoked_at else ""
        keys.add_row(
            each.key_id,
            each.name,
            ", ".join(each.scopes),
            ", ".join(each.namespaces),
            str(each.rate_per_s or "default"),
            f"{each.created_at:%Y-%m-%d %H:%M}",
            revoked,
        )
    out.print(keys)


@app.command()
@needs("worker")
def revoke(
    key_id: Annotated[str, typer.Argument(help="Key id: the eight characters after tk_.")], data_dir: DataDir = None
) -> None:
    """Revoke a key and the page tokens that it signed, within TALLY_KEYS_REFRESH_MS.

    Examples:
        tally keys revoke 1f2e3d4c
    """
    _with_store(data_dir, lambda store: store.revoke(key_id))
    say(f"key {key_id} is revoked")


@app.command()
def token(
    origin: Annotated[str, typer.Argument(help="Origin of the pages that may use the token: https://shop.example")],
    key: Annotated[
        str, typer.Option(envvar="TALLY_KEY", help="Key that signs the token; prefer the variable TALLY_KEY.")
    ] = "",
    namespace: Annotated[
        str, typer.Option(help="Namespace that the pages write to.", callback=checked_namespace)
    ] = "default",
    seconds: Annotated[
        int, typer.Option("--for", help="Lifetime of the token in seconds.", min=1, max=MAX_TOKEN_LIFE_S)
    ] = 3_600,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Sign a token with which pages of one origin may write, and nothing else. Needs no connection.

    Examples:
        TALLY_KEY=tk_... tally keys token https://shop.example --namespace shop --for 900
    """
    key = key or load_settings(data_dir).api_key.get_secret_value()
    if not key:
        raise TallyError("name the key that signs it: --key, or TALLY_KEY")
    try:
        signed = PageToken.until(key_id_of(key), namespace, origin, seconds).signed(hash_of(key))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="ORIGIN") from None
    if as_json:
        answer_json({"token": signed, "expires_in_s": seconds})
    else:
        out.print(cell(signed), soft_wrap=True)
