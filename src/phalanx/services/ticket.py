"""Who calls and what they were let in for: the values that pass between an edge, the gate and the services."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from phalanx.contract.keys import Scope, Tier
from phalanx.ports import Grant
from phalanx.settings import Secret

OPERATOR = "operator"


class Task(NamedTuple):
    """A job that runs later than it was asked for: its id and the operation's name."""

    id: str = ""
    operation: str = ""


class Credential(NamedTuple):
    """What a caller sent. `kind` says what `text` is:

    - `none`: nothing was sent;
    - `key`: an API key or an access token;
    - `operator`: nothing, as the caller is whoever may run the command line here;
    - `job`: the token that a queued job, which is `task`, has of whoever queued it, or nothing;
    - `queue`: the id of the key that a queue is bound to.

    `address` is the caller's, by which anonymous callers are limited. A session that is opened keeps it and `user_agent`.
    """

    kind: Literal["none", "key", "operator", "job", "queue"] = "none"
    text: Secret = Secret()
    address: str = ""
    user_agent: str = ""
    task: Task = Task()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. Limits are counted by `subject`: the organisation, or an anonymous caller's address.

    A key has a `key_id`; a user's session has `user_id`, `session_id` and the `role` in its organisation.
    """

    subject: str
    organisation: str
    key_id: str
    tier: Tier | Literal["anonymous", "operator"]
    scopes: frozenset[Scope]
    email: str = ""
    user_id: str = ""
    session_id: str = ""
    role: str = ""

    @property
    def is_operator(self) -> bool:
        """Whether the call comes from the command line on this machine."""
        return self.tier == OPERATOR


class Answering(Protocol):
    """A model's version as answers name it."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def version(self) -> str:
        """The version's name."""
        ...

    @property
    def is_simulated(self) -> bool:
        """Whether it is a stand-in."""
        ...


class Meter(msgspec.Struct):
    """What a call has used so far; services add to it, the gate bills it, edges show it. Seconds and counts.

    `pixels` are those of images that threads have taken on.
    """

    units: int = 0
    tokens: int = 0
    cached: int = 0
    items: int = 0
    pixels: int = 0
    model: str = ""
    model_version: str = ""
    queue_s: float = 0.0
    engine_s: float = 0.0
    simulated: bool = False

    def note_model(self, answered: Answering) -> None:
        """Note what answers the call; once it was a stand-in for anything, the call is simulated."""
        self.model, self.model_version = answered.name, answered.version
        self.simulated = self.simulated or answered.is_simulated


class Step(NamedTuple):
    """How far a call has come: the part of the whole that is done, 0 to 1, and the stage that begins, if its row has stages."""

    fraction: float
    stage: str = ""


Follow = Callable[[Step], None]
"""Is told each step as it happens, on the event loop; it returns at once and raises nothing."""


# Made for every call: a struct of msgspec takes a tenth of the time of a frozen dataclass.
class Ticket(msgspec.Struct, frozen=True):
    """Proof of admission. Only the gate makes one; it stays open until the last byte of the answer.

    `deadline` is in seconds of the monotonic clock, `opened_at` in epoch seconds. `on_behalf_of` is set when the caller is a
    worker that has its calls run by this one: the organisation that it says it calls for. `followed_by` is told how far the
    call has come. `is_job` says that the call may be delivered again under the same `id`, however it ends.
    """

    id: str
    caller: Caller
    operation: str
    unit: str
    deadline: float
    opened_at: float
    started: float
    streaming: bool
    metered: bool = True
    request_id: str = ""
    address: str = ""
    user_agent: str = ""
    grant: Grant | None = None
    meter: Meter = msgspec.field(default_factory=Meter)
    on_behalf_of: str = ""
    followed_by: Follow | None = None
    is_job: bool = False

    def report(self, fraction: float, stage: str = "") -> None:
        """Say how far the call has come, to whoever follows it; where nobody does, nothing happens."""
        if self.followed_by is not None:
            self.followed_by(Step(fraction, stage))

    @property
    def tenant(self) -> str:
        """The name under which work is shared out."""
        return self.caller.organisation

    @property
    def cached_for(self) -> str:
        """The name under which results are kept: a caller's own callers do not share them."""
        return f"{self.tenant}\x1f{self.on_behalf_of}" if self.on_behalf_of else self.tenant


class Call(msgspec.Struct):
    """One call under way, as its edge sees it: what it sent, and what became of it so far.

    `fingerprint` is a digest of the request as sent, which an edge sets while it reads a request with an `idempotency_key`. `id`
    is that of the ticket, the usage event and the lease. `warning` says that a quota which only warns is exceeded. `deadline`,
    in seconds of the monotonic clock, is the caller's own; the ticket of a computed call has it or an earlier one. `simulated`
    says that an answer which is repeated came from a stand-in. `on_behalf_of` and `followed_by` are as in the ticket.
    """

    credential: Credential
    request_id: str
    idempotency_key: str | None = None
    deadline: float = math.inf
    fingerprint: bytes = b""
    caller: Caller | None = None
    id: str = ""
    grant: Grant | None = None
    warning: str = ""
    ticket: Ticket | None = None
    replayed: bool = False
    simulated: bool = False
    request: Any = None
    on_behalf_of: str = ""
    followed_by: Follow | None = None

    @property
    def meter(self) -> Meter | None:
        """What the call has used so far; None before it was admitted."""
        return self.ticket.meter if self.ticket else None
