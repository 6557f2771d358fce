"""`phalanx doctor`: what is wrong with this installation, and how to mend it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

import typer
from rich.console import Console

from phalanx.app import ONE_PROCESS, look_at_qdrant, look_at_redis, open_store
from phalanx.app.models import models_to_pull
from phalanx.engines.backends import choose_device, describe_devices
from phalanx.engines.threads import usable_cpus
from phalanx.errors import PhalanxError
from phalanx.models.store import ModelStore
from phalanx.settings import Settings, SettingsError, load
from phalanx.stores.sql.database import check as check_schema

LOW_DISK_BYTES = 2 * 2**30


class Finding(NamedTuple):
    """One thing looked at: whether it is well, what was found, what to do if it is not."""

    well: bool | None
    subject: str
    found: str
    remedy: str = ""


def doctor() -> None:
    """Check settings, folders, database, models, processor and port; exit status 1 when something must be mended.

    \b
    Example:
      PORT=9000 phalanx doctor
    """
    console = Console(highlight=False)
    failed = False
    for finding in examine():
        mark = {True: "[green]ok[/]  ", None: "[yellow]note[/]", False: "[red]fail[/]"}[finding.well]
        console.print(f"{mark} {finding.subject:10} {finding.found}", soft_wrap=True)
        if finding.remedy:
            console.print(f"                → {finding.remedy}", soft_wrap=True)
        failed |= finding.well is False
    if failed:
        raise typer.Exit(1)


def examine() -> Iterator[Finding]:
    """Yield what is found, in the order in which a start would stumble over it."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(sys.version_info >= (3, 11), "python", version)
    try:
        settings, remarks = load()
    except SettingsError as error:
        for problem in error.problems:
            yield Finding(False, "settings", problem, "`phalanx settings` lists them all")
        return
    yield Finding(True, "settings", "all values can be read")
    for remark in remarks:
        yield Finding(None, "settings", remark)
    looks: list[Callable[[Settings], Iterator[Finding]]] = [
        _folders,
        _database,
        _redis,
        _qdrant,
        _workers,
        _secret,
        _models,
        _remote,
        _processor,
        _port,
    ]
    for look in looks:
        yield from look(settings)


def _folders(settings: Settings) -> Iterator[Finding]:
    existing = next(path for path in (settings.data_dir, *settings.data_dir.parents) if path.exists())
    try:
        # Nothing is left of it. Permissions alone do not say it: root has them all, also where nothing can be made.
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        remedy = "make it a folder that can be written to, or set DATA_DIR to one"
        yield Finding(False, "data", f"{settings.data_dir} is not writable: {error.strerror}", remedy)
    else:
        yield Finding(True, "data", f"{settings.data_dir} is writable")
    free = shutil.disk_usage(existing).free
    low = free < LOW_DISK_BYTES
    yield Finding(
        None if low else True, "disk", f"{free / 2**30:.1f} GiB free", "models take a few hundred MiB" if low else ""
    )


def _database(settings: Settings) -> Iterator[Finding]:
    try:
        current = check_schema(settings.database)
    except (PhalanxError, SettingsError) as error:
        yield Finding(False, "database", str(error), "look at DATABASE_URL")
        return
    if current:
        yield Finding(True, "database", "has this version's schema")
    else:
        yield Finding(None, "database", "has no schema of this version yet", "phalanx db migrate (a start does it too)")


def _qdrant(settings: Settings) -> Iterator[Finding]:
    if settings.qdrant_url is None:
        if settings.lacks_qdrant:
            yield Finding(None, "qdrant", ONE_PROCESS, "set QDRANT_URL, or do without collections")
        return
    try:
        asyncio.run(look_at_qdrant(settings.qdrant_url, settings.qdrant_api_key))
    except PhalanxError as error:
        remedy = "is it running, and may this machine reach its gRPC port?"
        yield Finding(False, "qdrant", f"QDRANT_URL: {error.detail}", remedy)
    else:
        yield Finding(True, "qdrant", "QDRANT_URL answers")


