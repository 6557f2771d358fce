"""The checker finds bugs that are seeded in a real worker on real servers, and says nothing of one without."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from chaos.checker import check
from chaos.clients import Caller, Client, Record, Reply
from chaos.crowd import EMBED
from chaos.faulty import FAULTS, command
from chaos.fleet import Fleet
from chaos.record import Quota, Rate, Revocation
from chaos.rounds import assemble
from chaos.test_limits import make_key
from servers import PostgresServer, RedisServer

RATE, QUOTA = Rate(6, 3), 8
ENVIRON = {
    "RATE_LIMIT_REQUESTS_PER_MINUTE": str(RATE.per_minute), "RATE_LIMIT_BURST": str(RATE.burst),
    "PRO_TIER_LIMIT": str(QUOTA), "ENFORCE_PAID_LIMITS": "true",
}  # fmt: skip
ASKED_AFTER_S = 2.0
"""How long a revoked key is used on: past the bound, and less than a deaf worker believes a record."""

FOUND = {
    "nothing": "",
    "deaf": "the_revoked_stay_out",
    "settles-twice": "errors_are_documented",
    "bills-twice": "nothing_is_twice",
    "counts-twice": "quotas_hold",
    "drops-appends": "answered_is_in_the_ledger",
    "bills-failures": "the_refused_pay_nothing",
    "overlooks-quotas": "quotas_hold",
    "overlooks-rates": "rates_hold",
}
"""The invariant that each fault breaks; more may be broken by it."""


def test_every_fault_has_its_invariant() -> None:
    """No fault is forgotten here."""
    assert FOUND.keys() == FAULTS.keys()


@pytest.mark.parametrize("fault", list(FOUND))
def test_the_checker_finds_it(
    tmp_path: Path, models_dir: Path, postgres: PostgresServer, redis_server: RedisServer, fault: str
) -> None:
    """One worker, one client of each kind, one after the other; a revocation takes its time where it is what counts."""

    async def scenario() -> set[str]:
        record = Record(fault)
        fleet = Fleet(
            tmp_path, models_dir, postgres=postgres, redis=redis_server, command=command(fault), environ=ENVIRON
        )
        async with fleet:
            admin = await asyncio.to_thread(fleet.make_caller, "admin@example.org", "scale", ("keys", "admin"))
            client = Client(record)
            made = {
                tier: await make_key(client, fleet, admin, f"{tier}@example.org", tier)
                for tier in ("scale", "free", "pro")
            }
            for _ in range(6):
                await ask(client, fleet, made["scale"])
            await client.ask(fleet.places[0], "POST", EMBED, {"texts": [""]}, caller=made["scale"])
            for _ in range(3 * RATE.burst):
                await ask(client, fleet, made["free"])
            for _ in range(2 * QUOTA):
                await ask(client, fleet, made["pro"])
            revoked = fault in ("nothing", "deaf")
            revocations = [await use_beyond_revocation(client, fleet, admin)] if revoked else []
            await client.close()
            await fleet.close()
            rates, quotas = {made["free"].organisation: RATE}, {made["pro"].organisation: Quota(QUOTA)}
            run = await assemble(fleet, record, revocations, rates, quotas)
        return {said.partition(":")[0] for said in check(run)}

    found = asyncio.run(scenario())
    assert FOUND[fault] in found if FOUND[fault] else not found, found


async def ask(client: Client, fleet: Fleet, caller: Caller) -> Reply:
    """Ask for one vector."""
    return await client.ask(fleet.places[0], "POST", EMBED, {"texts": ["Hello world"]}, caller=caller)


async def use_beyond_revocation(client: Client, fleet: Fleet, admin: Caller) -> Revocation:
    """Use a key, revoke it, and go on using it for as long as it may take to count."""
    caller = await make_key(client, fleet, admin, "gone@example.org", "scale")
    await ask(client, fleet, caller)
    reply = await client.ask(fleet.places[0], "DELETE", f"/v1/keys/{caller.credential}", caller=admin)
    # A worker with a bug may answer wrongly; the key is revoked all the same.
    revocation = Revocation(caller.credential, time.time())
    assert reply.status in (200, 500), reply
    while time.time() < revocation.acknowledged_at + ASKED_AFTER_S:
        await ask(client, fleet, caller)
        await asyncio.sleep(0.1)
    return revocation
