"""Keys, quotas and sessions against a model: whatever is done in whatever order, the edge answers as the model says.

The worker is a real one on SQLite with its limits in memory; only its clock is ours. The model is a few dictionaries.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from clocks import HandClock

EMBED = "/v1/text/embed"
FREE_QUOTA, PRO_QUOTA = 4, 7
PER_MINUTE, BURST = 6, 3
ACCESS_S, REFRESH_S, LIVES, REUSE_S, LEEWAY_S = 900, 10_000, 6, 10, 5
LOGIN_EVERY_S = 6
ENVIRON = {
    "FREE_TIER_LIMIT": str(FREE_QUOTA), "PRO_TIER_LIMIT": str(PRO_QUOTA), "ENFORCE_PAID_LIMITS": "true",
    "RATE_LIMIT_REQUESTS_PER_MINUTE": str(PER_MINUTE), "RATE_LIMIT_BURST": str(BURST),
    "TRUSTED_PROXY_IPS": "192.0.2.7", "JWT_ACCESS_TTL_SECS": str(ACCESS_S), "JWT_REFRESH_TTL_SECS": str(REFRESH_S),
}  # fmt: skip
STEPS_S = (0.5, 1, 9, 11, 61, 301, 901, 86_400, 32 * 86_400)


@dataclass
class Organisation:
    """What the model knows of whom limits count: the month's requests, all requests, and GCRA's next free instant."""

    id: str
    tier: str
    used: Counter[str] = field(default_factory=Counter)
    events: int = 0
    errors: int = 0
    free_at: float = 0.0

    def refusal(self, clock: HandClock, *, metered: bool = True) -> str:
        """Take one request of the limits, or return why not. Only metered calls are held to the quota."""
        interval = 60 / PER_MINUTE
        free_at = max(self.free_at, clock.now())
        if self.tier == "free" and free_at + interval - clock.now() > BURST * interval + 1e-6:
            return "rate_limited"
        quota = {"free": FREE_QUOTA, "pro": PRO_QUOTA}.get(self.tier)
        if metered and quota is not None and self.used[clock.month] >= quota:
            return "quota_exceeded"
        self.free_at = free_at + interval
        return ""

    def note(self, clock: HandClock, *, is_ok: bool, metered: bool = True) -> None:
        """Note a call that was let in."""
        self.events += 1
        self.errors += not is_ok
        self.used[clock.month] += is_ok and metered


@dataclass
class Key:
    """A key as the model knows it."""

    text: str
    id: str
    organisation: Organisation
    ends_at: float
    made_at: float

    def replacement(self, text: str, key_id: str, now: float) -> Key:
        """What takes its place: it lives as long as this one was to, which a grace has shortened."""
        return Key(text, key_id, self.organisation, now + self.ends_at - self.made_at, now)


@dataclass
class Account:
    """A user with an organisation of their own, which is known once they have logged in."""

    email: str
    password: str
    organisation: Organisation = field(default_factory=lambda: Organisation("", "free"))

    @property
    def words(self) -> dict[str, str]:
        return {"email": self.email, "password": self.password}


@dataclass
class Session:
    """A session: its refresh tokens in the order of issue, the latest last, and its access tokens with their ends."""

    account: Account
    tokens: list[str]
    access: list[tuple[str, float]]
    opened_at: float
    refreshed_at: float
    ended: bool = False

    @property
    def ends_at(self) -> float:
        return min(self.opened_at + LIVES * REFRESH_S, self.refreshed_at + REFRESH_S)

    def add(self, clock: HandClock, answer: Any) -> None:
        """Note new tokens."""
        self.access.append((answer["access_token"], int(min(clock.now() + ACCESS_S, self.ends_at))))
        if answer["refresh_token"] not in self.tokens:
            self.tokens.append(answer["refresh_token"])

    def is_good(self, clock: HandClock, until: float) -> bool:
        """Whether an access token that says that it ends at `until` is worth anything."""
        now = clock.now()
        return not self.ended and now < until + LEEWAY_S and now < self.opened_at + LIVES * REFRESH_S


class Callers(RuleBasedStateMachine):
    """The rules; see the module."""

    worker: Any
    clock: HandClock
    numbers = itertools.count(1)

    keys = Bundle("keys")
    accounts = Bundle("accounts")
    sessions = Bundle("sessions")

    @initialize()
    def begin(self) -> None:
        self.admin = self.worker.key(scopes=("keys", "admin", "usage"))
        self.organisations: list[Organisation] = []

    @rule(target=keys, tier=st.sampled_from(["free", "pro", "scale"]), days=st.sampled_from([None, 1, 40]))
    def create_key(self, tier: str, days: int | None) -> Key:
        request = {"email": f"model-{next(self.numbers)}@example.org", "tier": tier, "scopes": ["text"]}
        answer = self.worker.post("/v1/keys", {**request, "expires_in_days": days}, key=self.admin)
        assert answer.status == 200, answer.body
        made = answer.json
        organisation = Organisation(made["record"]["organisation"], tier)
        self.organisations.append(organisation)
        lives_s = days * 86_400 if days else float("inf")
        now = self.clock.now()
        return Key(made["key"], made["record"]["id"], organisation, now + lives_s, now)

    @rule(key=keys, text=st.sampled_from(["Hello world", "and again", ""]))
    def call(self, key: Key, text: str) -> None:
        answer = self.worker.post(EMBED, {"texts": [text]}, key=key.text)
        if self.clock.now() >= key.ends_at:
            assert answer.status == 401, answer.body
            return
        refusal = key.organisation.refusal(self.clock)
        if refusal:
            assert (answer.status, answer.json["code"]) == (429, refusal)
            return
        assert answer.status == (200 if text else 400), answer.body
        key.organisation.note(self.clock, is_ok=bool(text))

    @rule(key=keys)
    def revoke(self, key: Key) -> None:
        answer = self.worker.request("DELETE", f"/v1/keys/{key.id}", key=self.admin)
        assert answer.status == 200, answer.body
        key.ends_at = min(key.ends_at, self.clock.now())

    @rule(target=keys, key=consumes(keys), grace_s=st.sampled_from([0, 10, 1000]))
    def rotate(self, key: Key, grace_s: int) -> Any:
        answer = self.worker.post(f"/v1/keys/{key.id}/rotate", {"grace_seconds": grace_s}, key=self.admin)
        if self.clock.now() >= key.ends_at:
            assert answer.status == 409, answer.body
            return key
        assert answer.status == 200, answer.body
        made = answer.json
        replacement = key.replacement(made["key"], made["record"]["id"], self.clock.now())
        key.ends_at = min(key.ends_at, self.clock.now() + grace_s)
        return multiple(key, replacement)

    @rule(seconds=st.sampled_from(STEPS_S))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(target=accounts)
    def sign_up(self) -> Account:
        account = Account(f"model-{next(self.numbers)}@example.org", "correct horse battery staple")
        assert self._open_call("/v1/auth/signup", account.words).status == 200
        assert self._open_call("/v1/auth/signup", account.words).status == 409
        return account

    @rule(target=sessions, account=accounts)
    def log_in(self, account: Account) -> Session:
        self.clock.advance(LOGIN_EVERY_S)
        answer = self._open_call("/v1/auth/login", account.words)
        assert answer.status == 200, answer.body
        session = Session(account, [], [], self.clock.now(), self.clock.now())
        session.add(self.clock, answer.json)
        return session

    @rule(account=accounts)
    def log_in_with_a_wrong_password(self, account: Account) -> None:
        self.clock.advance(LOGIN_EVERY_S)
        assert self._open_call("/v1/auth/login", {**account.words, "password": "a guess"}).status == 401

    @rule(session=sessions, back=st.sampled_from([0, 0, 0, 1, 2]))
    def refresh(self, session: Session, back: int) -> None:
        """Present the latest refresh token, or an older one: the one before may be honest double use, others are theft."""
        place = max(0, len(session.tokens) - 1 - back)
        back, now = len(session.tokens) - 1 - place, self.clock.now()
        answer = self._open_call("/v1/auth/refresh", {"refresh_token": session.tokens[place]})
        is_over = session.ended or now >= session.ends_at
        is_theft = back > 1 or (back == 1 and now - session.refreshed_at >= REUSE_S)
        assert answer.status == (401 if is_over or is_theft else 200), answer.body
        if not is_over and is_theft:
            session.ended = True
        if answer.status != 200:
            return
        if back:
            assert answer.json["refresh_token"] == session.tokens[-1]
        else:
            assert answer.json["refresh_token"] not in session.tokens
            session.refreshed_at = now
        session.add(self.clock, answer.json)

    @rule(session=sessions, newest=st.booleans())
    def use_session(self, session: Session, newest: bool) -> None:
        answer = self._user_call(session, -1 if newest else 0, "GET", "/v1/auth/me")
        if answer.status == 200:
            assert answer.json["email"] == session.account.email
            session.account.organisation.id = answer.json["organisation"]

    @rule(session=sessions)
    def log_out(self, session: Session) -> None:
        session.ended = self._user_call(session, -1, "POST", "/v1/auth/logout").status == 200 or session.ended

    def _user_call(self, session: Session, which: int, method: str, path: str) -> Any:
        """Send a call with an access token, and see that it is answered as it should."""
        token, until = session.access[which]
        body: dict[str, str] | None = {} if method == "POST" else None
        answer = self.worker.request(method, path, json_body=body, key=token)
        if not session.is_good(self.clock, until):
            assert answer.status == 401, answer.body
        elif session.account.organisation.refusal(self.clock, metered=False):
            assert answer.status == 429, answer.body
        else:
            assert answer.status == 200, answer.body
        return answer

    def _open_call(self, path: str, body: dict[str, str]) -> Any:
        """Send a call without a credential, each from another address, so that none is too much for one."""
        number = next(self.numbers)
        headers = {"x-forwarded-for": f"198.18.{number // 256 % 256}.{number % 256}"}
        return self.worker.post(path, body, key=None, headers=headers)

    @invariant()
    def the_counts_agree(self) -> None:
        """What the ledger holds of each organisation is what the model counted."""
        for organisation in getattr(self, "organisations", [])[-2:]:
            totals = self.worker.totals(organisation.id)
            found = (totals.requests, totals.billed, totals.errors)
            assert found == (organisation.events, organisation.used.total(), organisation.errors)


def test_the_edge_answers_as_the_model_says(start_worker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker serves all examples, each with organisations and accounts of its own."""
    # The engine's queue holds deadlines against the machine's own clock, which is younger than this.
    clock = HandClock(uptime=1e9)
    monkeypatch.setattr("phalanx.app.worker.SystemClock", lambda: clock)
    worker = start_worker(**ENVIRON)

    class Bound(Callers):
        pass

    Bound.worker, Bound.clock = worker, clock
    run_state_machine_as_test(
        Bound, settings=settings(
            max_examples=10, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )  # fmt: skip
