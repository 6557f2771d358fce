"""A worker that is killed at each point of a call's way, alone and on servers: nothing is lost, doubled or half done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chaos.clients import NOBODY, Caller, Client, Record, Reply
from chaos.crowd import EMBED
from chaos.fleet import Fleet
from chaos.killing import POINTS, command
from chaos.rounds import assemble, require
from servers import PostgresServer, RedisServer

WORKER = "worker-1"
CLIENTS = 4
PATIENCE_S = 20.0
BY_CALLS = [name for name in POINTS if not name.endswith(("rotation-commit", "refresh-commit"))]
EMBEDDED = ["after-journal", "between-events-and-sums", "before-ledger-commit", "after-ledger-commit"]
"""The points that lie in what differs between the two databases."""
Asked = tuple[str, str, Any, Caller]
PASS = {"after-admit": 7, "after-reserve": 7, "before-journal": 7, "after-journal": 7, "after-settle": 7}


@pytest.fixture
def make_fleet(tmp_path: Path, models_dir: Path, request: pytest.FixtureRequest) -> Callable[..., Fleet]:
    """Make a fleet whose first worker ends itself at a point."""

    def make(shape: str, point: str, workers: int = 1) -> Fleet:
        servers: dict[str, Any] = {}
        if shape == "shared":
            postgres: PostgresServer = request.getfixturevalue("postgres")
            redis: RedisServer = request.getfixturevalue("redis_server")
            servers = {"postgres": postgres, "redis": redis}
        return Fleet(tmp_path, models_dir, workers=workers, command=command(point, PASS.get(point, 1)), **servers)

    return make


@pytest.mark.parametrize(
    ("shape", "point"), [("shared", point) for point in BY_CALLS] + [("embedded", point) for point in EMBEDDED]
)
def test_calls_survive_a_kill(make_fleet: Callable[..., Fleet], shape: str, point: str) -> None:
    """After the next start the ledger holds what was answered, once, and of the rest what was under way at most."""

    async def scenario() -> None:
        record = Record(point)
        async with make_fleet(shape, point) as fleet:
            caller = await asyncio.to_thread(fleet.make_caller, "ann@example.org")
            await asyncio.gather(*(ask_until_it_dies(fleet, record, caller) for _ in range(CLIENTS)))
            kill = fleet.died(WORKER, record)
            assert len(kill.in_flight) <= CLIENTS
            await fleet.close()
            run = await assemble(fleet, record)
        assert any(call.is_ok for call in run.calls)
        require(run)

    asyncio.run(scenario())


async def ask_until_it_dies(fleet: Fleet, record: Record, caller: Caller) -> None:
    """Be one client of a worker until it is gone."""
    client, place, deadline = Client(record), fleet.place(WORKER), time.monotonic() + PATIENCE_S
    while fleet.worker().process.poll() is None:
        assert time.monotonic() < deadline, f"the worker never passed its kill point: {record.calls[-4:]}"
        reply = await client.ask(place, "POST", EMBED, {"texts": ["Hello world"]}, caller=caller)
        assert reply.status in (0, 200), reply
        if reply.status == 0:
            # It is dying: a call to it from now on would not be under way in it.
            await asyncio.to_thread(fleet.worker().process.wait, PATIENCE_S)
        await asyncio.sleep(0.01)
    await client.close()


@pytest.mark.parametrize("shape", ["shared", "embedded"])
@pytest.mark.parametrize(("point", "is_rotated"), [("before-rotation-commit", False), ("after-rotation-commit", True)])
def test_a_rotation_is_done_or_not(make_fleet: Callable[..., Fleet], shape: str, point: str, is_rotated: bool) -> None:
    """Either the old key is good and alone, or it is refused and has a successor."""

    async def scenario() -> None:
        record = Record(point)
        async with make_fleet(shape, point) as fleet:
            admin = await asyncio.to_thread(fleet.make_caller, "admin@example.org", "scale", ("keys", "admin"))
            old = await asyncio.to_thread(fleet.make_caller, "ann@example.org")
            rotate: Asked = ("POST", f"/v1/keys/{old.credential}/rotate", {}, admin)
            assert [reply.status for reply in await ask_all(fleet, record, rotate)] == [0]
            await mourn(fleet, record)
            await fleet.start(WORKER)
            replies = await ask_all(
                fleet, record, ("POST", EMBED, {"texts": ["x"]}, old), ("GET", "/v1/keys", None, admin)
            )
            keys = [key for key in replies[1].json["keys"] if key["organisation"] == old.organisation]
            assert (replies[0].status, len(keys)) == ((401, 2) if is_rotated else (200, 1))
            await fleet.close()
            require(await assemble(fleet, record))

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("shape", "point", "workers"),
    [
        ("embedded", "before-refresh-commit", 1),
        ("shared", "before-refresh-commit", 2),
        ("shared", "after-refresh-commit", 2),
    ],
)
def test_a_refresh_can_be_repeated(make_fleet: Callable[..., Fleet], shape: str, point: str, workers: int) -> None:
    """Whoever got no answer comes again with the token that it has, at once, and is not taken for a thief."""

    async def scenario() -> None:
        record = Record(point)
        account = {"email": "ann@example.org", "password": "correct horse battery staple"}
        async with make_fleet(shape, point, workers) as fleet:
            signup, login = (("POST", f"/v1/auth/{verb}", account, NOBODY) for verb in ("signup", "login"))
            replies = await ask_all(fleet, record, signup, login)
            assert [reply.status for reply in replies] == [200, 200]
            refresh = ("POST", "/v1/auth/refresh", {"refresh_token": replies[1].json["refresh_token"]}, NOBODY)
            assert [reply.status for reply in await ask_all(fleet, record, refresh)] == [0]
            await mourn(fleet, record)
            if workers == 1:
                await fleet.start(WORKER)
            (again,) = await ask_all(fleet, record, refresh, at=workers - 1)
            assert again.status == 200, again
            token = Caller(again.json["access_token"], "session", "")
            (me,) = await ask_all(fleet, record, ("GET", "/v1/auth/me", None, token), at=workers - 1)
            assert (me.status, me.json["email"]) == (200, account["email"])
            await fleet.close()
            require(await assemble(fleet, record))

    asyncio.run(scenario())


async def mourn(fleet: Fleet, record: Record) -> None:
    """Wait for the end of the worker that ends itself."""
    await asyncio.to_thread(fleet.worker().process.wait, PATIENCE_S)
    fleet.died(WORKER, record)


async def ask_all(fleet: Fleet, record: Record, *asked: Asked, at: int = 0) -> list[Reply]:
    """Ask a worker, one call after the other."""
    client, place = Client(record), fleet.places[at]
    replies = [await client.ask(place, method, path, body, caller=caller) for method, path, body, caller in asked]
    await client.close()
    return replies
