"""Reading the environment: files, `.env`, aliases, misspellings, and what contradicts itself."""

from __future__ import annotations

import dataclasses
import os
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dotenv import dotenv_values

from phalanx.contract.services import ALL_SERVICES
from phalanx.settings.parsing import Secret
from phalanx.settings.table import UNUSED, Settings, Variable

MAX_SECRET_FILE_BYTES = 65536
MIN_SECRET_CHARS = 32


class SettingsError(Exception):
    """The environment cannot be used; `problems` holds one sentence for each thing to mend."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Loaded(NamedTuple):
    """Settings with the remarks that do not stop a start."""

    settings: Settings
    remarks: list[str]


def variables() -> dict[str, tuple[str, Variable]]:
    """Return field and row by field name, in the order of the reference."""
    hints = typing.get_type_hints(Settings, include_extras=True)
    return {name: (name, hint.__metadata__[0]) for name, hint in hints.items() if hasattr(hint, "__metadata__")}


def load(
    environ: Mapping[str, str] | None = None,
    *,
    folder: Path | None = None,
    given: Mapping[str, str] | None = None,
    otherwise: Mapping[str, str] | None = None,
) -> Loaded:
    """Read the environment; raises `SettingsError` with every problem found.

    `environ` is the process's environment unless given; `folder` is where `.env` is looked for; `given` are values that
    win over all others, as the options of a command do, and `otherwise` values in the place of defaults.
    """
    real = os.environ if environ is None else environ
    problems: list[str] = []
    merged = {**_dotenv(real, folder or Path.cwd(), problems), **real, **(given or {})}
    values: dict[str, Any] = {}
    for field, variable in variables().values():
        raw = _raw(variable, merged, problems) or (otherwise or {}).get(variable.name)
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
        # An empty one is as good as none: Compose files pass on what is not set.
        if text := merged.get(name, "").strip():
            return text
        # TLS_CERT and TLS_KEY are no variables, so the fields that end in _FILE cannot be shadowed here.
        if merged.get(f"{name}_FILE", "").strip():
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
    """Return what is wrong with the settings together: a sentence for each condition that holds."""
    secret, production = settings.jwt_secret, settings.app_env == "production"
    found: list[tuple[bool, str]] = [
        (
            settings.auth == "off" and not settings.is_loopback,
            f"AUTH=off is accepted on a loopback address only; APP_HOST is {settings.app_host!r}.",
        ),
        (settings.auth == "off" and production, "AUTH=off is refused when APP_ENV is production."),
        (
            settings.fallback == "simulated" and production,
            "FALLBACK=simulated is refused when APP_ENV is production: its answers mean nothing.",
        ),
        (
            (settings.tls_cert_file is None) != (settings.tls_key_file is None),
            "TLS_CERT_FILE and TLS_KEY_FILE go together; set both or neither.",
        ),
        (
            settings.tls_client_ca_file is not None and settings.tls_cert_file is None,
            "TLS_CLIENT_CA_FILE needs TLS_CERT_FILE and TLS_KEY_FILE.",
        ),
        (
            settings.grpc_port is not None and settings.grpc_port == settings.port != 0,
            f"GRPC_PORT and PORT are both {settings.port}; each edge needs one of its own.",
        ),
        (
            settings.workers > 1 and not settings.is_shared,
            "WORKERS: more than one process needs shared stores; set DATABASE_URL to a PostgreSQL database and REDIS_URL.",
        ),
        (
            settings.lacks_qdrant and bool(settings.services) and settings.served != set(ALL_SERVICES),
            "SERVICES: collections are shared by several processes through Qdrant alone; set QDRANT_URL, or leave them out.",
        ),
        (
            settings.database_min_connections > settings.database_max_connections,
            "DATABASE_MIN_CONNECTIONS is more than DATABASE_MAX_CONNECTIONS.",
        ),
        (settings.usage_journal == "redis" and settings.redis_url is None, "USAGE_JOURNAL=redis needs REDIS_URL."),
        (
            settings.cors_allow_credentials and "*" in settings.allowed_origins,
            "CORS_ALLOW_CREDENTIALS is refused with ALLOWED_ORIGINS=*; name the origins.",
        ),
        (
            production and secret is None,
            f"JWT_SECRET must be set when APP_ENV is production, to {MIN_SECRET_CHARS} characters or more.",
        ),
        (
            secret is not None and len(secret) < MIN_SECRET_CHARS,
            f"JWT_SECRET has {len(secret or '')} characters; {MIN_SECRET_CHARS} or more are needed.",
        ),
    ]
    files = {
        "TLS_CERT_FILE": settings.tls_cert_file,
        "TLS_KEY_FILE": settings.tls_key_file,
        "TLS_CLIENT_CA_FILE": settings.tls_client_ca_file,
        "TIERS_FILE": settings.tiers_file,
        "SERVICE_TLS_CA_FILE": settings.service_tls_ca_file,
        "SERVICE_TLS_CERT_FILE": settings.service_tls_cert_file,
        "SERVICE_TLS_KEY_FILE": settings.service_tls_key_file,
    }
    found += [
        (path is not None and not path.is_file(), f"{name}: there is no file {str(path)!r}.")
        for name, path in files.items()
    ]
    found += _remote_contradictions(settings)
    own = settings.model_path
    found.append((own is not None and not own.exists(), f"MODEL_PATH: there is no {str(own)!r}."))
    return [sentence for holds, sentence in found if holds]


def _remote_contradictions(settings: Settings) -> list[tuple[bool, str]]:
    remote, served = settings.remote, settings.served
    found = [
        (
            not {service for service, own in remote.items() if own == name} & served,
            f"{name} is set, but SERVICES leaves out what it is for.",
        )
        for name in sorted(set(remote.values()))
    ]
    found.append(
        (
            (settings.service_tls_cert_file is None) != (settings.service_tls_key_file is None),
            "SERVICE_TLS_CERT_FILE and SERVICE_TLS_KEY_FILE go together; set both or neither.",
        )
    )
    found.append((bool(settings.service_key) and not settings.service_key.isascii(), "SERVICE_KEY is no API key."))
    return found


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
        return (":" if any(isinstance(part, int) for part in default) else ",").join(str(part) for part in default)
    return f"{default:g}" if isinstance(default, float) else str(default)


LogFormat = Literal["json", "console"]


def log_format(settings: Settings) -> LogFormat:
    """Resolve LOG_FORMAT=auto: console on a terminal, else json."""
    if settings.log_format == "auto":
        return "console" if sys.stderr.isatty() else "json"
    return "json" if settings.log_format == "json" else "console"
