"""Rows that other workers run: the gate is this worker's, the work theirs."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from phalanx.app.stores import Surroundings
from phalanx.edges.grpc.emptiness import with_empty_lists
from phalanx.edges.grpc.exchange import EMPTY, ON_BEHALF_OF
from phalanx.edges.grpc.schema import Method, Schema, SchemaNotBuilt
from phalanx.edges.grpc.shapes import SchemaMismatch
from phalanx.errors import InvalidRequest, UpstreamFailed
from phalanx.operations import Kind, Operation, Services
from phalanx.services.collections.registry import organisation_of
from phalanx.services.serving.health import Dependency
from phalanx.services.ticket import Caller, Meter, Ticket
from phalanx.settings import Settings, SettingsError
from phalanx.upstreams.remote import Metadata, RemoteWorkers
from phalanx.upstreams.remote_address import ClientTls, Lost
from phalanx.upstreams.remote_answers import Used


class RemoteRows:
    """The rows of the services that are elsewhere, by the settings; `dependencies` are for /health, one a noun."""

    def __init__(self, around: Surroundings, rows: Mapping[str, Operation]) -> None:
        self.dependencies: dict[str, Dependency] = {}
        self._around = around
        self._workers: dict[str, RemoteWorkers] = {}
        settings = around.settings
        self._elsewhere = {
            name: settings.remote[row.service] for name, row in rows.items()
            if row.service in settings.remote and row.grpc is not None
        }  # fmt: skip
        try:
            self._methods = Schema({name: rows[name] for name in self._elsewhere}).methods
        except (SchemaNotBuilt, SchemaMismatch) as error:
            raise SettingsError([f"{', '.join(sorted(set(settings.remote.values())))}: {error}."]) from error

    def replaced(self, row: Operation) -> Operation:
        """Return a row as it is to run here: one that is elsewhere calls there."""
        setting = self._elsewhere.get(row.name)
        if setting is None:
            return row
        method = self._methods[row.name]
        workers = self._workers_of(setting)
        remote = _Remote(row, method, workers, setting, self._around.settings.request_id_header.lower())
        return dataclasses.replace(row, run=remote.unary if row.kind is Kind.UNARY else remote.stream)

    def _workers_of(self, setting: str) -> RemoteWorkers:
        known = self._workers.get(setting)
        if known is None:
            service = service_of(setting, self._methods)
            settings = self._around.settings
            known = self._workers[setting] = RemoteWorkers(
                setting, getattr(settings, setting.lower()), service, key=settings.service_key, tls=_tls(settings),
                log=self._around.log,
            )  # fmt: skip
            self._around.closing.close_with(known.close)
            # Its calls say what is wrong; the worker's other calls do not need it.
            self.dependencies[f"upstream_{setting.removesuffix('_URL').lower()}"] = Dependency(known.ping, None)
        return known


def service_of(setting: str, methods: Mapping[str, Method]) -> str:
    """Return the full name of the service that a variable is about, by the methods of the rows that are its."""
    noun = setting.removesuffix("_URL").lower()
    return next(method.service for name, method in methods.items() if name.partition(".")[0] == noun)


def _tls(settings: Settings) -> ClientTls:
    return ClientTls(settings.service_tls_ca_file, settings.service_tls_cert_file, settings.service_tls_key_file)


class _Remote:
    """How one row is run elsewhere."""

    def __init__(self, row: Operation, method: Method, workers: RemoteWorkers, setting: str, id_name: str) -> None:
        self._row = row
        self._method = method
        self._workers = workers
        self._setting = setting
        self._id_name = id_name

    async def unary(self, services: Services, ticket: Ticket, request: Any) -> Any:
        """Call, and meter what the other worker says that it has used. Raises its error, `Unavailable`, `UpstreamFailed`."""
        data = self._method.request_of(self._on_behalf_of(ticket.caller, request))
        try:
            answered = await self._workers.unary(
                self._method.path, data, self._metadata(ticket), ticket.deadline, removes=self._row.method == "DELETE"
            )
        except Lost as lost:
            _note(ticket.meter, lost.used)
            raise lost.failure.error from None
        response = self._read(answered.data or b"", answered.metadata.get(EMPTY, ""))
        self._require(answered.used)
        _note(ticket.meter, answered.used)
        return response

    async def stream(self, services: Services, ticket: Ticket, request: Any) -> AsyncIterator[Any]:
        """Stream there and back. Each answer is metered by what it says of itself, all of them by the other's meter at the end."""
        sent = request if self._row.kind is Kind.CLIENT_STREAM else _one(request)
        answers = self._workers.stream(self._method.path, self._written(sent), self._metadata(ticket))
        try:
            async for answered in answers:
                if answered.data is None:
                    self._require(answered.used)
                    _note(ticket.meter, answered.used)
                    return
                response = self._read(answered.data)
                _note_answer(ticket.meter, response)
                yield response
        except Lost as lost:
            _note(ticket.meter, lost.used)
            raise lost.failure.error from None
        finally:
            await answers.aclose()  # type: ignore[attr-defined]

    def _on_behalf_of(self, caller: Caller, request: Any) -> Any:
        """Return a request as the other worker is to see it: about a caller's collections, with whose they are.

        Whom it may name was looked at here: SERVICE_KEY may name everybody. Raises `Forbidden`, `InvalidRequest`.
        """
        if self._row.service != "collections":
            return request
        if caller.is_operator and request.organisation is None:
            raise InvalidRequest("name the organisation whose collections are meant", param="organisation")
        return msgspec.structs.replace(request, organisation=organisation_of(caller, request.organisation))

    async def _written(self, requests: AsyncIterator[Any]) -> AsyncIterator[bytes]:
        async for request in requests:
            yield self._method.request_of(request)

    def _metadata(self, ticket: Ticket) -> Metadata:
        if ticket.on_behalf_of:
            raise UpstreamFailed(
                f"the worker behind another one has {self._setting} too: the workers that it names must do the work themselves"
            )
        behalf = quote(ticket.caller.organisation, safe="@+")
        return ((self._id_name, ticket.request_id), (ON_BEHALF_OF, behalf))

    def _read(self, data: bytes, empty: str = "") -> Any:
        try:
            answer = self._method.response_of(data)
            return with_empty_lists(answer, empty.split(",")) if empty else answer
        except (InvalidRequest, ValueError) as error:
            raise UpstreamFailed(
                f"the answer of the worker behind {self._setting} is not as this version has it: {error}"
            ) from None

    def _require(self, used: Used | None) -> None:
        """Raise `UpstreamFailed` for an answer that does not say what it has used: it could not be billed."""
        if used is None:
            raise UpstreamFailed(
                f"the worker behind {self._setting} does not say what a call has used: it is of another version"
            )


async def _one(request: Any) -> AsyncIterator[Any]:
    yield request


def _note(meter: Meter, used: Used | None) -> None:
    """Set a meter to what was used elsewhere."""
    if used is not None:
        for name, value in used._asdict().items():
            setattr(meter, name, value)


def _note_answer(meter: Meter, answer: Any) -> None:
    """Add what one answer of a stream says of itself, so that a stream which is left is billed for what it gave."""
    items, usage = getattr(answer, "items", ()), getattr(answer, "usage", None)
    tokens = getattr(usage, "tokens", 0)
    meter.units += tokens
    meter.tokens += tokens
    meter.items += len(items)
    meter.cached += sum(getattr(item, "cached", False) for item in items)
    meter.model = getattr(answer, "model", "") or meter.model
    meter.simulated = meter.simulated or getattr(answer, "simulated", False)
