"""A client of the gRPC edge of a worker in this process, and what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import msgspec
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from phalanx.app.grpc import grpc_edge
from phalanx.edges.grpc.app import GrpcEdge
from phalanx.edges.grpc.server import GrpcServer, GrpcTls
from phalanx.operations import Kind, Operation


@dataclass
class Outcome:
    """What came back: `status` is gRPC's, `code` the table's, `ok` without an error."""

    status: grpc.StatusCode
    detail: str = ""
    trailing: dict[str, Any] = field(default_factory=dict)
    responses: list[Any] = field(default_factory=list)

    @property
    def info(self) -> dict[str, Any]:
        """The details of the error by their name."""
        found: dict[str, Any] = {}
        raw = self.trailing.get("grpc-status-details-bin")
        for packed in Status.FromString(raw).details if raw else ():
            for kind in (ErrorInfo, RetryInfo, BadRequest):
                if packed.Is(kind.DESCRIPTOR):
                    found[kind.__name__] = kind.FromString(packed.value)
        return found

    @property
    def code(self) -> str:
        """The code of the table of errors."""
        if self.status is grpc.StatusCode.OK:
            return "ok"
        info = self.info.get("ErrorInfo")
        return info.reason if info else ""


class RpcClient:
    """Calls rows of a worker over a channel to a server of its own, on the worker's loop."""

    def __init__(self, worker: Any, *, tls: GrpcTls | None = None, channel_tls: Any = None, **edge: Any) -> None:
        self.worker = worker
        self.edge: GrpcEdge = grpc_edge(worker.app)
        for name, value in edge.items():
            setattr(self.edge, name, value)
        self.methods = self.edge.schema.methods
        self._tls, self._channel_tls = tls, channel_tls
        self.serving = {"": True}
        worker.run(self._open())

    async def _open(self) -> None:
        async def healthy() -> dict[str, bool]:
            return self.serving

        app = self.worker.app
        self.server = GrpcServer(
            self.edge, host="127.0.0.1", port=0, log=app.log, healthy=healthy, tls=self._tls, drain_timeout_s=2.0
        )
        await self.server.start()
        self.channel = self.open_channel(self._channel_tls)

    def open_channel(self, credentials: Any = None) -> Any:
        """Return a channel to the server."""
        at = f"localhost:{self.server.port}" if credentials else f"127.0.0.1:{self.server.port}"
        options = [("grpc.use_local_subchannel_pool", 1)]
        if credentials is None:
            return grpc.aio.insecure_channel(at, options)
        return grpc.aio.secure_channel(at, credentials, options)

    def close(self) -> None:
        """End channel and server."""

        async def close() -> None:
            await self.channel.close()
            await self.server.drain(at_once=True)

        self.worker.run(close())

    def metadata(self, key: str | None = "default", more: dict[str, str] | None = None) -> list[tuple[str, str]]:
        found = list((more or {}).items())
        if key is not None:
            found.append(("authorization", f"Bearer {self.worker.key() if key == 'default' else key}"))
        return found

    def call(
        self,
        row: Operation,
        *examples: Any,
        raw: Sequence[bytes] | None = None,
        key: str | None = "default",
        headers: dict[str, str] | None = None,
        within_s: float | None = 30.0,
        path: str = "",
    ) -> Outcome:
        """Call a row with requests as JSON would say them, or `raw` messages."""
        method = self.methods[row.name]
        if raw is None:
            raw = [
                method.request_of(msgspec.json.decode(msgspec.json.encode(one), type=row.request)) for one in examples
            ]
        outcome: Outcome = self.worker.run(self._call(row, list(raw), self.metadata(key, headers), within_s, path))
        return outcome

    async def _call(
        self, row: Operation, raw: list[bytes], metadata: list[tuple[str, str]], within_s: float | None, path: str
    ) -> Outcome:
        method = self.methods[row.name]

        async def messages() -> Any:
            for one in raw:
                await asyncio.sleep(0)
                yield one

        if row.kind is Kind.UNARY:
            making = self.channel.stream_unary(path or method.path)
        else:
            making = self.channel.stream_stream(path or method.path)
        under_way = making(messages(), metadata=metadata, timeout=within_s)
        outcome = Outcome(grpc.StatusCode.OK)
        try:
            if row.kind is Kind.UNARY:
                outcome.responses.append(method.response_of(await under_way))
            else:
                async for one in under_way:
                    outcome.responses.append(method.response_of(one))
        except grpc.aio.AioRpcError as error:
            outcome.status, outcome.detail = error.code(), error.details() or ""
        outcome.trailing = dict(await under_way.trailing_metadata() or ())
        return outcome
