"""What is known of a run once it is over: what clients saw, who was killed and when, and what the ledger says.

All times are epoch seconds of one clock, that of the process that runs the clients.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

OK = range(200, 300)


@dataclass(frozen=True, slots=True)
class Call:
    """One call as its client saw it. `status` 0 is no answer: the client left, or the connection broke.

    `credential` is the key's id or the session's; `organisation` whom the call should be billed to,
    if that is known.
    """

    request_id: str
    worker: str
    credential: str
    organisation: str
    sent_at: float
    ended_at: float
    status: int = 0
    code: str = ""
    left: bool = False

    @property
    def is_answered(self) -> bool:
        """Whether an answer came, whole."""
        return self.status != 0

    @property
    def is_ok(self) -> bool:
        """Whether the answer said that the work was done."""
        return self.status in OK


@dataclass(frozen=True, slots=True)
class Event:
    """A row of the ledger."""

    id: str
    day: str
    organisation: str
    key_id: str
    operation: str
    model: str
    request_id: str
    status: str
    billed: bool
    units: int = 1
    tokens: int = 0
    cached: int = 0


class Sums(NamedTuple):
    """The numbers of a daily sum."""

    requests: int
    billed: int
    units: int
    tokens: int
    cached: int
    errors: int


class Group(NamedTuple):
    """What a daily sum is of."""

    day: str
    organisation: str
    key_id: str
    operation: str
    model: str


@dataclass(frozen=True, slots=True)
class Kill:
    """A process was killed while calls were under way in the worker, or in all workers that used the server."""

    target: str
    at: float
    in_flight: frozenset[str]
    is_worker: bool = True


@dataclass(frozen=True, slots=True)
class Outage:
    """Something did not serve from one instant to another. `target` is a worker's name, `database`, `redis`, or
    `limits` while a worker went by its share of the limits, as it does when Redis is slow as well.
    """

    target: str
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Revocation:
    """A key or session was ended, and whoever ended it was told so at `acknowledged_at`."""

    credential: str
    acknowledged_at: float


class Rate(NamedTuple):
    """A GCRA limit of one organisation."""

    per_minute: int
    burst: int


class Quota(NamedTuple):
    """An organisation's hard quota, and what the counter of it says, or None where it cannot be read."""

    limit: int
    counted: int | None = None


@dataclass(slots=True)
class Run:
    """Everything that the checker looks at. `revocation_bound_s` is the time by news, `feed_bound_s` that without news.

    `journal_in_redis` says that an event may have been kept although Redis was lost before it said so. `unseen_s` is for
    how long a worker may not hear what others let in of an organisation that it does not serve itself: until they flush.
    """

    calls: list[Call] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    daily: dict[Group, Sums] = field(default_factory=dict)
    kills: list[Kill] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    revocations: list[Revocation] = field(default_factory=list)
    rates: dict[str, Rate] = field(default_factory=dict)
    quotas: dict[str, Quota] = field(default_factory=dict)
    journal_in_redis: bool = False
    unseen_s: float = 0.0
    revocation_bound_s: float = 1.0
    feed_bound_s: float = 2.5

    def by_id(self) -> dict[str, Call]:
        """Return the calls by their request ids."""
        return {call.request_id: call for call in self.calls}

    def in_flight_at_kills(self) -> frozenset[str]:
        """Return the ids of the calls that were under way in a worker that was killed."""
        return frozenset().union(*(kill.in_flight for kill in self.kills if kill.is_worker))

    def outages_of(self, *targets: str) -> Iterator[Outage]:
        """Return the outages of some, in the order of time."""
        return iter(sorted((one for one in self.outages if one.target in targets), key=lambda one: one.since))

    def spans(self, *targets: str) -> list[tuple[float, float]]:
        """Return the spans of time in which any of some was out, those that overlap as one."""
        spans: list[tuple[float, float]] = []
        for outage in self.outages_of(*targets):
            since, until = outage.since, outage.until
            if spans and since <= spans[-1][1]:
                since, until = spans[-1][0], max(spans.pop()[1], until)
            spans.append((since, until))
        return spans

    def billed(self) -> Counter[str]:
        """Count the billed events of each organisation."""
        return Counter(event.organisation for event in self.events if event.billed)