def _redis(settings: Settings) -> Iterator[Finding]:
    named = {
        "REDIS_URL": settings.redis_url,
        "REDIS_CACHE_URL": settings.redis_cache_url,
        "QUEUE_REDIS_URL": settings.queue_redis_url,
    }
    for name, url in named.items():
        if url is None:
            continue
        try:
            warning = asyncio.run(look_at_redis(url, name))
        except PhalanxError as error:
            yield Finding(False, "redis", f"{name}: {error.detail}", "is it running, and may this machine reach it?")
            continue
        if warning and name != "REDIS_CACHE_URL":
            yield Finding(
                False, "redis", warning, "CONFIG SET maxmemory-policy noeviction, and in its configuration file"
            )
        else:
            yield Finding(True, "redis", f"{name} answers")
    if settings.redis_url is not None and settings.redis_cache_url is None:
        shared = "cached vectors share REDIS_URL's memory with the counters"
        yield Finding(None, "redis", shared, "set REDIS_CACHE_URL to a server or database number of its own")


def _workers(settings: Settings) -> Iterator[Finding]:
    if settings.is_shared:
        yield Finding(True, "workers", f"{settings.workers} here; any number beside them on the same stores")
        return
    embedded = "DATABASE_URL is SQLite" if settings.database.startswith("sqlite") else "REDIS_URL is not set"
    yield Finding(None, "workers", f"one worker only, since {embedded}", "more need PostgreSQL and Redis")


def _secret(settings: Settings) -> Iterator[Finding]:
    if settings.jwt_secret is None:
        said = "JWT_SECRET is not set: access tokens are signed with a secret made in DATA_DIR"
        remedy = "set it, or workers with another DATA_DIR refuse each other's tokens" if settings.is_shared else ""
        yield Finding(None if settings.is_shared else True, "tokens", said, remedy)
    if not settings.is_loopback and not settings.trusted_proxy_ips:
        said = "TRUSTED_PROXY_IPS is empty: callers are known by the address that connects"
        yield Finding(None, "proxies", said, "behind a proxy name it, or all strangers share one limit")


def _remote(settings: Settings) -> Iterator[Finding]:
    if not settings.remote:
        return
    # Who calls no other worker is spared gRPC's memory.
    from phalanx.app.remote_look import look_at_remote

    for seen in asyncio.run(look_at_remote(settings)):
        yield Finding(seen.well, "remote", seen.found, seen.remedy)


def _models(settings: Settings) -> Iterator[Finding]:
    if "text" not in settings.served - set(settings.remote):
        by = settings.remote.get("text")
        said = (
            f"none is needed for text: {by} has the workers that do" if by else "none is needed: SERVICES has no text"
        )
        yield Finding(True, "model", said)
    elif settings.model_path is not None:
        yield Finding(True, "model", f"your own: {settings.model_path}")
    store = open_store(settings)
    # Images are served without the detector, and a worker of all services without any face model.
    named = bool(settings.services) and bool(settings.served & {"face-detection", "face-embedding"})
    for name in models_to_pull(settings):
        is_needed = name == settings.model_name or named
        yield from _model(store, name, False if is_needed else None)


def _model(store: ModelStore, name: str, otherwise: bool | None) -> Iterator[Finding]:
    """Look at the active version of a model; `otherwise` is what is said when it is not there as it should be."""
    remedy = f"phalanx models pull {name}" if store.catalogue.find(name) else "set MODEL_NAME to one of them"
    try:
        version = store.active(name)
        damaged = [report for report in store.verify(name) if report.problem]
    except PhalanxError as error:
        yield Finding(otherwise, "model", error.detail.removesuffix(f"; run: {remedy}"), remedy)
        return
    for report in damaged:
        yield Finding(otherwise, "model", f"{report.file}: {report.problem}", remedy)
    if not damaged:
        yield Finding(True, "model", f"{version.name} {version.version}, every byte as pinned")


def _processor(settings: Settings) -> Iterator[Finding]:
    yield Finding(True, "cpu", f"{usable_cpus()} usable by this process (of {os.cpu_count()})")
    for line in describe_devices():
        yield Finding(True, "engine", line)
    try:
        yield Finding(True, "device", choose_device(settings.engine, settings.device))
    except PhalanxError as error:
        yield Finding(False, "device", error.detail)


def _port(settings: Settings) -> Iterator[Finding]:
    family = socket.AF_INET6 if ":" in settings.app_host else socket.AF_INET
    for name, host, port in (
        ("PORT", settings.app_host, settings.port),
        *((("GRPC_PORT", settings.app_host, settings.grpc_port),) if settings.grpc_port else ()),
        *((("PROMETHEUS_BIND", *settings.prometheus_bind),) if settings.metrics_enabled else ()),
    ):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                yield Finding(True, "port", f"{host}:{port} is free ({name})")
            except OSError as error:
                yield Finding(
                    None,
                    "port",
                    f"{host}:{port} cannot be taken: {error.strerror}",
                    f"is a worker up already? else set {name}",
                )
