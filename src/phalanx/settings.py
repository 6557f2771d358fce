"""The one reader of the environment: every variable is a field of `Settings`, parsed and checked at start.

Values come, in this order, from the real environment, from a file named by `<NAME>_FILE`, from `.env` (or `ENV_FILE`),
from the default. All problems are reported at once; a name that is one edit from a known one is pointed out.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from dotenv import dotenv_values

from phalanx.contract.keys import ALL_SCOPES, Scope

MAX_SECRET_FILE_BYTES = 65536


class SettingsError(Exception):
    """The environment cannot be used; `problems` holds one sentence for each thing to mend."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Secret(str):
    """A string that does not show itself when printed, logged or formatted with `repr`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'[REDACTED]'"


class Variable(NamedTuple):
    """How one field is read: the variable's name, its parser, the sentence for the reference, other names for it."""

    name: str
    parse: Callable[[str], Any]
    meaning: str
    aliases: tuple[str, ...] = ()


def _text(raw: str) -> str:
    return raw


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(raw: str) -> float:
        value = float(raw)
        if not low <= value <= high:
            raise ValueError(f"{raw!r} is not a number from {low:g} to {high:g}")
        return value

    return parse


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(raw: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,18}", raw) or not low <= int(raw) <= high:
            raise ValueError(f"{raw!r} is not a whole number from {low} to {high}")
        return int(raw)

    return parse


