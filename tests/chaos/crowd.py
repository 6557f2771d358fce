"""Clients of every kind at once: those within their limits and those past them, those who leave, those whose keys end."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from chaos.clients import NOBODY, Caller, Client, Record, Reply
from chaos.fleet import Fleet, Place
from chaos.record import Quota, Rate, Revocation

EMBED = "/v1/text/embed"
FREE_QUOTA, PRO_QUOTA = 150, 250
RATE = Rate(120, 10)
ENVIRON = {
    "FREE_TIER_LIMIT": str(FREE_QUOTA), "PRO_TIER_LIMIT": str(PRO_QUOTA), "ENFORCE_PAID_LIMITS": "true",
    "RATE_LIMIT_REQUESTS_PER_MINUTE": str(RATE.per_minute), "RATE_LIMIT_BURST": str(RATE.burst),
}  # fmt: skip
DOWN_PAUSE_S = 0.05
KEPT_ASKING_S = 6.0
"""How long a key's clients go on after it was revoked: past every bound."""


class Crowd:
    """See the module. Choices come from `draw`, so that a seed repeats them, as far as time does not differ."""

    def __init__(self, fleet: Fleet, record: Record, draw: random.Random) -> None:
        self.fleet = fleet
        self.record = record
        self.revocations: list[Revocation] = []
        self.rates: dict[str, Rate] = {}
        self.quotas: dict[str, Quota] = {}
        self._draw = draw
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients = [Client(record)]
        self._numbers = itertools.count(1)
        self._stopping = asyncio.Event()

    async def start(self, admin: Caller) -> None:
        """Let everybody begin."""
        for _ in range(3):
            self._go(self._steady, await self._new_key(admin, "scale"), 0.02)
        self._go(self._leaving, await self._new_key(admin, "scale"), 0.05)
        for _ in range(2):
            self._go(self._steady, await self._new_key(admin, "free"), 0.2)
        self._go(self._using_up, admin)
        self._go(self._ending_keys, admin)
        self._go(self._ending_sessions)

    async def stop(self) -> None:
        """Let everybody finish their call, and take no other. Raises what a client raised."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)
        for client in self._clients:
            await client.close()

    def _go(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> asyncio.Task[None]:
        async def run() -> None:
            client = Client(self.record)
            self._clients.append(client)
            await work(client, *arguments)

        task = asyncio.create_task(run())
        self._tasks.add(task)
        return task

    async def _steady(self, client: Client, caller: Caller, pause_s: float, until: float = float("inf")) -> None:
        """Ask any worker, again and again."""
        while not self._stopping.is_set() and time.time() < until:
            reply = await client.ask(self._any(), "POST", EMBED, self._body(), caller=caller)
            await asyncio.sleep(self._draw.expovariate(1 / pause_s) if reply.status else DOWN_PAUSE_S)

    async def _leaving(self, client: Client, caller: Caller, pause_s: float) -> None:
        """Leave at any moment between the sending and the answer."""
        while not self._stopping.is_set():
            patience_s = self._draw.uniform(0, 0.01)
            await client.ask(self._any(), "POST", EMBED, self._body(), caller=caller, leave_after_s=patience_s)
            await asyncio.sleep(self._draw.expovariate(1 / pause_s))

    async def _using_up(self, client: Client, admin: Caller) -> None:
        """Several at once use up an organisation's month, and are refused from then on; then another organisation."""
        while not self._stopping.is_set():
            caller = await self._new_key(admin, "pro", client)
            askers = [self._go(self._until_refused, caller) for _ in range(3)]
            await asyncio.gather(*askers)

    async def _until_refused(self, client: Client, caller: Caller) -> None:
        refusals = 0
        while not self._stopping.is_set() and refusals < 20:
            reply = await client.ask(self._any(), "POST", EMBED, self._body(), caller=caller)
            refusals += reply.code == "quota_exceeded"
            await asyncio.sleep(0.02 if reply.status else DOWN_PAUSE_S)

    async def _ending_keys(self, client: Client, admin: Caller) -> None:
        """Make a key, use it, end it by revocation or rotation, and go on using it."""
        while not self._stopping.is_set():
            caller = await self._new_key(admin, "scale", client)
            askers = [self._go(self._steady, caller, 0.05, time.time() + 2 * KEPT_ASKING_S) for _ in range(2)]
            await asyncio.sleep(self._draw.uniform(0.2, 2.0))
            if self._draw.random() < 0.3:
                await self._end_once(client, admin, caller, "POST", f"/v1/keys/{caller.credential}/rotate", {})
            else:
                await self._insist(client, "DELETE", f"/v1/keys/{caller.credential}", None, admin)
                self.revocations.append(Revocation(caller.credential, time.time()))
            await asyncio.gather(*askers)

    async def _end_once(self, client: Client, by: Caller, ended: Caller, method: str, path: str, body: Any) -> None:
        """End a credential by a call that is not to be repeated; whether it ended is known only from its answer."""
        reply = await client.ask(self._any(), method, path, body, caller=by)
        if reply.status == 200:
            self.revocations.append(Revocation(ended.credential, time.time()))

    async def _ending_sessions(self, client: Client) -> None:
        """Sign up, log in, call, log out, and go on calling with the access token."""
        while not self._stopping.is_set():
            number = next(self._numbers)
            account = {"email": f"user-{number}@example.org", "password": f"correct horse battery {number}"}
            await client.ask(self._any(), "POST", "/v1/auth/signup", account, caller=NOBODY)
            reply = await client.ask(self._any(), "POST", "/v1/auth/login", account, caller=NOBODY)
            if reply.status != 200:
                await asyncio.sleep(1.0)
                continue
            token = Caller(reply.json["access_token"], f"session-{number}", "")
            me = await self._insist(client, "GET", "/v1/auth/me", None, token)
            user = token._replace(organisation=me.json["organisation"])
            self.rates[user.organisation], self.quotas[user.organisation] = RATE, Quota(FREE_QUOTA)
            asker = self._go(self._steady, user, 0.7, time.time() + 2 * KEPT_ASKING_S)
            await asyncio.sleep(self._draw.uniform(0.2, 2.0))
            await self._end_once(client, user, user, "POST", "/v1/auth/logout", {})
            await asker

    async def _new_key(self, admin: Caller, tier: str, client: Client | None = None) -> Caller:
        """Make an organisation with a key, and note its limits."""
        email = f"{tier}-{next(self._numbers)}@example.org"
        request = {"email": email, "tier": tier, "scopes": ["text"]}
        made = (await self._insist(client or self._clients[0], "POST", "/v1/keys", request, admin)).json
        caller = Caller(made["key"], made["record"]["id"], made["record"]["organisation"])
        if tier == "free":
            self.rates[caller.organisation] = RATE
        if tier != "scale":
            self.quotas[caller.organisation] = Quota(FREE_QUOTA if tier == "free" else PRO_QUOTA)
        return caller

    async def _insist(self, client: Client, method: str, path: str, body: Any, caller: Caller) -> Reply:
        """Send a call until it is answered with success; what must not be refused fails the run."""
        while True:
            reply = await client.ask(self._any(), method, path, body, caller=caller)
            if reply.status == 200:
                return reply
            assert reply.status in (0, 502, 503, 504), f"{method} {path}: {reply.status} {reply.body!r}"
            await asyncio.sleep(DOWN_PAUSE_S)

    def _any(self) -> Place:
        return self._draw.choice(self.fleet.places)

    def _body(self) -> dict[str, Any]:
        kind = self._draw.random()
        if kind < 0.03:
            return {"texts": [""]}
        if kind < 0.5:
            return {"texts": [f"the same {self._draw.randrange(20)}"]}
        return {"texts": [f"something new {self._draw.random()}" for _ in range(self._draw.randint(1, 3))]}
