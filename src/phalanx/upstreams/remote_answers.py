"""What another worker says at the end of a call: its error in our words, and what the call has used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from phalanx.errors import (
    ERRORS,
    DeadlineExceeded,
    Overloaded,
    PhalanxError,
    Unavailable,
    UpstreamFailed,
)

DOMAIN = "phalanx"
OURS = frozenset({"unauthenticated", "session_ended", "forbidden", "tls_required", "quota_exceeded"})
"""What the other worker has against us, not against who called: SERVICE_KEY, its scopes, its quota."""
FULL = frozenset({"rate_limited", "concurrency_exceeded"})


class Used(NamedTuple):
    """What a call has used there, as the fields of a meter. Counts; seconds."""

    units: int = 0
    tokens: int = 0
    cached: int = 0
    items: int = 0
    model: str = ""
    model_version: str = ""
    simulated: bool = False
    queue_s: float = 0.0
    engine_s: float = 0.0


class Failure(NamedTuple):
    """A call's error. `is_lost` says that the worker did not answer at all, `is_worth_another` that another one may."""

    error: PhalanxError
    is_lost: bool
    is_worth_another: bool


def metadata_of(trailing: Any) -> dict[str, Any]:
    """Return metadata by name."""
    return dict(trailing or ())


def used_of(trailing: Mapping[str, Any]) -> Used | None:
    """Return what a call has used by its trailing metadata; None when it did not come so far."""
    said = trailing.get("x-usage")
    if said is None:
        return None
    try:
        counts = {name: int(value) for name, value in _pairs(said, "=").items()}
        timing = {
            name: float(value.removeprefix("dur=")) / 1e3
            for name, value in _pairs(trailing.get("server-timing", ""), ";").items()
        }
        return Used(
            units=counts["units"], tokens=counts["tokens"], cached=counts["cached"], items=counts["items"],
            model=trailing.get("x-model", ""), model_version=trailing.get("x-model-version", ""),
            simulated=trailing.get("x-simulated") == "true", queue_s=timing.get("queue", 0.0),
            engine_s=timing.get("engine", 0.0),
        )  # fmt: skip
    except (ValueError, KeyError):
        return None


def _pairs(said: str, mark: str) -> dict[str, str]:
    """Return `a=1, b=2` by name."""
    return dict(tuple(part.strip().split(mark, 1)) for part in said.split(",") if mark in part)  # type: ignore[misc]


def failure_of(status: grpc.StatusCode, trailing: Mapping[str, Any], *, setting: str, method: str) -> Failure:
    """Return the error that a status stands for. `setting` is named instead of the address, which callers do not learn."""
    info, found = _details(trailing)
    if info is None:
        return _silent(status, setting, method)
    code, param = info.reason, found["param"]
    if code in OURS:
        said = f"the worker behind {setting} refused this worker's own credential, SERVICE_KEY ({code})"
        return Failure(UpstreamFailed(said), is_lost=False, is_worth_another=False)
    if code in FULL:
        said = f"the worker behind {setting} has as many calls of this worker as SERVICE_KEY may make"
        return Failure(Overloaded(said, retry_after_s=found["retry_after_s"]), is_lost=False, is_worth_another=True)
    if status is grpc.StatusCode.UNIMPLEMENTED:
        said = f"the worker behind {setting} does not have the service of {method}"
        return Failure(UpstreamFailed(said), is_lost=False, is_worth_another=False)
    if "schema" in info.metadata:
        said = (
            f"the worker behind {setting} does not understand {info.metadata['schema']} as this one has it: "
            "they are of different versions"
        )
        return Failure(UpstreamFailed(said), is_lost=False, is_worth_another=False)
    if code not in ERRORS or code == "cancelled":
        said = f"the worker behind {setting} gave the call up ({code[:64]})"
        return Failure(UpstreamFailed(said), is_lost=False, is_worth_another=False)
    error = ERRORS[code](found["detail"], retry_after_s=found["retry_after_s"], param=param)
    return Failure(error, is_lost=False, is_worth_another=code in ("overloaded", "unavailable"))


def _silent(status: grpc.StatusCode, setting: str, method: str) -> Failure:
    """Return the error of a status that no worker of ours explained: the connection's, a proxy's, another version's."""
    if status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        # Nobody here cancelled: a worker that is told to stop at once ends its calls like this.
        said = f"{setting}: no worker answers there"
        return Failure(Unavailable(said), is_lost=True, is_worth_another=True)
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        said = f"the worker behind {setting} did not answer before the deadline"
        return Failure(DeadlineExceeded(said), is_lost=False, is_worth_another=False)
    if status is grpc.StatusCode.UNIMPLEMENTED:
        said = f"the worker behind {setting} does not know {method}: it is of another version, or no worker"
    elif status is grpc.StatusCode.RESOURCE_EXHAUSTED:
        said = f"the message is larger than the worker behind {setting} takes, or its answer than this one does"
    else:
        said = f"the worker behind {setting} failed ({status.name})"
    return Failure(UpstreamFailed(said), is_lost=False, is_worth_another=False)


def code_of(trailing: Mapping[str, Any]) -> str:
    """Return the code of a worker's error by its trailing metadata; empty where no worker of ours said one."""
    info, _ = _details(trailing)
    return info.reason if info is not None else ""


def _details(trailing: Mapping[str, Any]) -> tuple[ErrorInfo | None, dict[str, Any]]:
    """Return `ErrorInfo` of a worker, None where there is none, and the sentence, field and seconds beside it."""
    found: dict[str, Any] = {"detail": "", "param": None, "retry_after_s": None}
    info = None
    try:
        status = Status.FromString(trailing.get("grpc-status-details-bin", b""))
        found["detail"] = status.message
        for packed in status.details:
            if packed.Is(ErrorInfo.DESCRIPTOR):
                info = ErrorInfo.FromString(packed.value)
            elif packed.Is(RetryInfo.DESCRIPTOR):
                found["retry_after_s"] = RetryInfo.FromString(packed.value).retry_delay.ToMicroseconds() / 1e6
            elif packed.Is(BadRequest.DESCRIPTOR):
                violations = BadRequest.FromString(packed.value).field_violations
                found["param"] = violations[0].field if violations else None
    except (DecodeError, TypeError):
        return None, found
    return (info if info is not None and info.domain == DOMAIN else None), found