def _flag(raw: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if raw.lower() not in words:
        raise ValueError(f"{raw!r} is neither true nor false")
    return words[raw.lower()]


def _choice(*words: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        if raw.lower() not in words:
            raise ValueError(f"{raw!r} is none of {', '.join(words)}")
        return raw.lower()

    return parse


def _path(raw: str) -> Path:
    return Path(raw).expanduser()


def _bind(raw: str) -> tuple[str, int]:
    host, _, port = raw.rpartition(":")
    return host.strip("[]") or "127.0.0.1", _integer(0, 65535)(port)


def _scopes(raw: str) -> tuple[Scope, ...]:
    names = tuple(part.strip() for part in raw.split(",") if part.strip())
    unknown = [name for name in names if name not in ALL_SCOPES]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no such scope; there are {', '.join(ALL_SCOPES)}")
    return typing.cast("tuple[Scope, ...]", names)


def _key_prefix(raw: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]{1,16}_", raw):
        raise ValueError(f"{raw!r} is not 1 to 16 letters or digits and an underscore")
    return raw


def _header(raw: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", raw):
        raise ValueError(f"{raw!r} is not a header name")
    return raw


def _device(raw: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", raw.lower()):
        raise ValueError(f"{raw!r} is none of auto, cpu, cuda:0")
    return "cuda:0" if raw.lower() == "cuda" else raw.lower()


def _rust_log(raw: str) -> str:
    """Take the default level out of a Rust log filter such as `info,api=debug`."""
    levels = [part.strip().lower() for part in raw.split(",") if "=" not in part]
    level = next((part for part in levels if part), "info")
    return _choice("trace", "debug", "info", "warn", "warning", "error", "off")(level)


def _user_data_dir() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "phalanx"


MINUTES_10 = 600.0
NO_SECRET = Secret()
LEVELS = ("trace", "debug", "info", "warn", "warning", "error")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be set. The annotation of a field is its row in the reference (`phalanx settings`)."""

    # fmt: off
    # Serving
    port: Annotated[int, Variable("PORT", _integer(0, 65535), "port of the HTTP edge; 0 takes a free one", ("APP_PORT",))] = 8000
    app_host: Annotated[str, Variable("APP_HOST", _text, "address to listen on")] = "127.0.0.1"
    workers: Annotated[int, Variable("WORKERS", _integer(1, 256), "worker processes")] = 1
    app_env: Annotated[str, Variable("APP_ENV", _choice("development", "production", "test"), "production refuses unsafe settings")] = "development"
    app_name: Annotated[str, Variable("APP_NAME", _text, "name shown in the reference page")] = "Phalanx"
    app_public_url: Annotated[str, Variable("APP_PUBLIC_URL", _text, "address under which callers see the worker; for links and OpenAPI")] = ""
    data_dir: Annotated[Path, Variable("DATA_DIR", _path, "folder for the database, the usage journal and models")] = dataclasses.field(default_factory=_user_data_dir)
    tls_cert_file: Annotated[Path | None, Variable("TLS_CERT_FILE", _path, "certificate chain, PEM; with TLS_KEY_FILE the edge speaks TLS 1.2 or later")] = None
    tls_key_file: Annotated[Path | None, Variable("TLS_KEY_FILE", _path, "private key of the certificate, PEM")] = None
    git_sha: Annotated[str, Variable("GIT_SHA", _text, "commit shown by /health when the package does not know its own")] = ""

    # Limits of a request
    max_concurrent_requests: Annotated[int, Variable("MAX_CONCURRENT_REQUESTS", _integer(1, 100_000), "computed calls under way at once; past it 503")] = 100
    max_streams: Annotated[int, Variable("MAX_STREAMS", _integer(1, 100_000), "streams open at once; past it 503")] = 256
    request_timeout_ms: Annotated[int, Variable("REQUEST_TIMEOUT", _integer(10, 3_600_000), "milliseconds a computed call may take; past it 504")] = 5000
    server_read_timeout_secs: Annotated[float, Variable("SERVER_READ_TIMEOUT_SECS", _number(0.1, MINUTES_10), "seconds for a request's head, and for a stall in its body")] = 15.0
    server_write_timeout_secs: Annotated[float, Variable("SERVER_WRITE_TIMEOUT_SECS", _number(0.1, MINUTES_10), "seconds a reader may stall between two writes")] = 30.0
    server_idle_timeout_secs: Annotated[float, Variable("SERVER_IDLE_TIMEOUT_SECS", _number(0.1, 3600), "seconds an idle connection is kept")] = 120.0
    max_request_size_bytes: Annotated[int, Variable("MAX_REQUEST_SIZE_BYTES", _integer(1024, 2**30), "largest request body")] = 10 * 2**20
    drain_delay_secs: Annotated[float, Variable("DRAIN_DELAY_SECS", _number(0, MINUTES_10), "seconds between /readyz turning false and the listener closing")] = 0.0
    drain_timeout_secs: Annotated[float, Variable("DRAIN_TIMEOUT_SECS", _number(0, 3600), "seconds that calls under way are given to finish on shutdown")] = 30.0

    # Models
    model_dir: Annotated[Path | None, Variable("MODEL_DIR", _path, "folder of the model store [DATA_DIR/models]")] = None
    model_name: Annotated[str, Variable("MODEL_NAME", _text, "catalogue name or hub id of the text model")] = "all-MiniLM-L6-v2"
    model_path: Annotated[Path | None, Variable("MODEL_PATH", _path, "a model of your own: an ONNX file beside tokenizer.json, or a folder")] = None
    max_tokens: Annotated[int | None, Variable("MAX_TOKENS", _integer(3, 8192), "tokens a text is cut to [the model's own]")] = None
    engine: Annotated[Literal["auto", "openvino", "onnxruntime"], Variable("ENGINE", _choice("auto", "openvino", "onnxruntime"), "inference engine")] = "auto"
    device: Annotated[str, Variable("DEVICE", _device, "auto, cpu or cuda:0 (extra `cuda`)")] = "auto"
    precision: Annotated[Literal["auto", "f32", "bf16", "int8"], Variable("PRECISION", _choice("auto", "f32", "bf16", "int8"), "arithmetic; auto takes bf16 where the CPU has it and the golden check holds")] = "auto"
    hf_endpoint: Annotated[str, Variable("HF_ENDPOINT", _text, "hub that `hf:` sources are taken from")] = "https://huggingface.co"
    hf_token: Annotated[Secret, Variable("HF_TOKEN", Secret, "credential for gated repositories of that hub")] = NO_SECRET

    # Callers
    auth: Annotated[str, Variable("AUTH", _choice("required", "off"), "off admits everybody, on a loopback address only")] = "required"
    anonymous_scopes: Annotated[tuple[Scope, ...], Variable("ANONYMOUS_SCOPES", _scopes, "scopes that need no credential, by comma")] = ()
    api_key_prefix: Annotated[str, Variable("API_KEY_PREFIX", _key_prefix, "what API keys begin with")] = "fe_"
    free_tier_limit: Annotated[int, Variable("FREE_TIER_LIMIT", _integer(0, 10**15), "requests a month of a free organisation; hard")] = 10_000
    pro_tier_limit: Annotated[int, Variable("PRO_TIER_LIMIT", _integer(0, 10**15), "requests a month of a pro organisation; warns")] = 1_000_000
    scale_tier_limit: Annotated[int, Variable("SCALE_TIER_LIMIT", _integer(0, 10**15), "requests a month of a scale organisation; warns")] = 10_000_000
    enforce_paid_limits: Annotated[bool, Variable("ENFORCE_PAID_LIMITS", _flag, "make the paid tiers' limits hard")] = False
    rate_limit_enabled: Annotated[bool, Variable("RATE_LIMIT_ENABLED", _flag, "limit the rate of free and anonymous callers")] = True
    rate_limit_requests_per_minute: Annotated[int, Variable("RATE_LIMIT_REQUESTS_PER_MINUTE", _integer(1, 10**9), "their sustained rate")] = 60
    rate_limit_burst: Annotated[int, Variable("RATE_LIMIT_BURST", _integer(0, 10**9), "how many of their requests may come at once; 0 counts as 1")] = 20

    # Stores
    database_url: Annotated[Secret | None, Variable("DATABASE_URL", Secret, "database [SQLite in DATA_DIR]")] = None
    l1_cache_size: Annotated[int, Variable("L1_CACHE_SIZE", _integer(0, 10_000_000), "vectors kept in memory; 0 keeps none")] = 1000
    cache_scope: Annotated[str, Variable("CACHE_SCOPE", _choice("tenant", "shared"), "whether organisations share cached vectors")] = "tenant"

    # Edge
    request_id_header: Annotated[str, Variable("REQUEST_ID_HEADER", _header, "header of the request id, in and out")] = "X-Request-Id"

    # Watching
    log_level: Annotated[str, Variable("LOG_LEVEL", _choice(*LEVELS), "lowest level logged")] = "info"
    rust_log: Annotated[str | None, Variable("RUST_LOG", _rust_log, "sets the level when LOG_LEVEL does not; `info,api=debug` is understood")] = None
    log_format: Annotated[str, Variable("LOG_FORMAT", _choice("auto", "json", "console"), "auto is console on a terminal, else json")] = "auto"
    metrics_enabled: Annotated[bool, Variable("METRICS_ENABLED", _flag, "serve Prometheus metrics on PROMETHEUS_BIND")] = True
    prometheus_bind: Annotated[tuple[str, int], Variable("PROMETHEUS_BIND", _bind, "address of the metrics listener")] = ("127.0.0.1", 9500)
    # fmt: on

    @property
    def models_dir(self) -> Path:
        """The folder of the model store."""
        return self.model_dir or self.data_dir / "models"

    @property
    def database(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{self.data_dir / 'phalanx.db'}"

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
        "GRPC_PORT",
        "SERVICES",
        "TLS_CLIENT_CA_FILE",
        "MAX_IMAGE_PIXELS",
        "IMAGE_URL_ALLOW",
        "FALLBACK",
        "JWT_SECRET",
        "JWT_PREVIOUS_SECRETS",
        "JWT_ISSUER",
        "JWT_ACCESS_TTL_SECS",
        "JWT_REFRESH_TTL_SECS",
        "DATABASE_MAX_CONNECTIONS",
        "DATABASE_MIN_CONNECTIONS",
        "REDIS_URL",
        "REDIS_CACHE_URL",
        "QUEUE_REDIS_URL",
        "QDRANT_URL",
        "L2_CACHE_TTL",
        "USAGE_JOURNAL",
        "OLLAMA_BASE_URL",
        "OLLAMA_DEFAULT_TIMEOUT_MS",
        "UPSTREAMS_FILE",
        "CONVERSATION_RETENTION_DAYS",
        "ALLOWED_ORIGINS",
        "CORS_ALLOW_CREDENTIALS",
        "CORS_ALLOW_HEADERS",
        "CORS_EXPOSE_HEADERS",
        "CORS_ALLOW_METHODS",
        "TRUSTED_PROXY_IPS",
        "FORCE_HTTPS",
        "QUEUES",
        "QUEUE_JOB_MAP",
        "WEBHOOK_SECRET",
        "TEXT_URL",
        "FACES_URL",
        "IMAGES_URL",
        "VECTORS_URL",
        "EQUATIONS_URL",
        "SERVICE_KEY",
    }
)
"""Names of the platform's wire that this version has no use for: setting one is pointed out, not silently accepted."""


class Loaded(NamedTuple):
    """Settings with the remarks that do not stop a start."""

    settings: Settings
    remarks: list[str]


def variables() -> dict[str, tuple[str, Variable]]:
    """Return field and row by field name, in the order of the reference."""
    hints = typing.get_type_hints(Settings, include_extras=True)
    return {name: (name, hint.__metadata__[0]) for name, hint in hints.items() if hasattr(hint, "__metadata__")}


def load(environ: Mapping[str, str] | None = None, *, folder: Path | None = None) -> Loaded:
    """Read the environment; raises `SettingsError` with every problem found.

    `environ` is the process's environment unless given; `folder` is where `.env` is looked for.
    """
    real = os.environ if environ is None else environ
    problems: list[str] = []
    merged = {**_dotenv(real, folder or Path.cwd(), problems), **real}
    values: dict[str, Any] = {}
    for field, variable in variables().values():
        raw = _raw(variable, merged, problems)
        if raw is None or raw == "":
            continue
        try:
            values[field] = variable.parse(raw)
        except (ValueError, OverflowError) as error:
            shown = "its value cannot be read" if variable.parse is Secret else str(error)
            problems.append(f"{variable.name}: {shown} ({variable.meaning}).")
    settings = Settings(**values)
    problems += _contradictions(settings)
    if problems:
        raise SettingsError(problems)
    if "log_level" not in values and settings.rust_log:
        settings = dataclasses.replace(settings, log_level="error" if settings.rust_log == "off" else settings.rust_log)
    return Loaded(settings, _remarks(merged))


def _dotenv(real: Mapping[str, str], folder: Path, problems: list[str]) -> dict[str, str]:
    named = real.get("ENV_FILE")
    path = Path(named).expanduser() if named else folder / ".env"
    if not path.is_file():
        if named:
            problems.append(f"ENV_FILE: there is no file {named!r}.")
        return {}
    try:
        return {name: value or "" for name, value in dotenv_values(path).items()}
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path.name}: cannot be read ({type(error).__name__}).")
        return {}


def _raw(variable: Variable, merged: Mapping[str, str], problems: list[str]) -> str | None:
    """Return a variable's text, from its own name, an alias, or the file that `<NAME>_FILE` names."""
    for name in (variable.name, *variable.aliases):
        if name in merged:
            return merged[name].strip()
        # TLS_CERT and TLS_KEY are no variables, so the fields that end in _FILE cannot be shadowed here.
        if f"{name}_FILE" in merged:
            path = Path(merged[f"{name}_FILE"]).expanduser()
            try:
                if path.stat().st_size > MAX_SECRET_FILE_BYTES:
                    raise ValueError(f"larger than {MAX_SECRET_FILE_BYTES} bytes")
                return path.read_text(encoding="utf-8").strip()
            except (OSError, ValueError) as error:
                problems.append(f"{name}_FILE: {str(path)!r} cannot be read ({type(error).__name__}).")
                return None
    return None


def _contradictions(settings: Settings) -> list[str]:
    problems = []
    if settings.auth == "off" and not settings.is_loopback:
        problems.append(f"AUTH=off is accepted on a loopback address only; APP_HOST is {settings.app_host!r}.")
    if settings.auth == "off" and settings.app_env == "production":
        problems.append("AUTH=off is refused when APP_ENV is production.")
    if (settings.tls_cert_file is None) != (settings.tls_key_file is None):
        problems.append("TLS_CERT_FILE and TLS_KEY_FILE go together; set both or neither.")
    for name, path in (("TLS_CERT_FILE", settings.tls_cert_file), ("TLS_KEY_FILE", settings.tls_key_file)):
        if path is not None and not path.is_file():
            problems.append(f"{name}: there is no file {str(path)!r}.")
    if settings.workers > 1:
        problems.append("WORKERS: this version serves with one process; more need the shared stores of a later one.")
    if not settings.database.startswith(("sqlite:///", "sqlite+aiosqlite:///")):
        problems.append("DATABASE_URL: this version keeps its records in SQLite; use sqlite:///path.")
    if settings.model_path is not None and not settings.model_path.exists():
        problems.append(f"MODEL_PATH: there is no {str(settings.model_path)!r}.")
    return problems


def _remarks(merged: Mapping[str, str]) -> list[str]:
    known = {name for _, variable in variables().values() for name in (variable.name, *variable.aliases)}
    known |= {"ENV_FILE"} | UNUSED
    remarks = [f"{name} is set, but this version has no use for it." for name in sorted(UNUSED & merged.keys())]
    for name in sorted(merged.keys() - known):
        near = next((word for word in sorted(known) if _one_edit(name.removesuffix("_FILE"), word)), None)
        if near:
            remarks.append(f"{name} is not a setting; did you mean {near}?")
    return remarks


def _one_edit(left: str, right: str) -> bool:
    """Whether one insertion, deletion, substitution or swap of neighbours turns one name into the other."""
    if left == right or abs(len(left) - len(right)) > 1 or min(len(left), len(right)) < 4:
        return False
    start = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    a, b = left[start:], right[start:]
    return a[1:] == b or a == b[1:] or a[1:] == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])


def reference() -> list[tuple[str, str, str]]:
    """Return `(name, default, meaning)` of every variable: what the documentation is generated from."""
    fields = {field.name: field for field in dataclasses.fields(Settings)}
    rows = []
    for field, variable in variables().values():
        default = fields[field].default
        shown = "" if default in (None, "", ()) or default is dataclasses.MISSING else _shown(default)
        rows.append((variable.name, "user data directory" if field == "data_dir" else shown, variable.meaning))
    return rows


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "true" if default else "false"
    if isinstance(default, tuple):
        return ":".join(str(part) for part in default)
    return f"{default:g}" if isinstance(default, float) else str(default)


LogFormat = Literal["json", "console"]


def log_format(settings: Settings) -> LogFormat:
    """Resolve LOG_FORMAT=auto: console on a terminal, else json."""
    if settings.log_format == "auto":
        return "console" if sys.stderr.isatty() else "json"
    return "json" if settings.log_format == "json" else "console"
