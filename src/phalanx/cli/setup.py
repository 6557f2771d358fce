"""`phalanx init`: what a new installation needs."""

from __future__ import annotations

import typer

from phalanx.app import App
from phalanx.app.models import models_to_pull
from phalanx.cli.model_store import pull_model
from phalanx.cli.worker import call_here, read_settings, with_app
from phalanx.contract.keys import ALL_SCOPES, CreateKeyRequest, CreateKeyResponse, ListKeysRequest, ListKeysResponse
from phalanx.errors import PhalanxError
from phalanx.settings import Settings

ADMIN_EMAIL = "admin@localhost"


def init() -> None:
    """Pull the models, make the database and, where there is no key yet, a first admin key. Safe to repeat.

    \b
    Example:
      DATA_DIR=/srv/phalanx phalanx init
    """
    settings = read_settings()
    missing = _pull_models(settings)
    text = with_app(_first_key)
    if text is None:
        typer.echo("Database and keys are in place." if missing else "Models, database and keys are in place.")
        return
    typer.echo("\nYour admin key (tier scale), shown this once:\n")
    typer.secho(f"    {text}", bold=True)
    typer.echo("\nWhen the worker is up, try:\n")
    typer.echo(f"    {_curl(settings, text)}\n")


def _pull_models(settings: Settings) -> list[str]:
    """Pull the models of all services. Returns those that were not to be had; all but the text model can come later."""
    missing = []
    for name in models_to_pull(settings):
        try:
            pull_model(settings, name)
        except PhalanxError as error:
            if name == settings.model_name:
                raise
            missing.append(name)
            typer.secho(f"{name}: {error.detail}", fg="yellow", err=True)
            typer.secho(f"Everything else works without it. Later: phalanx models pull {name}", fg="yellow", err=True)
    return missing


async def _first_key(app: App) -> str | None:
    found: ListKeysResponse = await call_here(app, app.operations["keys.list"], ListKeysRequest())
    if found.keys:
        return None
    request = CreateKeyRequest(email=ADMIN_EMAIL, name="first", tier="scale", scopes=ALL_SCOPES)
    made: CreateKeyResponse = await call_here(app, app.operations["keys.create"], request)
    return made.key


def _curl(settings: Settings, key: str) -> str:
    host = "127.0.0.1" if settings.app_host in ("0.0.0.0", "::") else settings.app_host  # noqa: S104
    url = settings.app_public_url or f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    return (
        f"curl {url}/v1/embed -H 'Authorization: Bearer {key}' "
        "-H 'Content-Type: application/json' -d '{\"text\": \"Hello world\"}'"
    )
