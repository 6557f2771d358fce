"""Answers that are an image alone: who gets one, and in which format."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from phalanx.contract.images import Convert, Step
from phalanx.edges.http.exchange import Exchange
from phalanx.operations import Body, Operation

_WRITABLE = {f"image/{name}": Convert(format=name) for name in ("jpeg", "png", "webp")}


def wants_image(exchange: Exchange, operation: Operation) -> bool:
    """Whether the answer may be an image alone: the row has such, and Accept names images, not JSON."""
    return (
        Body.IMAGE in operation.answers
        and exchange.accepts("image/")
        and not exchange.accepts("/json")
        and not exchange.accepts("text/html")
    )


def as_accepted(exchange: Exchange, operation: Operation, request: Any) -> Any:
    """Return a request whose answer has the one format that Accept names, if it names one and the request none."""
    if not wants_image(exchange, operation) or request.image is None or not request.return_image:
        return request
    convert = _accepted(exchange.headers[b"accept"])
    if convert is None or any(step.convert is not None for step in request.operations):
        return request
    # The same bytes under the same Idempotency-Key, of which another format is accepted, are another request.
    if exchange.call is not None and exchange.call.idempotency_key is not None:
        exchange.call.fingerprint = hashlib.sha256(exchange.call.fingerprint + convert.format.encode()).digest()
    return msgspec.structs.replace(request, operations=[*request.operations, Step(convert=convert)])


def _accepted(header: bytes) -> Convert | None:
    """Return what writes the format that Accept names (RFC 9110 §12.5.1); None where it names several, or one that is not written."""
    named = {kind.partition(";")[0].strip().lower() for kind in header.decode("latin-1").split(",")}
    images = [kind for kind in named if kind.startswith("image/")]
    return _WRITABLE.get(images[0]) if len(images) == 1 else None
