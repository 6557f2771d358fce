"""One suite for both shapes of an installation: a worker alone, and three on PostgreSQL and Redis."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from chaos.clients import Caller, Client, Record
from chaos.fleet import Fleet
from chaos.rounds import assemble, require
from servers import PostgresServer, RedisServer
from servers.worker import WorkerProcess

EMBED = "/v1/text/embed"
REVOKED_WITHIN_S = 1.0
BURST = 20
ENVIRON = {
    "RATE_LIMIT_REQUESTS_PER_MINUTE": "4",
    "RATE_LIMIT_BURST": str(BURST),
    "PRO_TIER_LIMIT": "7",
    "ENFORCE_PAID_LIMITS": "true",
}
SHARED_WITHIN_S = 60.0
numbers = itertools.count(1)
R = TypeVar("R")


class Shape(NamedTuple):
    """An installation: its workers, any of which can be asked anything, and an administrator's key."""

    fleet: Fleet
    admin: Caller

    @property
    def workers(self) -> list[WorkerProcess]:
        return [self.fleet.worker(number) for number in range(len(self.fleet.places))]

    def ask(self, method: str, path: str, body: Any = None, key: str | None = None, at: int = 0) -> tuple[int, Any]:
        """Ask the worker at a place, counted round and round; returns status and what the JSON says."""
        status, answer = self.workers[at % len(self.workers)].ask(method, path, body, key)
        return status, json.loads(answer) if answer else None

    def make_key(self, tier: str = "scale", scopes: tuple[str, ...] = ("text", "usage"), at: int = 0) -> Any:
        """Make a key of an organisation of its own, over HTTP."""
        request = {"email": f"ann-{next(numbers)}@example.org", "tier": tier, "scopes": scopes}
        status, made = self.ask("POST", "/v1/keys", request, self.admin.text, at)
        assert status == 200, made
        return made

    def everywhere(self, method: str, path: str, body: Any = None, key: str | None = None) -> list[int]:
        """Ask all workers; returns what they say."""
        return [self.ask(method, path, body, key, at)[0] for at in range(len(self.workers))]

    def while_shared(self, attempt: Callable[[], R]) -> R:
        """What an attempt gives while all limits are shared, which they are not just after a start, nor while Redis stalls."""
        deadline = time.monotonic() + SHARED_WITHIN_S
        while time.monotonic() < deadline:
            losses = len(self.fleet.degradations())
            if not any("phalanx_limits_degraded 1.0" in worker.metrics() for worker in self.workers):
                given = attempt()
                if len(self.fleet.degradations()) == losses:
                    return given
            time.sleep(0.2)
        raise AssertionError(f"limits were not shared for {SHARED_WITHIN_S:.0f} s")


@pytest.fixture(scope="module", params=["embedded", "shared"])
def shape(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, models_dir: Path
) -> Iterator[Shape]:
    """Both shapes, one after the other."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "embedded":
        fleet = Fleet(folder, models_dir, environ=ENVIRON)
    else:
        postgres: PostgresServer = request.getfixturevalue("postgres")
        redis: RedisServer = request.getfixturevalue("redis_server")
        fleet = Fleet(folder, models_dir, workers=3, postgres=postgres, redis=redis, environ=ENVIRON)
    try:
        asyncio.run(fleet.open())
        yield Shape(fleet, fleet.make_caller("admin@example.org", "scale", ("keys", "admin", "usage")))
    finally:
        fleet.kill_all()


def test_what_one_has_computed_all_have(shape: Shape) -> None:
    """The second asking is marked as cached, also by another worker, and gives the same vector; another caller's is not."""
    key, stranger, body = (
        shape.make_key()["key"],
        shape.make_key()["key"],
        {"texts": ["computed once"], "output": "base64"},
    )
    status, first = shape.ask("POST", EMBED, body, key)
    assert (status, first["items"][0]["cached"]) == (200, False)
    time.sleep(0.1)
    for at in range(len(shape.workers)):
        status, again = shape.ask("POST", EMBED, body, key, at)
        assert (status, again["items"][0]["cached"]) == (200, True)
        assert base64.b64decode(again["embeddings"][0]) == base64.b64decode(first["embeddings"][0])
    assert shape.ask("POST", EMBED, body, stranger)[1]["items"][0]["cached"] is False


def test_a_key_works_everywhere_until_it_is_revoked(shape: Shape) -> None:
    """At once after it was made; a second after it was revoked, wherever that was, nowhere."""
    made = shape.make_key(at=1)
    assert set(shape.everywhere("POST", EMBED, {"texts": ["x"]}, made["key"])) == {200}
    assert shape.ask("DELETE", f"/v1/keys/{made['record']['id']}", key=shape.admin.text, at=2)[0] == 200
    time.sleep(REVOKED_WITHIN_S)
    assert set(shape.everywhere("POST", EMBED, {"texts": ["x"]}, made["key"])) == {401}
    _, listed = shape.ask("GET", "/v1/keys", key=shape.admin.text, at=1)
    (shown,) = [key for key in listed["keys"] if key["id"] == made["record"]["id"]]
    assert shown["revoked_at"] is not None
    assert made["key"] not in json.dumps(listed)


