"""The table of settings: every environment variable is a field of `Settings`."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from phalanx.contract.keys import Scope
from phalanx.contract.services import ALL_SERVICES, ServiceName
from phalanx.settings.parsing import (
    Network,
    Secret,
    bind,
    choice,
    database_url,
    device,
    flag,
    header,
    image_hosts,
    integer,
    key_prefix,
    methods,
    networks,
    number,
    origins,
    path,
    port_or_off,
    qdrant_url,
    redis_url,
    rust_log,
    scopes,
    secrets,
    services,
    text,
    user_data_dir,
    words,
)
from phalanx.settings.queues import DEFAULT_QUEUE, JobMapping, QueueSpec, job_map, queues
from phalanx.settings.remote import REMOTE_NOUNS, ServiceUrl, service_urls
from phalanx.settings.webhooks import inner_networks, webhook_hosts, webhook_secrets


class Variable(NamedTuple):
    """How one field is read: the variable's name, its parser, the sentence for the reference, other names for it."""

    name: str
    parse: Callable[[str], Any]
    meaning: str
    aliases: tuple[str, ...] = ()


MINUTES_10 = 600.0
NO_SECRET = Secret()
LEVELS = ("trace", "debug", "info", "warn", "warning", "error")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be set. The annotation of a field is its row in the reference (`phalanx settings`)."""

    # fmt: off
    # Serving
    port: Annotated[int, Variable("PORT", integer(0, 65535), "port of the HTTP edge; 0 takes a free one", ("APP_PORT",))] = 8000
    grpc_port: Annotated[int | None, Variable("GRPC_PORT", port_or_off, "port of the gRPC edge, on APP_HOST too; 0 takes a free one")] = None
    app_host: Annotated[str, Variable("APP_HOST", text, "address to listen on")] = "127.0.0.1"
    workers: Annotated[int, Variable("WORKERS", integer(1, 256), "worker processes")] = 1
    worker_timeout_secs: Annotated[float, Variable("WORKER_TIMEOUT_SECS", number(1, 3600), "seconds after which one of several workers is killed and replaced if its event loop does not turn")] = 10.0
    services: Annotated[tuple[ServiceName, ...], Variable("SERVICES", services, "what this worker serves, by comma: text, faces (face-detection, face-embedding), images (image-processing), vectors (similarity, collections) [all]")] = ()
    app_env: Annotated[str, Variable("APP_ENV", choice("development", "production", "test"), "production refuses unsafe settings")] = "development"
    app_name: Annotated[str, Variable("APP_NAME", text, "name shown in the reference page")] = "Phalanx"
    app_public_url: Annotated[str, Variable("APP_PUBLIC_URL", text, "address under which callers see the worker; for links and OpenAPI")] = ""
    data_dir: Annotated[Path, Variable("DATA_DIR", path, "folder for the database, the usage journal and models")] = dataclasses.field(default_factory=user_data_dir)
    tls_cert_file: Annotated[Path | None, Variable("TLS_CERT_FILE", path, "certificate chain, PEM; with TLS_KEY_FILE the edge speaks TLS 1.2 or later")] = None
    tls_key_file: Annotated[Path | None, Variable("TLS_KEY_FILE", path, "private key of the certificate, PEM")] = None
    tls_client_ca_file: Annotated[Path | None, Variable("TLS_CLIENT_CA_FILE", path, "certificates, PEM; callers of the gRPC edge must show one that is signed by these (mutual TLS)")] = None
    git_sha: Annotated[str, Variable("GIT_SHA", text, "commit shown by /health when the package does not know its own")] = ""

    # Limits of a request
    max_concurrent_requests: Annotated[int, Variable("MAX_CONCURRENT_REQUESTS", integer(1, 100_000), "computed calls under way at once; past it 503")] = 100
    max_streams: Annotated[int, Variable("MAX_STREAMS", integer(1, 100_000), "streams open at once; past it 503")] = 256
    request_timeout_ms: Annotated[int, Variable("REQUEST_TIMEOUT", integer(10, 3_600_000), "milliseconds that a computed call may take, and once more for every 256 texts or 4 images beyond the first; past it 504")] = 5000
    server_read_timeout_secs: Annotated[float, Variable("SERVER_READ_TIMEOUT_SECS", number(0.1, MINUTES_10), "seconds for a request's head, and for a stall in its body")] = 15.0
    server_write_timeout_secs: Annotated[float, Variable("SERVER_WRITE_TIMEOUT_SECS", number(0.1, MINUTES_10), "seconds a reader may stall between two writes")] = 30.0
    server_idle_timeout_secs: Annotated[float, Variable("SERVER_IDLE_TIMEOUT_SECS", number(0.1, 3600), "seconds an idle connection is kept")] = 120.0
    max_request_size_bytes: Annotated[int, Variable("MAX_REQUEST_SIZE_BYTES", integer(1024, 2**30), "largest request body; unless set, 16 MiB where vectors are compared")] = 10 * 2**20
    drain_delay_secs: Annotated[float, Variable("DRAIN_DELAY_SECS", number(0, MINUTES_10), "seconds between /readyz turning false and the listener closing")] = 0.0
    drain_timeout_secs: Annotated[float, Variable("DRAIN_TIMEOUT_SECS", number(0, 3600), "seconds that calls under way are given to finish on shutdown")] = 30.0

    # Images
    max_image_pixels: Annotated[int, Variable("MAX_IMAGE_PIXELS", integer(1, 10**9), "pixels of an image, by its header, before it is decoded")] = 40_000_000
    image_url_allow: Annotated[tuple[str, ...], Variable("IMAGE_URL_ALLOW", image_hosts, "hosts that images may be fetched from, by comma; a leading dot admits subdomains")] = ()

    # Models
    model_dir: Annotated[Path | None, Variable("MODEL_DIR", path, "folder of the model store [DATA_DIR/models]")] = None
    model_name: Annotated[str, Variable("MODEL_NAME", text, "catalogue name or hub id of the text model")] = "all-MiniLM-L6-v2"
    model_path: Annotated[Path | None, Variable("MODEL_PATH", path, "a model of your own: an ONNX file beside tokenizer.json, or a folder")] = None
    max_tokens: Annotated[int | None, Variable("MAX_TOKENS", integer(3, 8192), "tokens a text is cut to [the model's own]")] = None
    engine: Annotated[Literal["auto", "openvino", "onnxruntime"], Variable("ENGINE", choice("auto", "openvino", "onnxruntime"), "inference engine")] = "auto"
    device: Annotated[str, Variable("DEVICE", device, "auto, cpu or cuda:0 (extra `cuda`)")] = "auto"
    precision: Annotated[Literal["auto", "f32", "bf16", "int8"], Variable("PRECISION", choice("auto", "f32", "bf16", "int8"), "arithmetic; auto takes bf16 where the CPU has it and the golden check holds")] = "auto"
    fallback: Annotated[Literal["none", "simulated"], Variable("FALLBACK", choice("none", "simulated"), "simulated answers, marked as such, for a model that is missing or fails; refused in production")] = "none"
    hf_endpoint: Annotated[str, Variable("HF_ENDPOINT", text, "hub that `hf:` sources are taken from")] = "https://huggingface.co"
    hf_token: Annotated[Secret, Variable("HF_TOKEN", Secret, "credential for gated repositories of that hub")] = NO_SECRET

    # Callers
    auth: Annotated[str, Variable("AUTH", choice("required", "off"), "off admits everybody, on a loopback address only")] = "required"
    anonymous_scopes: Annotated[tuple[Scope, ...], Variable("ANONYMOUS_SCOPES", scopes, "scopes that need no credential, by comma")] = ()
    api_key_prefix: Annotated[str, Variable("API_KEY_PREFIX", key_prefix, "what API keys begin with")] = "fe_"
    free_tier_limit: Annotated[int, Variable("FREE_TIER_LIMIT", integer(0, 10**15), "requests a month of a free organisation; hard")] = 10_000
    pro_tier_limit: Annotated[int, Variable("PRO_TIER_LIMIT", integer(0, 10**15), "requests a month of a pro organisation; warns")] = 1_000_000
    scale_tier_limit: Annotated[int, Variable("SCALE_TIER_LIMIT", integer(0, 10**15), "requests a month of a scale organisation; warns")] = 10_000_000
    enforce_paid_limits: Annotated[bool, Variable("ENFORCE_PAID_LIMITS", flag, "make the paid tiers' limits hard")] = False
    tiers_file: Annotated[Path | None, Variable("TIERS_FILE", path, "TOML file that changes the table of tiers: [free] requests_per_minute, burst, concurrency, monthly_requests, hard")] = None
    rate_limit_enabled: Annotated[bool, Variable("RATE_LIMIT_ENABLED", flag, "limit the rate of free and anonymous callers")] = True
    rate_limit_requests_per_minute: Annotated[int, Variable("RATE_LIMIT_REQUESTS_PER_MINUTE", integer(1, 10**9), "sustained rate of free and anonymous callers")] = 60
    rate_limit_burst: Annotated[int, Variable("RATE_LIMIT_BURST", integer(0, 10**9), "how many of their requests may come at once; 0 counts as 1")] = 20

    # Stores
    database_url: Annotated[Secret | None, Variable("DATABASE_URL", database_url, "database: postgresql://user:password@host/name, or sqlite:///path [SQLite in DATA_DIR]")] = None
    database_max_connections: Annotated[int, Variable("DATABASE_MAX_CONNECTIONS", integer(1, 1000), "connections to PostgreSQL at most, in each worker")] = 20
    database_min_connections: Annotated[int, Variable("DATABASE_MIN_CONNECTIONS", integer(0, 1000), "connections to PostgreSQL that are kept open")] = 5
    redis_url: Annotated[Secret | None, Variable("REDIS_URL", redis_url, "Redis for counters, permits and news between workers; needs maxmemory-policy noeviction")] = None
    redis_cache_url: Annotated[Secret | None, Variable("REDIS_CACHE_URL", redis_url, "Redis, or database number, for cached vectors and results, which may be evicted [REDIS_URL]")] = None
    qdrant_url: Annotated[Secret | None, Variable("QDRANT_URL", qdrant_url, "Qdrant server for collections: http://host or https://host; its gRPC port is 6334 unless one is given [Qdrant Edge in DATA_DIR, for one worker]")] = None
    qdrant_api_key: Annotated[Secret, Variable("QDRANT_API_KEY", Secret, "key that the Qdrant server wants; a user in QDRANT_URL will do too")] = NO_SECRET
    l2_cache_ttl_secs: Annotated[int, Variable("L2_CACHE_TTL", integer(0, 10**9), "seconds a vector, or what was found in an image, is kept in Redis; 0 keeps none")] = 3600
    usage_journal: Annotated[str, Variable("USAGE_JOURNAL", choice("file", "redis"), "where usage waits for the database: a file in DATA_DIR, or a stream in REDIS_URL where the disk is read-only")] = "file"
    usage_retention_days: Annotated[int, Variable("USAGE_RETENTION_DAYS", integer(0, 36_500), "days for which single usage events are kept; daily sums stay; 0 keeps all")] = 0
    l1_cache_size: Annotated[int, Variable("L1_CACHE_SIZE", integer(0, 10_000_000), "vectors of texts kept in memory; 0 keeps none")] = 1000
    result_cache_bytes: Annotated[int, Variable("RESULT_CACHE_BYTES", integer(0, 2**34), "memory for faces and face vectors of images seen before; 0 keeps none")] = 16 * 2**20
    cache_scope: Annotated[str, Variable("CACHE_SCOPE", choice("tenant", "shared"), "whether organisations share cached vectors and results")] = "tenant"

    # Queue
    queue_redis_url: Annotated[Secret | None, Variable("QUEUE_REDIS_URL", redis_url, "Redis of the queues; needs maxmemory-policy noeviction, and an append-only file where no job may be lost [REDIS_URL]")] = None
    queues: Annotated[tuple[QueueSpec, ...], Variable("QUEUES", queues, "BullMQ queues that `phalanx work` takes jobs from, by comma: name, prefix:name, or name=key-id, whose jobs run as that key unless they have a token")] = ()
    queue_job_map: Annotated[Mapping[str, JobMapping], Variable("QUEUE_JOB_MAP", job_map, "names and fields of an application's own jobs, JSON: {\"job name\": {\"operation\": …, \"fields\": {\"theirs\": \"ours\"}, \"defaults\": {…}, \"dropped\": […]}}")] = dataclasses.field(default_factory=dict)
    queue_concurrency: Annotated[int, Variable("QUEUE_CONCURRENCY", integer(1, 1000), "jobs of each queue under way at once")] = 20
    queue_attempts: Annotated[int, Variable("QUEUE_ATTEMPTS", integer(1, 1000), "how often a job is tried that fails through no fault of its request, unless its producer sets attempts")] = 5
    webhook_secret: Annotated[tuple[Secret, ...], Variable("WEBHOOK_SECRET", webhook_secrets, "secrets that sign webhooks, by comma, so that one can follow another: whsec_ and base64 of 24 to 64 bytes, or as many characters; without one there are no webhooks")] = ()
    webhook_allow: Annotated[tuple[str, ...], Variable("WEBHOOK_ALLOW", webhook_hosts, "hosts that webhooks may be sent to, by comma; a leading dot admits subdomains, host:port another port than 80 and 443")] = ()
    webhook_networks: Annotated[tuple[Network, ...], Variable("WEBHOOK_NETWORKS", inner_networks, "networks, by comma, that hosts of WEBHOOK_ALLOW may be in besides the open internet, such as 10.0.0.0/8")] = ()

    # Remote services
    text_url: Annotated[tuple[ServiceUrl, ...], Variable("TEXT_URL", service_urls, "workers that run the calls about text in place of this one, by comma: grpc://host:port or grpcs://host:port")] = ()
    faces_url: Annotated[tuple[ServiceUrl, ...], Variable("FACES_URL", service_urls, "as TEXT_URL, for calls about faces, galleries excepted")] = ()
    images_url: Annotated[tuple[ServiceUrl, ...], Variable("IMAGES_URL", service_urls, "as TEXT_URL, for calls about images")] = ()
    vectors_url: Annotated[tuple[ServiceUrl, ...], Variable("VECTORS_URL", service_urls, "as TEXT_URL, for calls about vectors, collections excepted")] = ()
    collections_url: Annotated[tuple[ServiceUrl, ...], Variable("COLLECTIONS_URL", service_urls, "as TEXT_URL, for collections and galleries, which are then kept there; SERVICE_KEY must be an administrator's there")] = ()
    service_key: Annotated[Secret, Variable("SERVICE_KEY", Secret, "API key with which this worker calls those workers; best of an organisation of its own")] = NO_SECRET
    service_tls_ca_file: Annotated[Path | None, Variable("SERVICE_TLS_CA_FILE", path, "certificates, PEM, that sign those of grpcs:// workers [the system's]")] = None
    service_tls_cert_file: Annotated[Path | None, Variable("SERVICE_TLS_CERT_FILE", path, "certificate chain, PEM, that this worker shows them (mutual TLS)")] = None
    service_tls_key_file: Annotated[Path | None, Variable("SERVICE_TLS_KEY_FILE", path, "its private key, PEM")] = None

    # Tokens
    jwt_secret: Annotated[Secret | None, Variable("JWT_SECRET", Secret, "signs access tokens: 32 characters or more (HS256), or an Ed25519 private key, PEM (EdDSA) [made in DATA_DIR; production wants it set]")] = None
    jwt_previous_secrets: Annotated[tuple[Secret, ...], Variable("JWT_PREVIOUS_SECRETS", secrets, "former secrets, by comma, whose tokens are still accepted")] = ()
    jwt_issuer: Annotated[str, Variable("JWT_ISSUER", text, "issuer and audience of the tokens")] = "phalanx"
    jwt_access_ttl_secs: Annotated[int, Variable("JWT_ACCESS_TTL_SECS", integer(10, 86_400), "seconds an access token lives")] = 900
    jwt_refresh_ttl_secs: Annotated[int, Variable("JWT_REFRESH_TTL_SECS", integer(60, 10**8), "seconds a session lives after its latest refresh")] = 1_209_600
    signup: Annotated[str, Variable("SIGNUP", choice("open", "closed"), "open, or closed: only administrators make users")] = "open"

    # Edge
    allowed_origins: Annotated[tuple[str, ...], Variable("ALLOWED_ORIGINS", origins, "origins whose web pages may call, by comma; * is all")] = ()
    cors_allow_credentials: Annotated[bool, Variable("CORS_ALLOW_CREDENTIALS", flag, "let web pages of ALLOWED_ORIGINS send cookies and credentials; not with *")] = False
    cors_allow_headers: Annotated[tuple[str, ...], Variable("CORS_ALLOW_HEADERS", words, "request headers that those pages may send, by comma; * is all")] = ("authorization", "content-type", "idempotency-key", "x-api-key", "x-request-id")
    cors_expose_headers: Annotated[tuple[str, ...], Variable("CORS_EXPOSE_HEADERS", words, "response headers that those pages may read, by comma")] = ("etag", "idempotency-replayed", "ratelimit", "ratelimit-policy", "retry-after", "server-timing", "x-model", "x-model-version", "x-quota-warning", "x-ratelimit-degraded", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "x-request-id", "x-simulated")
    cors_allow_methods: Annotated[tuple[str, ...], Variable("CORS_ALLOW_METHODS", methods, "methods that those pages may use, by comma")] = ("GET", "POST", "PUT", "PATCH", "DELETE")
    trusted_proxy_ips: Annotated[tuple[Network, ...], Variable("TRUSTED_PROXY_IPS", networks, "addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, by comma")] = ()
    force_https: Annotated[bool, Variable("FORCE_HTTPS", flag, "redirect or refuse what did not come over TLS, probes excepted, and send HSTS")] = False
    request_id_header: Annotated[str, Variable("REQUEST_ID_HEADER", header, "header of the request id, in and out")] = "X-Request-Id"

    # Watching
    log_level: Annotated[str, Variable("LOG_LEVEL", choice(*LEVELS), "lowest level logged")] = "info"
    rust_log: Annotated[str | None, Variable("RUST_LOG", rust_log, "sets the level when LOG_LEVEL does not; `info,api=debug` is understood")] = None
    log_format: Annotated[str, Variable("LOG_FORMAT", choice("auto", "json", "console"), "auto is console on a terminal, else json")] = "auto"
    metrics_enabled: Annotated[bool, Variable("METRICS_ENABLED", flag, "serve Prometheus metrics on PROMETHEUS_BIND")] = True
    prometheus_bind: Annotated[tuple[str, int], Variable("PROMETHEUS_BIND", bind, "address of the metrics listener")] = ("127.0.0.1", 9500)
    # fmt: on

    def body_limit(self, own: int | None) -> int:
        """Return the bytes that a body may have on a row whose `own` default differs; what the operator set goes before."""
        is_default = self.max_request_size_bytes == Settings.max_request_size_bytes
        return own if own is not None and is_default else self.max_request_size_bytes

    @property
    def lacks_qdrant(self) -> bool:
        """Whether collections are to be served by what may be one of several processes, without a Qdrant that these share."""
        keeps = "collections" in self.served - set(self.remote)
        return self.qdrant_url is None and keeps and (self.is_shared or self.workers > 1)

    @property
    def served(self) -> frozenset[ServiceName]:
        """The services that this worker has."""
        return frozenset(self.services or ALL_SERVICES)

    @property
    def remote(self) -> dict[ServiceName, str]:
        """The services whose calls other workers run, each with the variable that says so."""
        return {
            service: f"{noun.upper()}_URL"
            for noun, services in REMOTE_NOUNS.items() if getattr(self, f"{noun}_url")
            for service in services
        }  # fmt: skip

    @property
    def models_dir(self) -> Path:
        """The folder of the model store."""
        return self.model_dir or self.data_dir / "models"

    @property
    def database(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{self.data_dir / 'phalanx.db'}"

    @property
    def is_shared(self) -> bool:
        """Whether the stores are servers, so that several workers can run on them."""
        return not self.database.startswith("sqlite") and self.redis_url is not None

    @property
    def jobs_url(self) -> Secret | None:
        """The Redis of the queues; None: jobs are in the database, and run here."""
        return self.queue_redis_url or self.redis_url

    @property
    def job_queues(self) -> tuple[QueueSpec, ...]:
        """The queues that jobs may be put into, the first by default."""
        return self.queues or (QueueSpec(DEFAULT_QUEUE),)

    @property
    def is_loopback(self) -> bool:
        """Whether the HTTP edge can be reached from this machine only."""
        if self.app_host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.app_host).is_loopback
        except ValueError:
            return False


UNUSED = frozenset(
    {
        "OLLAMA_BASE_URL",
        "OLLAMA_DEFAULT_TIMEOUT_MS",
        "UPSTREAMS_FILE",
        "CONVERSATION_RETENTION_DAYS",
        "EQUATIONS_URL",
        "VALIDATE_DEFAULT_MODE",
    }
)
"""Names of the platform's wire that this version has no use for: setting one is pointed out, not silently accepted."""
