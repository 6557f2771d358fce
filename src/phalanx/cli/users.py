"""`phalanx users`: make, list, disable and enable users, and set their passwords."""

from __future__ import annotations

import sys
import warnings
from getpass import GetPassWarning
from typing import TYPE_CHECKING, Any

import msgspec
import typer

from phalanx.cli.keys import TierName
from phalanx.cli.options import AsJson
from phalanx.cli.pages import AFTER, LIMIT, read_pages
from phalanx.cli.requests import convert
from phalanx.cli.tables import day, print_table
from phalanx.cli.worker import call_here, with_app
from phalanx.contract.users import CreateUserRequest, ListUsersRequest, ListUsersResponse, UpdateUserRequest, UserView
from phalanx.errors import InvalidRequest, NotFound
from phalanx.services.callers.users import normal_email

if TYPE_CHECKING:
    from phalanx.app import App

EMAIL = typer.Argument(help="The user's email.")
FROM_STDIN = typer.Option(False, "--password-stdin", help="Read the password from standard input, not from a terminal.")

app = typer.Typer()


@app.command(epilog="Example: phalanx users create ann@example.org --staff")
def create(
    email: str = EMAIL,
    staff: bool = typer.Option(False, "--staff", help="Let them administer the installation."),
    tier: TierName = typer.Option(TierName.FREE, help="The tier of their own organisation."),
    password_stdin: bool = FROM_STDIN,
) -> None:
    """Make a user, with an organisation of their own, also where SIGNUP is closed."""
    password = _read_password(from_stdin=password_stdin)
    request = convert({"email": email, "password": password, "staff": staff, "tier": tier.value}, CreateUserRequest)
    view: UserView = with_app(lambda app: call_here(app, app.operations["users.create"], request))
    typer.echo(f"{view.email} can log in. Their id is {view.id}.")


@app.command("list", epilog="Example: phalanx users list --json")
def list_users(
    after: str | None = AFTER,
    limit: int | None = LIMIT,
    as_json: AsJson = False,
) -> None:
    """List users, oldest first."""
    users = with_app(lambda app: read_pages(lambda page: _ask(app, page), after=after, limit=limit))
    if as_json:
        typer.echo(msgspec.json.encode(users).decode())
        return
    rows = [(user.email, _state(user), day(user.created_at), user.id) for user in users]
    print_table(("email", "state", "created", "id"), rows, spare=("id", "created"), none="There are no users.")


@app.command(epilog="Example: phalanx users disable ann@example.org")
def disable(email: str = EMAIL) -> None:
    """Keep a user out; all their sessions end within a second."""
    view = _update(email, disabled=True)
    typer.echo(f"{view.email} is disabled; the keys of their organisations go on (phalanx keys revoke).")


@app.command(epilog="Example: phalanx users enable ann@example.org")
def enable(email: str = EMAIL) -> None:
    """Let a disabled user log in again."""
    typer.echo(f"{_update(email, disabled=False).email} can log in again.")


@app.command(epilog="Example: phalanx users password ann@example.org --password-stdin < password.txt")
def password(email: str = EMAIL, password_stdin: bool = FROM_STDIN) -> None:
    """Set a user's password; all their sessions end within a second."""
    view = _update(email, password=_read_password(from_stdin=password_stdin))
    typer.echo(f"{view.email} has a new password.")


def _state(user: UserView) -> str:
    state = "active" if user.disabled_at is None else "disabled"
    return f"{state}, staff" if user.staff else state


def _update(email: str, **changes: Any) -> UserView:
    async def update(app: App) -> UserView:
        wanted = normal_email(email)
        found, _ = await _ask(app, {"email": wanted})
        if not found:
            raise NotFound(f"there is no user {wanted!r}")
        request = convert({"id": found[0].id, **changes}, UpdateUserRequest)
        view: UserView = await call_here(app, app.operations["users.update"], request)
        return view

    return with_app(update)


async def _ask(app: App, fields: dict[str, Any]) -> tuple[list[UserView], str]:
    request = convert(fields, ListUsersRequest)
    answer: ListUsersResponse = await call_here(app, app.operations["users.list"], request)
    return answer.users, answer.next


def _read_password(*, from_stdin: bool) -> str:
    if from_stdin:
        piped = sys.stdin.readline().rstrip("\r\n")
        if not piped:
            raise typer.BadParameter("there is no password in the first line of standard input")
        return piped
    with warnings.catch_warnings():
        warnings.simplefilter("error", GetPassWarning)
        try:
            typed: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        except GetPassWarning:
            typer.echo(err=True)
            raise InvalidRequest("there is no terminal to type it on: pipe it in, and say --password-stdin") from None
    return typed