def test_a_rotated_key_has_its_grace(shape: Shape) -> None:
    """Old and new work side by side; without a grace the old one ends."""
    made = shape.make_key()
    path = f"/v1/keys/{made['record']['id']}/rotate"
    status, second = shape.ask("POST", path, {"grace_seconds": 60}, shape.admin.text, 1)
    assert status == 200
    for key in (made["key"], second["key"]):
        assert set(shape.everywhere("POST", EMBED, {"texts": ["x"]}, key)) == {200}
    status, third = shape.ask("POST", f"/v1/keys/{second['record']['id']}/rotate", {}, shape.admin.text, 2)
    assert status == 200
    time.sleep(REVOKED_WITHIN_S)
    assert set(shape.everywhere("POST", EMBED, {"texts": ["x"]}, second["key"])) == {401}
    assert set(shape.everywhere("POST", EMBED, {"texts": ["x"]}, third["key"])) == {200}


def test_users_and_their_sessions(shape: Shape) -> None:
    """Signed up here, logged in there; a logout is the end everywhere, of refreshing too."""
    account = {"email": f"eve-{next(numbers)}@example.org", "password": "correct horse battery staple"}
    assert shape.ask("POST", "/v1/auth/signup", account, at=0)[0] == 200
    assert shape.ask("POST", "/v1/auth/signup", account, at=1)[0] == 409
    assert shape.ask("POST", "/v1/auth/login", {**account, "password": "wrong"}, at=1)[0] == 401
    status, tokens = shape.ask("POST", "/v1/auth/login", account, at=1)
    assert (status, tokens["token_type"].lower()) == (200, "bearer")
    status, me = shape.ask("GET", "/v1/auth/me", key=tokens["access_token"], at=2)
    assert (status, me["email"]) == (200, account["email"])
    status, newer = shape.ask("POST", "/v1/auth/refresh", {"refresh_token": tokens["refresh_token"]}, at=2)
    assert status == 200
    assert set(shape.everywhere("GET", "/v1/auth/me", key=newer["access_token"])) == {200}
    assert shape.ask("POST", "/v1/auth/logout", {}, newer["access_token"], 0)[0] == 200
    assert shape.ask("GET", "/v1/auth/me", key=newer["access_token"], at=0)[0] == 401
    time.sleep(REVOKED_WITHIN_S)
    for token in (tokens["access_token"], newer["access_token"]):
        assert set(shape.everywhere("GET", "/v1/auth/me", key=token)) == {401}
    assert shape.ask("POST", "/v1/auth/refresh", {"refresh_token": newer["refresh_token"]}, at=1)[0] == 401


def test_rates_are_shared(shape: Shape) -> None:
    """A burst is one burst, however many workers are asked."""

    def burst() -> list[int]:
        key = shape.make_key("free")["key"]
        return [shape.ask("POST", EMBED, {"texts": ["x"]}, key, at)[0] for at in range(BURST + 4)]

    assert shape.while_shared(burst) == [200] * BURST + [429] * 4


def test_quotas_are_shared(shape: Shape) -> None:
    """The month's requests are counted together, and what failed is not among them."""

    def month() -> list[tuple[int, str]]:
        key, texts = shape.make_key("pro")["key"], [[""], *[["x"]] * 9]
        answers = [shape.ask("POST", EMBED, {"texts": text}, key, at) for at, text in enumerate(texts)]
        return [(status, body.get("code", "")) for status, body in answers]

    refused, *others = shape.while_shared(month)
    assert refused[0] == 400
    assert others == [(200, "")] * 7 + [(429, "quota_exceeded")] * 2


def test_usage_is_exact_and_the_same_from_all(shape: Shape) -> None:
    """Once the watermark has passed the last call, every worker reports every call."""
    made = shape.make_key()
    for at in range(6):
        assert shape.ask("POST", EMBED, {"texts": ["one", f"two {at}"]}, made["key"], at)[0] == 200
    assert shape.ask("POST", EMBED, {"texts": [""]}, made["key"])[0] == 400
    done = time.time()
    deadline = time.monotonic() + 15
    while shape.ask("GET", "/v1/usage", key=made["key"])[1]["complete_until"] <= done:
        assert time.monotonic() < deadline, "the watermark stands still"
        time.sleep(0.2)
    for at in range(len(shape.workers)):
        status, report = shape.ask("GET", "/v1/usage?by=operation", key=made["key"], at=at)
        assert status == 200
        (row,) = [row for row in report["rows"] if row["group"] == "text.embed"]
        assert (row["requests"], row["billed"], row["errors"], row["cached"]) == (7, 6, 1, 5)


def test_sigterm_under_load_loses_nothing(shape: Shape) -> None:
    """One worker after the other is drained while clients call; every answer is in the ledger, once. The last test."""
    made = shape.make_key()
    caller = Caller(made["key"], made["record"]["id"], made["record"]["organisation"])
    record, fleet = Record("drain"), shape.fleet

    async def scenario() -> None:
        asking = [asyncio.create_task(ask_while_there(fleet, record, caller)) for _ in range(4)]
        for place in fleet.places:
            await asyncio.sleep(0.5)
            await asyncio.to_thread(fleet.stop, place)
        await asyncio.gather(*asking)
        run = await assemble(fleet, record)
        run.events = [event for event in run.events if event.request_id.startswith("drain")]
        run.daily = {group: sums for group, sums in run.daily.items() if group.organisation == caller.organisation}
        require(run)
        assert len(run.calls) > 20
        assert {call.status for call in run.calls} <= {200, 0}

    asyncio.run(scenario())


async def ask_while_there(fleet: Fleet, record: Record, caller: Caller) -> None:
    """Ask the first worker that is there, until none is."""
    client = Client(record)
    for number in itertools.count():
        place = next((place for place in fleet.places if place.process is not None), None)
        if place is None:
            break
        await client.ask(place, "POST", EMBED, {"texts": [f"text {number}"]}, caller=caller)
        await asyncio.sleep(0.005)
    await client.close()
