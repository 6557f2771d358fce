"""Logs and metrics: one JSON line a request, one table of metrics, no global state but the log configuration."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, BinaryIO, Literal, NamedTuple, TextIO

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

Log = Any
"""A structlog bound logger; its methods take an event name and key-values."""

FLUSH_S = 0.1
LEVELS = {"trace": 10, "debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40}

_encode = msgspec.json.Encoder(enc_hook=str).encode


def _render_json(_logger: object, _method: str, event: dict[str, Any]) -> str:
    return _encode(event).decode()


def configure_logs(
    *,
    level: str = "info",
    style: Literal["json", "console"] = "json",
    stream: TextIO | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Log:
    """Set up structlog and the standard library's root logger alike, and return the platform's logger.

    `fields` are in every line.
    """
    out = stream or sys.stderr
    shared: list[Any] = [
        lambda _logger, _method, event: {**event, **(fields or {})},
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # A traceback without its local variables, which hold keys, passwords and texts.
    readable = structlog.dev.RichTracebackFormatter(show_locals=False)
    as_dict = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
    console = style == "console"
    render: Any = (
        structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=readable) if console else _render_json
    )
    tracebacks = [] if console else [as_dict]
    structlog.configure(
        processors=[*shared, *tracebacks, render],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(file=out),
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard library; they are quiet here unless something is wrong.
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tracebacks, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    return structlog.get_logger("phalanx")


class RequestLog:
    """Writes the canonical line of each request.

    As JSON it goes past structlog, into a buffered `stream`, and is flushed a tenth of a second later, so that many lines share one write: a third
    of the time. Every other event goes through structlog and is flushed at once. `fields` are in every line.
    """

    def __init__(self, log: Log, *, stream: BinaryIO | None = None, fields: Mapping[str, Any] | None = None) -> None:
        self._log = log
        self._stream = stream
        self._fields = dict(fields or {})
        self._flush_due = False
        self._second = 0
        self._prefix = ""

    def write(self, line: dict[str, Any], *, debug: bool = False) -> None:
        """Write one line; `debug` lines only at that level."""
        if self._stream is None or debug:
            (self._log.debug if debug else self._log.info)("request", **line)
            return
        line["event"], line["level"], line["timestamp"] = "request", "info", self._now()
        line.update(self._fields)
        self._stream.write(_encode(line) + b"\n")
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Write out what is still held back."""
        self._flush_due = False
        if self._stream is not None:
            self._stream.flush()

    def _now(self) -> str:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._prefix}.{int((now - second) * 1e6):06d}Z"


Merge = Literal["sum", "max", "min", "min_accepting"]
"""What a gauge of several workers is together: the last is the least among those that accept connections."""


class MetricRow(NamedTuple):
    """One metric: its name, kind, meaning, labels, for histograms bucket bounds in its unit, for gauges how workers' merge."""

    name: str
    kind: type[Counter] | type[Gauge] | type[Histogram]
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    merge: Merge = "sum"


SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LAG_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)

METRICS: tuple[MetricRow, ...] = (
    MetricRow("phalanx_requests", Counter, "Requests answered.", ("operation", "dialect", "code")),
    MetricRow(
        "phalanx_request_seconds",
        Histogram,
        "Time from the first byte read to the last written.",
        ("operation",),
        SECONDS,
    ),
    MetricRow("phalanx_queue_seconds", Histogram, "Time an item waited for the engine.", ("model", "version"), SECONDS),
    MetricRow("phalanx_engine_seconds", Histogram, "Time one batch took in the engine.", ("model", "version"), SECONDS),
    MetricRow("phalanx_batch_tokens", Histogram, "Padded tokens of one batch.", ("model", "version"), TOKENS),
    MetricRow("phalanx_padding_tokens", Counter, "Tokens computed that were padding.", ("model", "version")),
    MetricRow("phalanx_tokens", Counter, "Tokens embedded, padding not counted.", ("model", "version")),
    MetricRow("phalanx_queue_tokens", Gauge, "Tokens waiting for the engine.", ("model", "version")),
    MetricRow("phalanx_cache_lookups", Counter, "Look-ups of texts and images in the caches.", ("outcome",)),
    MetricRow(
        "phalanx_cache_hits", Counter, "Texts and images found in the caches, in memory (1) or in Redis (2).", ("tier",)
    ),
    MetricRow("phalanx_credential_checks", Counter, "Keys and sessions looked up in the database.", ("outcome",)),
    MetricRow(
        "phalanx_limits_degraded", Gauge, "1 while limits are this worker's share, Redis being lost.", merge="max"
    ),
    MetricRow(
        "phalanx_usage_waiting_bytes", Gauge, "Usage in the journal's files that the database does not have yet."
    ),
    MetricRow("phalanx_refusals", Counter, "Calls refused before they cost anything.", ("code",)),
    MetricRow("phalanx_jobs", Counter, "Attempts at jobs, by what became of them.", ("outcome",)),
    MetricRow(
        "phalanx_webhooks",
        Counter,
        "Attempts at telling of a job's end, by what became of them; failed and dropped are lost.",
        ("outcome",),
    ),
    MetricRow("phalanx_calls_in_flight", Gauge, "Admitted calls under way."),
    MetricRow("phalanx_event_loop_lag_seconds", Histogram, "How late the event loop ran a timer.", (), LAG_SECONDS),
    MetricRow(
        "phalanx_model_info",
        Gauge,
        "1 for each model served.",
        ("model", "version", "device", "precision"),
        merge="max",
    ),
    MetricRow(
        "phalanx_model_swaps", Counter, "Changes of the versions that serve: swapped, or refused.", ("model", "outcome")
    ),
    MetricRow("phalanx_ready", Gauge, "1 while /readyz is true.", merge="min_accepting"),
)
"""Every metric of a worker. Labels are few and closed: never a caller's id, a path or a text."""

SUPERVISOR_METRICS: tuple[MetricRow, ...] = (
    MetricRow("phalanx_workers", Gauge, "Worker processes that run.", ("state",)),
    MetricRow("phalanx_worker_ends", Counter, "Worker processes that ended, told to or not.", ("reason",)),
)
"""What the supervisor of several workers adds."""

MERGES: dict[str, Merge] = {
    **{row.name: row.merge for row in METRICS},
    "process_start_time_seconds": "min",
    "python_info": "max",
}
"""How gauges of several workers are merged; what is not here is summed."""


class Metrics:
    """The metrics of one process in a registry of its own."""

    def __init__(self, rows: tuple[MetricRow, ...] = METRICS) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._metrics: dict[str, Any] = {}
        for row in rows:
            extra: dict[str, Any] = {"buckets": row.buckets} if row.buckets else {}
            self._metrics[row.name] = row.kind(row.name, row.meaning, row.labels, registry=self.registry, **extra)

    def counter(self, name: str, *labels: str) -> Counter:
        """Return the counter of that name, or its child with those label values."""
        return self._child(name, labels)  # type: ignore[no-any-return]

    def gauge(self, name: str, *labels: str) -> Gauge:
        """Return the gauge of that name, or its child with those label values."""
        return self._child(name, labels)  # type: ignore[no-any-return]

    def histogram(self, name: str, *labels: str) -> Histogram:
        """Return the histogram of that name, or its child with those label values."""
        return self._child(name, labels)  # type: ignore[no-any-return]

    def _child(self, name: str, labels: tuple[str, ...]) -> Any:
        metric = self._metrics[name]
        return metric.labels(*labels) if labels else metric
