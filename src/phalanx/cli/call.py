"""`phalanx call`: any row of the table from the command line, in this process."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import typer

from phalanx.app import App
from phalanx.app.models import Kind as ModelKind
from phalanx.cli.worker import call_here, with_app
from phalanx.contract.vector import render_array
from phalanx.errors import InvalidRequest, NotFound
from phalanx.operations import Kind, Operation, Stream, table

LOADED: dict[str, ModelKind | None] = {
    "text": "text",
    "images": "faces",
    "faces": "faces",
    "collections": None,
    "models": None,
}
"""Nouns whose rows run on models: of one kind, or, with None, of all."""


def call_operation(
    name: str = typer.Argument("", help="The operation, such as text.embed; none lists all."),
    request: str = typer.Argument("-", help="Its request as JSON, @FILE, or - for standard input."),
) -> None:
    """Call an operation without a server, with all rights; streams print one JSON object a line.

    \b
    Examples:
      phalanx call
      phalanx call text.embed '{"texts": ["Hello world"]}'
      phalanx call text.embed @request.json
      cat requests.ndjson | phalanx call text.embed_stream
    """
    rows = table()
    if not name:
        for row in rows.values():
            typer.echo(f"{row.name:24} {row.kind.value:14} {row.summary}")
        return
    if name not in rows:
        raise NotFound(f"there is no operation {name!r}; `phalanx call` lists all")
    with_app(lambda app: _run(app, app.operations[name], request))


async def _run(app: App, operation: Operation, source: str) -> None:
    if operation.noun in LOADED:
        await app.load_models(only=LOADED[operation.noun])
    if operation.kind is Kind.CLIENT_STREAM:
        given: Any = _lines(operation, source)
    else:
        given = _decode(operation, _read(source) or b"{}")
    answer = await call_here(app, operation, given)
    if not isinstance(answer, Stream):
        _print(answer)
        return
    try:
        async for message in answer:
            _print(message)
    finally:
        await answer.aclose()


def _read(source: str) -> bytes:
    if source == "-":
        return b"" if sys.stdin.isatty() else sys.stdin.buffer.read()
    if source.startswith("@"):
        try:
            return Path(source[1:]).read_bytes()
        except OSError as error:
            raise InvalidRequest(f"{source[1:]!r} cannot be read: {error.strerror}") from None
    return os.fsencode(source)


async def _lines(operation: Operation, source: str) -> AsyncIterator[Any]:
    lines = sys.stdin.buffer if source == "-" else _read(source).splitlines()
    for line in lines:
        if line.strip():
            yield _decode(operation, line)


def _decode(operation: Operation, data: bytes) -> Any:
    try:
        return msgspec.json.decode(data, type=operation.request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the request of {operation.name} cannot be read: {error}") from None


def _print(message: Any) -> None:
    typer.echo(msgspec.json.encode(message, enc_hook=render_array).decode())
