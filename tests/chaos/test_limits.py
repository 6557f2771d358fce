"""Three workers on one Redis let in what one would: rates and quotas are exact, whoever is asked."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from chaos.clients import Caller, Client, Record, Reply
from chaos.crowd import EMBED
from chaos.fleet import Fleet
from chaos.record import Quota, Rate
from chaos.rounds import assemble, require
from servers import PostgresServer, RedisServer

CALLERS = 200
RATE = Rate(60, 5)
SECONDS = 8.0
ORGANISATIONS, QUOTA, ASKED = 10, 25, 60
ENVIRON = {
    "RATE_LIMIT_REQUESTS_PER_MINUTE": str(RATE.per_minute), "RATE_LIMIT_BURST": str(RATE.burst),
    "PRO_TIER_LIMIT": str(QUOTA), "ENFORCE_PAID_LIMITS": "true",
}  # fmt: skip
BODY = {"texts": ["the same for all"]}


def test_three_replicas_admit_as_one(
    tmp_path: Path, models_dir: Path, postgres: PostgresServer, redis_server: RedisServer
) -> None:
    """200 callers at their rate's limit, and ten organisations that use up their month from all sides at once."""

    async def scenario() -> None:
        draw, record = random.Random(7), Record("limits")
        fleet = Fleet(tmp_path, models_dir, workers=3, postgres=postgres, redis=redis_server, environ=ENVIRON)
        async with fleet:
            admin = await asyncio.to_thread(fleet.make_caller, "admin@example.org", "scale", ("keys", "admin"))
            maker = Client(record)
            free = [await make_key(maker, fleet, admin, f"free-{n}@example.org", "free") for n in range(CALLERS)]
            pro = [await make_key(maker, fleet, admin, f"pro-{n}@example.org", "pro") for n in range(ORGANISATIONS)]
            await maker.close()
            await asyncio.gather(*(ask_for(SECONDS, fleet, record, caller, draw) for caller in free))
            replies = await asyncio.gather(*(use_up(fleet, record, caller, draw) for caller in pro))
            await fleet.close()
            run = await assemble(fleet, record)
        run.rates = {caller.organisation: RATE for caller in free}
        run.quotas = {caller.organisation: Quota(QUOTA) for caller in pro}
        require(run)
        done = run.billed()
        assert all(done[caller.organisation] >= RATE.burst for caller in free)
        for caller, answers in zip(pro, replies, strict=True):
            codes = [reply.code for reply in answers]
            assert (codes.count(""), codes.count("quota_exceeded")) == (QUOTA, ASKED - QUOTA)
            assert done[caller.organisation] == QUOTA

    asyncio.run(scenario())


async def make_key(client: Client, fleet: Fleet, admin: Caller, email: str, tier: str) -> Caller:
    """Make a key over HTTP."""
    request = {"email": email, "tier": tier, "scopes": ["text"]}
    reply = await client.ask(fleet.places[0], "POST", "/v1/keys", request, caller=admin)
    assert reply.status == 200, reply
    record = reply.json["record"]
    return Caller(reply.json["key"], record["id"], record["organisation"])


async def ask_for(seconds: float, fleet: Fleet, record: Record, caller: Caller, draw: random.Random) -> None:
    """Ask any worker, faster than allowed."""
    client, loop = Client(record), asyncio.get_running_loop()
    until = loop.time() + seconds
    while loop.time() < until:
        await client.ask(draw.choice(fleet.places), "POST", EMBED, BODY, caller=caller)
        await asyncio.sleep(draw.uniform(0.2, 0.7))
    await client.close()


async def use_up(fleet: Fleet, record: Record, caller: Caller, draw: random.Random) -> list[Reply]:
    """Ask more often than the month allows, six at a time."""

    async def ask_some(count: int) -> list[Reply]:
        client = Client(record)
        replies = [
            await client.ask(draw.choice(fleet.places), "POST", EMBED, BODY, caller=caller) for _ in range(count)
        ]
        await client.close()
        return replies

    return [reply for replies in await asyncio.gather(*(ask_some(ASKED // 6) for _ in range(6))) for reply in replies]
