"""Errors as statuses of gRPC, with the details of google.rpc that clients know how to read, and what answers say of themselves."""

from __future__ import annotations

import functools
import math

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status

from phalanx.edges.call_facts import server_timing
from phalanx.edges.limit_headers import limit_headers
from phalanx.errors import PhalanxError
from phalanx.services.ticket import Call

DOMAIN = "phalanx"
"""Of `ErrorInfo`: whose codes these are."""
MAX_DETAIL_BYTES = 1024
"""Of an error's sentence, which is sent three times: trailing metadata has a limit in every client, of 8 KiB in most."""

Metadata = tuple[tuple[str, str | bytes], ...]


def status_code(error: PhalanxError) -> grpc.StatusCode:
    """Return the status of an error, by the table of errors."""
    return _code(error.row.grpc)


@functools.cache
def _code(name: str) -> grpc.StatusCode:
    return grpc.StatusCode[name]


def brief(error: PhalanxError) -> str:
    """Return an error's sentence, cut where it is too long for metadata."""
    return error.detail.encode()[:MAX_DETAIL_BYTES].decode(errors="ignore")


def error_metadata(error: PhalanxError, request_id: str, code: grpc.StatusCode) -> Metadata:
    """Return `grpc-status-details-bin` with `ErrorInfo` (its reason is our code), and what else helps, and `retry-after`.

    `code` is the status that the call ends with: clients refuse details that say another.
    """
    about = {"request_id": request_id}
    if "schema" in error.data:
        # The message's form is at fault, not what it says: a caller that is a worker is of another version.
        about["schema"] = error.data["schema"]
    details: list[Message] = [
        ErrorInfo(reason=error.code, domain=DOMAIN, metadata=about),
        RequestInfo(request_id=request_id),
    ]
    if error.param is not None:
        violation = BadRequest.FieldViolation(field=error.param, description=brief(error))
        details.append(BadRequest(field_violations=[violation]))
    extra: list[tuple[str, str | bytes]] = []
    if error.retry_after_s is not None:
        retry = RetryInfo()
        retry.retry_delay.FromMicroseconds(max(1, round(error.retry_after_s * 1e6)))
        details.append(retry)
        extra.append(("retry-after", str(max(1, math.ceil(error.retry_after_s)))))
    status = Status(code=code.value[0], message=brief(error))
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return (("grpc-status-details-bin", status.SerializeToString()), *extra)


def call_metadata(
    call: Call | None, id_name: str, request_id: str, received_at: float
) -> list[tuple[str, str | bytes]]:
    """Return what every answer says: the request's id, times in milliseconds, the model, limits. `received_at` is perf_counter's."""
    found: list[tuple[str, str | bytes]] = [(id_name, request_id), ("server-timing", server_timing(call, received_at))]
    meter = call.meter if call else None
    if meter is not None:
        used = f"units={meter.units}, tokens={meter.tokens}, cached={meter.cached}, items={meter.items}"
        found.append(("x-usage", used))
        if meter.model:
            found += (("x-model", meter.model), ("x-model-version", meter.model_version))
            found += (("x-simulated", "true"),) if meter.simulated else ()
    if call is not None:
        if call.grant is not None:
            found += ((name.decode(), value.decode()) for name, value in limit_headers(call.grant))
        if call.warning:
            found.append(("x-quota-warning", call.warning.encode("ascii", "replace").decode()))
        if call.replayed:
            found.append(("idempotency-replayed", "true"))
    return found
