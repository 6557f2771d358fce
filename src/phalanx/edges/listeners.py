"""Listening sockets, bound before anything slow is loaded, and errors that say what to do when they cannot be."""

from __future__ import annotations

import errno
import os
import resource
import socket

BACKLOG = 4096
"""Connections that wait to be accepted; Linux takes the smaller of this and `net.core.somaxconn`."""
OTHER_FILES = 256
"""Open files to leave for everything but connections: models, databases, upstreams."""


class CannotListen(Exception):
    """An address cannot be bound. The message names it, the reason and the setting to change."""


def bind(host: str, port: int, *, setting: str, shared: bool = False) -> list[socket.socket]:
    """Bind every address of `host`, at one port, and return the sockets, listening. Port 0 takes a free one.

    A `shared` port is bound by several processes (SO_REUSEPORT), each of which listens for itself: this one does not.

    The kernel queues connections from here on, so that who comes while models load waits and is not turned
    away. Raises `CannotListen`; `setting` is the variable that it names.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as unknown:
        raise CannotListen(
            f"{host!r} is neither an address nor a name of this machine; set {setting} to an address such as 127.0.0.1."
        ) from unknown
    sockets: list[socket.socket] = []
    try:
        for family, address in sorted({(family, address[0]) for family, *_, address in found}):
            _bind_one(sockets, family, str(address), sockets[0].getsockname()[1] if sockets else port, shared)
    except OSError as refused:
        for bound in sockets:
            bound.close()
        raise CannotListen(_reason(refused, host, port, setting)) from refused
    return sockets


def _bind_one(sockets: list[socket.socket], family: int, address: str, port: int, shared: bool) -> None:
    # With the protocol named, asyncio too sets TCP_NODELAY on what is accepted.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        if not shared:
            listener.listen(BACKLOG)
    except OSError as refused:
        listener.close()
        # A name such as localhost may have an address of a family that this machine does not run.
        if refused.errno == errno.EADDRNOTAVAIL and sockets:
            return
        raise
    listener.setblocking(False)
    sockets.append(listener)


def _reason(refused: OSError, host: str, port: int, setting: str) -> str:
    at = f"port {port} on {host}"
    if refused.errno == errno.EADDRINUSE:
        return f"{at} is taken by another process; set {setting} to another, or stop that process."
    if refused.errno == errno.EACCES:
        return f"{at} is not for this user: ports below 1024 are for root; set {setting} to a higher one."
    if refused.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine; set {setting} to one of its own, or to 0.0.0.0 for all."
    return f"{at} cannot be bound ({os.strerror(refused.errno or 0)}); set {setting} to another."


def make_room(connections: int) -> int:
    """Raise the soft limit of open files towards what `connections` need; return how many connections fit, at least 1."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, soft - OTHER_FILES))
