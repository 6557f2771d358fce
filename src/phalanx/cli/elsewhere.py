"""A worker that runs, asked over HTTP."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import msgspec

from phalanx.cli.bulk.journal import Facts
from phalanx.errors import UpstreamFailed
from phalanx.operations import table
from phalanx.settings import Secret
from phalanx.upstreams.worker import WorkerClient, fill_path


@asynccontextmanager
async def elsewhere(url: str, key: Secret | None) -> AsyncIterator[Elsewhere]:
    """Yield the worker at an address. Raises `InvalidRequest` for what is none."""
    async with WorkerClient(url, key) as client:
        yield Elsewhere(client, url)


class Elsewhere:
    """Answers rows of the table by their routes."""

    def __init__(self, client: WorkerClient, url: str) -> None:
        self._client = client
        self._url = url
        self._rows = table()

    async def ask(self, name: str, request: msgspec.Struct) -> Any:
        """Call a row; raises the error that the worker names."""
        row = self._rows[name]
        fields = {field: getattr(request, field) for field in request.__struct_fields__}
        path, rest = fill_path(row.path, {field: value for field, value in fields.items() if value is not None})
        if row.method in ("GET", "DELETE"):
            answer = await self._client.call(row.method, f"{path}?{urlencode(rest)}" if rest else path, None)
        else:
            answer = await self._client.call(row.method, path, msgspec.json.encode(rest))
        try:
            return msgspec.json.decode(answer, type=row.response)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamFailed(f"the worker is of another version; its answer cannot be read: {error}") from None

    async def owner(self, name: str, organisation: str | None) -> str | None:
        """Return what was given: without it the key says whose collections are meant."""
        return organisation

    def image(self, data: bytes) -> Any:
        """Return base64."""
        return base64.b64encode(data).decode()

    def facts(self) -> Facts:
        """Return the worker's address."""
        return {"--url": self._url}
