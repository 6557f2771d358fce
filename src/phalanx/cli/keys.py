"""`phalanx keys`: create, list, rotate and revoke API keys."""

from __future__ import annotations

import enum
import time
from typing import TYPE_CHECKING, Any

import msgspec
import typer

from phalanx.cli.options import AsJson
from phalanx.cli.pages import AFTER, LIMIT, read_pages
from phalanx.cli.requests import convert
from phalanx.cli.tables import day, print_table
from phalanx.cli.worker import call_here, with_app
from phalanx.contract.keys import (
    ALL_SCOPES,
    DEFAULT_SCOPES,
    CreateKeyRequest,
    CreateKeyResponse,
    KeyView,
    ListKeysRequest,
    ListKeysResponse,
    RevokeKeyRequest,
    RotateKeyRequest,
)

if TYPE_CHECKING:
    from phalanx.app import App

SCOPES_HELP = f"May be given several times: {', '.join(ALL_SCOPES)}."
MAX_GRACE_S = 30 * 86_400
DEFAULT_SCOPE_LIST: list[str] = list(DEFAULT_SCOPES)

app = typer.Typer()


class TierName(enum.StrEnum):
    """The tiers that can be sold."""

    FREE = "free"
    PRO = "pro"
    SCALE = "scale"


@app.command(epilog="Example: phalanx keys create ann@example.org --tier pro --name laptop --scope text")
def create(
    email: str = typer.Argument(help="Whose key it is."),
    tier: TierName | None = typer.Option(None, help="What the key may use; as its organisation's keys unless given."),
    name: str = typer.Option("default", help="A name to know the key by."),
    scope: list[str] = typer.Option(DEFAULT_SCOPE_LIST, help=SCOPES_HELP),
    days: int | None = typer.Option(None, min=1, max=3650, help="Days until the key expires; never unless given."),
    organisation: str | None = typer.Option(
        None, help="Whose calls it makes, by id; the one named as EMAIL unless given."
    ),
    as_json: AsJson = False,
) -> None:
    """Create a key and print it, this once."""
    fields = {
        "email": email, "tier": tier and tier.value, "name": name, "scopes": scope, "expires_in_days": days,
        "organisation": organisation,
    }  # fmt: skip
    request = convert(fields, CreateKeyRequest)
    answer: CreateKeyResponse = with_app(lambda app: call_here(app, app.operations["keys.create"], request))
    _show(answer, as_json=as_json)


@app.command("list", epilog="Example: phalanx keys list --organisation ann@example.org")
def list_keys(
    organisation: str | None = typer.Option(None, help="Show the keys of one organisation only."),
    after: str | None = AFTER,
    limit: int | None = LIMIT,
    as_json: AsJson = False,
) -> None:
    """List keys, oldest first."""

    async def ask(app: App, page: dict[str, Any]) -> tuple[list[KeyView], str]:
        request = convert({"organisation": organisation, **page}, ListKeysRequest)
        answer: ListKeysResponse = await call_here(app, app.operations["keys.list"], request)
        return answer.keys, answer.next

    keys = with_app(lambda app: read_pages(lambda page: ask(app, page), after=after, limit=limit))
    if as_json:
        typer.echo(msgspec.json.encode(keys).decode())
        return
    rows = [
        (key.id, f"{key.hint}…", key.email, key.name, key.tier, _scopes(key), day(key.created_at), _state(key))
        for key in keys
    ]
    head = ("id", "key", "email", "name", "tier", "scopes", "created", "state")
    none = f"There are no keys{f' of {organisation}' if organisation else ''}."
    print_table(head, rows, spare=("created", "key", "scopes", "tier", "name"), none=none)


@app.command(epilog="Example: phalanx keys revoke 019a6f0e-5c1b-7000-8000-3f6b1f4e9a11")
def revoke(key_id: str = typer.Argument(help="The key's id, as `phalanx keys list` shows it.")) -> None:
    """Revoke a key; running workers refuse it within a second."""
    request = convert({"id": key_id}, RevokeKeyRequest)
    view: KeyView = with_app(lambda app: call_here(app, app.operations["keys.revoke"], request))
    typer.echo(f"The key {view.hint}… ({view.name}) of {view.email} is revoked.")


@app.command(epilog="Example: phalanx keys rotate 019a6f0e-5c1b-7000-8000-3f6b1f4e9a11 --grace-seconds 3600")
def rotate(
    key_id: str = typer.Argument(help="The key's id, as `phalanx keys list` shows it."),
    grace_seconds: int = typer.Option(0, min=0, max=MAX_GRACE_S, help="Seconds for which the old key goes on."),
    as_json: AsJson = False,
) -> None:
    """Replace a key by one that can do the same, and print it, this once."""
    request = convert({"id": key_id, "grace_seconds": grace_seconds}, RotateKeyRequest)
    _show(with_app(lambda app: call_here(app, app.operations["keys.rotate"], request)), as_json=as_json)


def _show(answer: CreateKeyResponse, *, as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode(answer).decode())
        return
    typer.secho(answer.key, bold=True)
    typer.echo("Keep it: it is not stored and cannot be shown again.", err=True)


def _scopes(key: KeyView) -> str:
    return "all" if set(key.scopes) == set(ALL_SCOPES) else " ".join(key.scopes)


def _state(key: KeyView) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= time.time() else "active"
