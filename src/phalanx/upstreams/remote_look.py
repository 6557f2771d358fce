"""A look at another worker before it is relied on: is it there, does it know us, does it have what is wanted of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import NamedTuple

import grpc

from phalanx.settings import Secret
from phalanx.settings.remote import ServiceUrl
from phalanx.upstreams.remote_address import Address, ClientTls
from phalanx.upstreams.remote_answers import code_of, metadata_of

REACH_S = 3.0
"""For a connection, and for each answer."""


class Look(NamedTuple):
    """What was found at one address; what comes after the first that is wrong was not looked at.

    `is_listening`: something takes connections there; `is_speaking`: it speaks gRPC as we do; `health` is what it says of
    the service, empty where it has no health service. `elsewhere` and `unknown` are the rows that it says another
    worker has, and that it has never heard of. `refused` is the code with which it refused the key, empty where it did
    not. `models` are the bytes of its list of models.
    """

    is_listening: bool = False
    is_speaking: bool = False
    health: str = ""
    elsewhere: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    refused: str = ""
    models: bytes | None = None


async def look(
    url: ServiceUrl, service: str, *, rows: Mapping[str, str], models_path: str, key: Secret, tls: ClientTls
) -> Look:
    """Look at one address. `service` is the full name of the service, `rows` are the methods' paths by their rows' names.

    Nothing is computed: what has a row is asked without a credential, and the key with an empty message.
    """
    address = Address(url, tls)
    try:
        if not await address.connect(REACH_S):
            return Look(is_listening=await _is_listening(url))
        found = Look(is_listening=True, is_speaking=True)
        try:
            found = found._replace(health=await address.health(service, REACH_S))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                return found
            found = found._replace(health="SERVICE_UNKNOWN")
        elsewhere: list[str] = []
        unknown: list[str] = []
        for name, path in rows.items():
            status, code, _ = await _ask(address, path, Secret())
            if status is grpc.StatusCode.UNIMPLEMENTED:
                (elsewhere if code else unknown).append(name)
        found = found._replace(elsewhere=tuple(elsewhere), unknown=tuple(unknown))
        if len(elsewhere) + len(unknown) == len(rows):
            return found
        path = next(path for name, path in rows.items() if name not in (*elsewhere, *unknown))
        _, code, _ = await _ask(address, path, key)
        _, _, models = await _ask(address, models_path, key)
        return found._replace(refused=code, models=models)
    finally:
        await address.channel.close()


async def _ask(address: Address, path: str, key: Secret) -> tuple[grpc.StatusCode, str, bytes | None]:
    """Send an empty message; return the status, the worker's own code for an error, and the answer."""
    metadata = (("authorization", f"Bearer {key}"),) if key else ()
    call = address.channel.unary_unary(path)(b"", metadata=metadata, timeout=REACH_S)
    try:
        return grpc.StatusCode.OK, "", bytes(await call)
    except grpc.aio.AioRpcError as error:
        return error.code(), code_of(metadata_of(error.trailing_metadata())), None


async def _is_listening(url: ServiceUrl) -> bool:
    """Whether something takes connections there, whatever it speaks."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(REACH_S):
            _, writer = await asyncio.open_connection(url.host, url.port)
        writer.close()
        return True
    return False
