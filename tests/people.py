"""Users, sessions, organisations and keys on memory adapters, for tests: no gate, a clock set by hand, cheap hashes."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from argon2 import Parameters, Type

from clocks import HandClock
from phalanx.contract.keys import ALL_SCOPES
from phalanx.contract.users import LoginRequest, SignupRequest, Standing, Tokens, User
from phalanx.services.callers.keys import KeyService
from phalanx.services.callers.organisations import OrganisationService
from phalanx.services.callers.passwords import Passwords
from phalanx.services.callers.sessions import Sessions
from phalanx.services.callers.signing import SigningKeys, signing_keys
from phalanx.services.callers.throttle import Throttle
from phalanx.services.callers.tokens import TokenSigner, TokenVerifier
from phalanx.services.callers.users import UserService, scopes_of
from phalanx.services.ticket import Caller, Meter, Ticket
from phalanx.settings import Secret, Settings
from phalanx.stores.memory.directory import MemoryDirectory
from phalanx.stores.memory.keys import MemoryKeyStore
from phalanx.stores.memory.limiter import MemoryLimiter
from phalanx.stores.memory.organisations import MemoryOrganisationStore
from phalanx.stores.memory.sessions import MemorySessionStore
from phalanx.stores.memory.users import MemoryUserStore

CHEAP = Parameters(Type.ID, 19, salt_len=8, hash_len=16, time_cost=1, memory_cost=8, parallelism=1)
PASSWORD = "three blind mice"
ADDRESS = "192.0.2.1"
ACCESS_TTL_S, REFRESH_TTL_S = 900.0, 14 * 86_400.0
NOBODY = Caller("address:192.0.2.1", "anonymous", "", "anonymous", frozenset())
STAFF = Caller("operator", "operator", "operator", "operator", frozenset(ALL_SCOPES))


class Told:
    """A broadcast that keeps what was published."""

    def __init__(self) -> None:
        self.subjects: list[str] = []

    async def publish(self, subjects: Sequence[str]) -> None:
        self.subjects += subjects

    async def messages(self) -> AsyncIterator[Sequence[str] | None]:
        for subject in self.subjects:
            yield [subject]


def keys_of(secret: str = "s" * 40, *previous: str) -> SigningKeys:
    return signing_keys(Settings(jwt_secret=Secret(secret), jwt_previous_secrets=tuple(map(Secret, previous))))


class People:
    """Everything around users, wired as `app` wires it."""

    def __init__(
        self, *, signup: bool = True, parameters: Parameters = CHEAP, signing: SigningKeys | None = None
    ) -> None:
        self.clock = HandClock()
        self.told = Told()
        self.directory = MemoryDirectory()
        self.user_store = MemoryUserStore(self.directory)
        self.organisation_store = MemoryOrganisationStore(self.directory)
        self.session_store = MemorySessionStore(self.directory)
        self.key_store = MemoryKeyStore(self.directory)
        self.passwords = Passwords(parameters)
        numbers = itertools.count(1)
        self.new_id: Callable[[], str] = lambda: str(uuid.UUID(int=next(numbers)))
        signing = signing or keys_of()
        self.verifier = TokenVerifier(signing, issuer="phalanx", clock=self.clock)
        self.sessions = Sessions(
            self.session_store, self.told, TokenSigner(signing, issuer="phalanx", clock=self.clock), clock=self.clock,
            new_id=self.new_id, access_ttl_s=ACCESS_TTL_S, refresh_ttl_s=REFRESH_TTL_S,
        )  # fmt: skip
        throttle = Throttle(MemoryLimiter(self.clock), clock=self.clock, new_id=self.new_id)
        self.users = UserService(
            self.user_store, self.organisation_store, self.sessions, self.passwords, throttle, clock=self.clock,
            new_id=self.new_id, is_signup_open=signup,
        )  # fmt: skip
        self.organisations = OrganisationService(
            self.organisation_store, self.user_store, self.sessions, clock=self.clock, new_id=self.new_id
        )
        self.keys = KeyService(
            self.key_store, self.organisation_store, self.told, clock=self.clock, prefix="fe_", new_id=self.new_id
        )

    def ticket(self, caller: Caller = NOBODY, *, address: str = ADDRESS, user_agent: str = "tests") -> Ticket:
        now, started = self.clock.now(), self.clock.monotonic()
        return Ticket(
            "call", caller, "test", "request", started + 5, now, started, False, False, "request", address,
            user_agent, None, Meter(),
        )  # fmt: skip

    async def signup(self, email: str, password: str = PASSWORD) -> User:
        return await self.users.signup(
            self.ticket(address=self._elsewhere()), SignupRequest(email=email, password=password)
        )

    async def login(self, email: str, password: str = PASSWORD, **fields: Any) -> Tokens:
        request = LoginRequest(email=email, password=password, **fields)
        return await self.users.login(self.ticket(address=self._elsewhere()), request)

    async def standing(self, tokens: Tokens) -> Standing:
        found = await self.session_store.standing(self.verifier.verify(tokens.access_token).session_id)
        assert found is not None
        return found

    async def is_open(self, tokens: Tokens) -> bool:
        standing = await self.standing(tokens)
        return standing.ended_at is None and standing.expires_at > self.clock.now()

    async def enter(self, tokens: Tokens) -> Ticket:
        """Return a ticket of the session, as the gate would make it."""
        standing = await self.standing(tokens)
        assert standing.ended_at is None
        caller = Caller(
            standing.organisation, standing.organisation, "", standing.tier, scopes_of(standing), standing.email,
            standing.user_id, standing.session_id, standing.role,
        )  # fmt: skip
        return self.ticket(caller)

    async def join(self, email: str) -> Ticket:
        """Sign a user up and log them in."""
        await self.signup(email)
        return await self.enter(await self.login(email))

    def _elsewhere(self) -> str:
        """Return an address that nothing came from yet, so that no throttle holds a test up."""
        return str(uuid.UUID(self.new_id()).int)
