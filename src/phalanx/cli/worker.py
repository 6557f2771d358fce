"""What commands share: settings with their remarks, and a worker's parts in this process."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from phalanx.settings import Settings, load, log_format

if TYPE_CHECKING:
    from phalanx.app import App
    from phalanx.operations import Operation

T = TypeVar("T")


def read_settings(given: Mapping[str, str] | None = None, otherwise: Mapping[str, str] | None = None) -> Settings:
    """Return the settings; say on stderr what is odd about the environment. Raises `SettingsError`.

    `given` are variables that an option of the command sets, `otherwise` what the command has for defaults.
    """
    loaded = load(given=given, otherwise=otherwise)
    for remark in loaded.remarks:
        typer.secho(remark, fg="yellow", err=True)
    return loaded.settings


def with_app(work: Callable[[App], Awaitable[T]], *, models: bool = False) -> T:
    """Build the worker's parts from the environment, run `work` on them, close them.

    What a worker warns of is no business of a command: what concerns it is raised, and said in words. With LOG_LEVEL=debug
    it is shown all the same.
    """
    settings = read_settings()
    # Here and in `call_here`, since they take a second to read: help, and what is wrong input, are told before.
    import uvloop

    from phalanx.app import build
    from phalanx.telemetry import configure_logs

    level = settings.log_level if settings.log_level in ("trace", "debug") else "error"
    configure_logs(level=level, style=log_format(settings))

    async def run() -> T:
        async with build(settings) as app:
            if models:
                await app.load_models()
            return await work(app)

    return uvloop.run(run())


async def call_here(app: App, operation: Operation, request: Any) -> Any:
    """Call a row as the operator of this machine."""
    from phalanx.operations import call
    from phalanx.services.ticket import Call, Credential

    async def read() -> Any:
        await asyncio.sleep(0)
        return request

    return await call(app.entrance, operation, Call(Credential("operator"), secrets.token_hex(16)), read)
