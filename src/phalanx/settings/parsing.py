"""Texts of the environment to values. Each parser raises ValueError with what was wrong, which the reader shows."""

from __future__ import annotations

import ipaddress
import os
import re
import typing
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from phalanx.contract.keys import ALL_SCOPES, Scope
from phalanx.contract.services import ALL_SERVICES, GROUPS, ServiceName

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Secret(str):
    """A string that does not show itself when printed, logged or formatted with `repr`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'[REDACTED]'"


def text(raw: str) -> str:
    """Any text."""
    return raw


def number(low: float, high: float) -> Callable[[str], float]:
    """A number in a range."""

    def parse(raw: str) -> float:
        value = float(raw)
        if not low <= value <= high:
            raise ValueError(f"{raw!r} is not a number from {low:g} to {high:g}")
        return value

    return parse


def integer(low: int, high: int) -> Callable[[str], int]:
    """A whole number in a range."""

    def parse(raw: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,18}", raw) or not low <= int(raw) <= high:
            raise ValueError(f"{raw!r} is not a whole number from {low} to {high}")
        return int(raw)

    return parse


def port_or_off(raw: str) -> int | None:
    """A port, or None for `off`."""
    return None if raw.lower() == "off" else integer(0, 65535)(raw)


def flag(raw: str) -> bool:
    """A yes or no."""
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if raw.lower() not in words:
        raise ValueError(f"{raw!r} is neither true nor false")
    return words[raw.lower()]


def choice(*words: str) -> Callable[[str], str]:
    """One of some words, in any case."""

    def parse(raw: str) -> str:
        if raw.lower() not in words:
            raise ValueError(f"{raw!r} is none of {', '.join(words)}")
        return raw.lower()

    return parse


def path(raw: str) -> Path:
    """A path; `~` is the home folder."""
    return Path(raw).expanduser()


def bind(raw: str) -> tuple[str, int]:
    """An address and a port."""
    host, _, port = raw.rpartition(":")
    return host.strip("[]") or "127.0.0.1", integer(0, 65535)(port)


def scopes(raw: str) -> tuple[Scope, ...]:
    """Scopes, by comma."""
    names = tuple(part.strip() for part in raw.split(",") if part.strip())
    unknown = [name for name in names if name not in ALL_SCOPES]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no such scope; there are {', '.join(ALL_SCOPES)}")
    return typing.cast("tuple[Scope, ...]", names)


def services(raw: str) -> tuple[ServiceName, ...]:
    """Services or groups of them, by comma; all is none in particular."""
    names = [part.lower() for part in words(raw)]
    unknown = [name for name in names if name not in (*ALL_SERVICES, *GROUPS)]
    if unknown:
        raise ValueError(
            f"{', '.join(unknown)}: no such service; there are {', '.join(ALL_SERVICES)}, "
            f"and for several {', '.join(GROUPS)}"
        )
    if "all" in names:
        return ()
    wanted = {one for name in names for one in GROUPS.get(name, (name,))}
    return tuple(name for name in ALL_SERVICES if name in wanted)


def key_prefix(raw: str) -> str:
    """What keys begin with."""
    if not re.fullmatch(r"[A-Za-z0-9]{1,16}_", raw):
        raise ValueError(f"{raw!r} is not 1 to 16 letters or digits and an underscore")
    return raw


def header(raw: str) -> str:
    """A header's name."""
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", raw):
        raise ValueError(f"{raw!r} is not a header name")
    return raw


def device(raw: str) -> str:
    """A device."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", raw.lower()):
        raise ValueError(f"{raw!r} is none of auto, cpu, cuda:0")
    return "cuda:0" if raw.lower() == "cuda" else raw.lower()


def rust_log(raw: str) -> str:
    """Take the default level out of a Rust log filter such as `info,api=debug`."""
    levels = [part.strip().lower() for part in raw.split(",") if "=" not in part]
    level = next((part for part in levels if part), "info")
    return choice("trace", "debug", "info", "warn", "warning", "error", "off")(level)


def user_data_dir() -> Path:
    """Where this user's programs keep their data."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "phalanx"


def words(raw: str) -> tuple[str, ...]:
    """Words, by comma."""
    return tuple(part.strip() for part in raw.split(",") if part.strip())


def origins(raw: str) -> tuple[str, ...]:
    """Origins of web pages, by comma."""
    origins = words(raw)
    for origin in origins:
        if origin != "*" and not re.fullmatch(r"https?://[^/\s*]+(:\d+)?", origin):
            raise ValueError(f"{origin!r} is no origin such as https://app.example.org, nor *")
    return origins


def image_hosts(raw: str) -> tuple[str, ...]:
    """Names or addresses of hosts, without a port, by comma; a leading dot stands for what is below one."""
    hosts = words(raw)
    for host in hosts:
        if not re.fullmatch(r"\.?[^\s/:*@.?#][^\s/:*@?#]*|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*", host):
            raise ValueError(f"{host!r} is no host such as images.example.org, nor .example.org for all below")
    return hosts


def networks(raw: str) -> tuple[Network, ...]:
    """Addresses or networks, by comma."""
    if "*" in raw:
        raise ValueError("* would let every caller choose its own address; name the proxies' networks")
    return tuple(ipaddress.ip_network(part, strict=False) for part in words(raw))


def methods(raw: str) -> tuple[str, ...]:
    """HTTP methods, by comma."""
    methods = tuple(word.upper() for word in words(raw))
    if not all(re.fullmatch(r"[A-Z]{3,16}|\*", method) for method in methods):
        raise ValueError(f"{raw!r} is no list of methods")
    return methods


def database_url(raw: str) -> Secret:
    """A database's URL."""
    if not raw.startswith(
        ("sqlite:///", "sqlite+aiosqlite:///", "postgres://", "postgresql://", "postgresql+asyncpg://")
    ):
        raise ValueError("it begins with none of sqlite:///, postgres://, postgresql://")
    return Secret(raw)


def redis_url(raw: str) -> Secret:
    """A Redis server's URL."""
    if not raw.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("it begins with none of redis://, rediss://, unix://")
    return Secret(raw)


def qdrant_url(raw: str) -> Secret:
    """A Qdrant server's URL."""
    parts = urlsplit(raw)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it is not http://host or https://host")
    if parts.path.strip("/") or parts.query:
        raise ValueError("it has a path; only a host and a port are used")
    _ = parts.port  # raises ValueError for what is no port
    return Secret(raw)


def secrets(raw: str) -> tuple[Secret, ...]:
    """Secrets, by comma."""
    return tuple(Secret(word) for word in words(raw))
