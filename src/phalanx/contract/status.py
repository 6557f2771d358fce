"""What a worker says about itself."""

from __future__ import annotations

from msgspec import Struct, field


class StatusRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask how the worker is doing."""


class OperationStatus(Struct, frozen=True, kw_only=True):
    """Calls of one operation since start; percentiles in milliseconds over the latest thousand."""

    count: int
    errors: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


class QueueStatus(Struct, frozen=True, kw_only=True):
    """What waits for one model's engine, and how well its batches were filled (padding_ratio 0 to 1)."""

    waiting_items: int
    waiting_tokens: int
    running_items: int
    batches: int
    tokens_per_s: float
    padding_ratio: float


class ModelHealth(Struct, frozen=True, kw_only=True):
    """A version of a model, and why it cannot serve when it cannot. `simulated` says that a stand-in answers for it."""

    name: str
    version: str
    ready: bool
    error: str | None = None
    simulated: bool = False


class StatusResponse(Struct, frozen=True, kw_only=True):
    """The state of one worker. `rss_bytes` is resident memory, `cpu_s` CPU time used since start.

    `queues` are by model; of a model with several versions, those with less weight are under `name@version`.
    """

    worker_id: str
    version: str
    uptime_s: float
    ready: bool
    in_flight: int
    streams: int
    rss_bytes: int
    cpu_s: float
    operations: dict[str, OperationStatus] = field(default_factory=dict)
    queues: dict[str, QueueStatus] = field(default_factory=dict)
    models: list[ModelHealth] = field(default_factory=list)


class DependencyHealth(Struct, frozen=True, kw_only=True):
    """Whether a store answers, and how fast."""

    healthy: bool
    latency_ms: float
    error: str | None = None


class BuildFacts(Struct, frozen=True, kw_only=True):
    """What was built; written when the wheel is built."""

    git_hash: str
    git_branch: str
    git_date: str
    git_dirty: bool
    build_timestamp: str
    python_version: str
    profile: str


class Health(Struct, frozen=True, kw_only=True):
    """`status` is healthy, degraded (serves with something missing) or unhealthy (cannot serve)."""

    status: str
    version: str
    model: str
    build: BuildFacts
    dependencies: dict[str, DependencyHealth]
    models: list[ModelHealth]
