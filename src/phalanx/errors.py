"""The one table of errors: every way a call can fail, and what each protocol says about it.

A layer raises the narrowest class below; only an edge turns it into bytes. `detail` is shown to the caller, so it says
what was wrong, what was allowed and both values, and never a path, a host name or a secret.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

Retry = Literal["no", "after", "yes"]


class ErrorRow(NamedTuple):
    """One line of the table: the stable `code`, its HTTP and gRPC status, whether a retry helps, what it means."""

    code: str
    http: int
    grpc: str
    retry: Retry
    meaning: str


MAX_DETAIL_CHARS = 1000
MAX_PARAM_CHARS = 100
"""What is wrong with a name of a megabyte is said without repeating all of it."""


class PhalanxError(Exception):
    """Base of every failure that a caller may see. `retry_after_s` is in seconds; `param` names the field at fault."""

    row: ClassVar[ErrorRow]

    def __init__(
        self, detail: str = "", *, retry_after_s: float | None = None, param: str | None = None, **data: Any
    ) -> None:
        self.detail = _brief(detail or self.row.meaning, MAX_DETAIL_CHARS)
        super().__init__(self.detail)
        # Every 503 says when to come back, also where nothing better is known than soon.
        self.retry_after_s = 1.0 if retry_after_s is None and self.row.http == 503 else retry_after_s
        self.param = None if param is None else _brief(param, MAX_PARAM_CHARS)
        self.data = data

    @property
    def code(self) -> str:
        """The stable name of the failure."""
        return self.row.code


def _brief(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


class InvalidRequest(PhalanxError):
    row = ErrorRow(
        "invalid_request", 400, "INVALID_ARGUMENT", "no", "The request does not decode or breaks a constraint."
    )


class TextTooLong(PhalanxError):
    row = ErrorRow("text_too_long", 400, "INVALID_ARGUMENT", "no", "The text has more tokens than allowed.")


class Unauthenticated(PhalanxError):
    row = ErrorRow("unauthenticated", 401, "UNAUTHENTICATED", "no", "No credential was sent, or it is not valid.")


class SessionEnded(PhalanxError):
    row = ErrorRow("session_ended", 401, "UNAUTHENTICATED", "no", "The session is over: log in again.")


class Forbidden(PhalanxError):
    row = ErrorRow("forbidden", 403, "PERMISSION_DENIED", "no", "The credential lacks the scope that the call needs.")


class TlsRequired(PhalanxError):
    row = ErrorRow("tls_required", 403, "PERMISSION_DENIED", "no", "The call came in clear; it must come over https.")


class NotFound(PhalanxError):
    row = ErrorRow("not_found", 404, "NOT_FOUND", "no", "There is no such thing.")


class ModelNotFound(PhalanxError):
    row = ErrorRow("model_not_found", 404, "NOT_FOUND", "no", "This worker does not serve that model.")


class MethodNotAllowed(PhalanxError):
    row = ErrorRow("method_not_allowed", 405, "UNIMPLEMENTED", "no", "The route exists, but not for this method.")


class RequestTimeout(PhalanxError):
    row = ErrorRow("request_timeout", 408, "DEADLINE_EXCEEDED", "yes", "The request did not arrive in time.")


class Conflict(PhalanxError):
    row = ErrorRow(
        "conflict", 409, "ALREADY_EXISTS", "no", "The call collides with something that exists or is under way."
    )


class ContractMismatch(PhalanxError):
    row = ErrorRow(
        "contract_mismatch", 409, "FAILED_PRECONDITION", "no",
        "The collection's vectors were made by another model than the one that serves now.",
    )  # fmt: skip


class TooLarge(PhalanxError):
    row = ErrorRow("too_large", 413, "INVALID_ARGUMENT", "no", "The body or a list in it is larger than allowed.")


class UnsupportedMediaType(PhalanxError):
    row = ErrorRow(
        "unsupported_media_type", 415, "INVALID_ARGUMENT", "no", "The route does not read this content type."
    )


class UnreadableInput(PhalanxError):
    row = ErrorRow(
        "unreadable_input", 422, "INVALID_ARGUMENT", "no", "The request is well formed, its content unreadable."
    )


class NoFace(PhalanxError):
    row = ErrorRow("no_face", 422, "FAILED_PRECONDITION", "no", "There is no face in the image.")


class LowQuality(PhalanxError):
    row = ErrorRow(
        "low_quality",
        422,
        "FAILED_PRECONDITION",
        "no",
        "The face is not good enough; the detail says in which respects.",
    )


class SeveralFaces(PhalanxError):
    row = ErrorRow("several_faces", 422, "FAILED_PRECONDITION", "no", "There are several faces where one was wanted.")


class IdempotencyMismatch(PhalanxError):
    row = ErrorRow(
        "idempotency_mismatch", 422, "FAILED_PRECONDITION", "no", "The Idempotency-Key was used for another request."
    )


class RateLimited(PhalanxError):
    row = ErrorRow("rate_limited", 429, "RESOURCE_EXHAUSTED", "after", "The caller is over its own rate limit.")


class QuotaExceeded(PhalanxError):
    row = ErrorRow("quota_exceeded", 429, "RESOURCE_EXHAUSTED", "after", "The caller's quota for the month is used up.")


class ConcurrencyExceeded(PhalanxError):
    row = ErrorRow(
        "concurrency_exceeded", 429, "RESOURCE_EXHAUSTED", "after", "The caller has as many calls open as it may."
    )


class HeadTooLarge(PhalanxError):
    row = ErrorRow(
        "head_too_large", 431, "INVALID_ARGUMENT", "no", "The request's line and headers are larger than allowed."
    )


class Cancelled(PhalanxError):
    row = ErrorRow("cancelled", 499, "CANCELLED", "no", "The client left before the answer was ready.")


class Internal(PhalanxError):
    row = ErrorRow("internal", 500, "INTERNAL", "yes", "Something went wrong here; the request id leads to the log.")


class JobQuarantined(PhalanxError):
    row = ErrorRow(
        "job_quarantined",
        500,
        "INTERNAL",
        "no",
        "The process that ran the job alone died of it several times; it is not tried again.",
    )


class UpstreamFailed(PhalanxError):
    row = ErrorRow("upstream_failed", 502, "UNAVAILABLE", "yes", "The service behind this one failed.")


class Overloaded(PhalanxError):
    row = ErrorRow("overloaded", 503, "UNAVAILABLE", "after", "The worker has no room for the call now.")


class Unavailable(PhalanxError):
    row = ErrorRow("unavailable", 503, "UNAVAILABLE", "yes", "A model or a store that the call needs is not ready.")


class DeadlineExceeded(PhalanxError):
    row = ErrorRow(
        "deadline_exceeded", 504, "DEADLINE_EXCEEDED", "yes", "The call was not finished before its deadline."
    )


ERRORS: dict[str, type[PhalanxError]] = {cls.row.code: cls for cls in PhalanxError.__subclasses__()}
"""Every error by its code: what the docs, OpenAPI and the tests of the edges are read from."""
