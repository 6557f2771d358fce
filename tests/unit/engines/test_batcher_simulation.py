"""The batcher under load, in a simulation of events with the cost of a real engine: who waits how long, at
what rate.

A batch costs 0.9 ms and 0.0375 ms a padded token: measured with a graph of MiniLM's shape in OpenVINO, bf16,
2 cores.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

import pytest

from phalanx.engines.batcher import Batcher, Entry, Taken

BUDGET = 1024


def batch_seconds(padded_tokens: int) -> float:
    """What a batch of so many padded tokens costs the engine."""
    return 0.9e-3 + 0.0375e-3 * padded_tokens


FULL_BATCH_S = batch_seconds(BUDGET)


class Text(Entry):
    """A waiting text that knows when it came and which client waits for it."""

    __slots__ = ("arrived", "client")

    def __init__(self, *, tenant: str, length: int, arrived: float, client: int | None) -> None:
        super().__init__(tenant=tenant, length=length, deadline=math.inf)
        self.arrived = arrived
        self.client = client


class Queue(Protocol):
    """What the simulation drives: the batcher, or a plainer queue to compare it with."""

    def add(self, entry: Text) -> None: ...

    def take(self, now: float) -> Taken[Text]: ...


class FirstComeFirstServed:
    """The plain queue: the next texts in order, whatever their length and caller, up to the token budget."""

    def __init__(self) -> None:
        self._line: deque[Text] = deque()

    def add(self, entry: Text) -> None:
        self._line.append(entry)

    def take(self, now: float) -> Taken[Text]:
        batch: list[Text] = []
        longest = 0
        while self._line and (len(batch) + 1) * max(longest, self._line[0].cost) <= BUDGET:
            batch.append(self._line.popleft())
            longest = max(longest, batch[-1].cost)
        return Taken(batch, [])


def fair() -> Queue:
    return Batcher(token_budget=BUDGET, max_items=256, max_waiting_tokens=1 << 40)


class Client(NamedTuple):
    """A caller that sends one text, waits for its vector, thinks, and sends the next."""

    tenant: str
    think_s: float


class Outcome:
    """Latencies (seconds) of each caller's texts, and the padded tokens computed for it."""

    def __init__(self) -> None:
        self.latencies: defaultdict[str, list[float]] = defaultdict(list)
        self.tokens: Counter[str] = Counter()
        self.seconds = 0.0

    def quantile(self, share: float, prefix: str = "") -> float:
        found = sorted(s for name, all_s in self.latencies.items() if name.startswith(prefix) for s in all_s)
        return found[int(len(found) * share)]

    @property
    def texts_per_s(self) -> float:
        return sum(map(len, self.latencies.values())) / self.seconds


def mixed_length(rng: random.Random) -> int:
    """Tokens of a text: log-normal around 36, 3 to 256, as in everyday search and retrieval."""
    return min(256, max(3, int(rng.lognormvariate(math.log(36), 0.9))))


def simulate(
    queue: Queue, *, bulk: dict[str, int] | None = None, clients: list[Client] | None = None, seconds: float
) -> Outcome:
    """Run an engine over `queue`: bulk callers with all their texts there at once, and clients one at a
    time."""
    rng = random.Random(7)
    outcome = Outcome()
    clients = clients or []
    arrivals = [(rng.random() * 0.01, number) for number in range(len(clients))]
    heapq.heapify(arrivals)
    for tenant, texts in (bulk or {}).items():
        for _ in range(texts):
            queue.add(Text(tenant=tenant, length=mixed_length(rng), arrived=0.0, client=None))
    now = 0.0
    while now < seconds:
        while arrivals and arrivals[0][0] <= now:
            arrived, number = heapq.heappop(arrivals)
            tenant = clients[number].tenant
            queue.add(Text(tenant=tenant, length=mixed_length(rng), arrived=arrived, client=number))
        batch = queue.take(now).batch
        if not batch and not arrivals:
            break
        if not batch:
            now = arrivals[0][0]
            continue
        now += batch_seconds(len(batch) * max(text.cost for text in batch))
        for text in batch:
            outcome.latencies[text.tenant].append(now - text.arrived)
            outcome.tokens[text.tenant] += text.cost
            if text.client is not None:
                pause = 0.0005 + clients[text.client].think_s * 2 * rng.random()
                heapq.heappush(arrivals, (now + pause, text.client))
    outcome.seconds = now
    return outcome


ONE_BY_ONE = [Client(f"single {number}", think_s=0.2) for number in range(3)]


def test_callers_of_one_text_wait_two_batches_while_ten_thousand_texts_are_computed() -> None:
    outcome = simulate(fair(), bulk={"bulk": 10_000}, clients=ONE_BY_ONE, seconds=20)
    assert outcome.quantile(0.5, "single") < 1.25 * FULL_BATCH_S
    assert outcome.quantile(0.99, "single") < 2.5 * FULL_BATCH_S
    assert outcome.tokens["bulk"] > 0.9 * sum(outcome.tokens.values())


def test_in_a_plain_queue_they_would_wait_for_all_of_it() -> None:
    outcome = simulate(FirstComeFirstServed(), bulk={"bulk": 10_000}, clients=ONE_BY_ONE, seconds=90)
    assert max(outcome.latencies["single 0"]) > 200 * FULL_BATCH_S


@pytest.mark.parametrize(("bulk_callers", "batches"), [(2, 4), (4, 5), (10, 9)])
def test_each_further_bulk_caller_costs_the_others_less_than_a_batch(bulk_callers: int, batches: int) -> None:
    bulk = {f"bulk {number}": 3000 for number in range(bulk_callers)}
    outcome = simulate(fair(), bulk=bulk, clients=ONE_BY_ONE, seconds=12)
    assert outcome.quantile(0.99, "single") < batches * FULL_BATCH_S


def test_bulk_callers_share_the_engine_equally_whatever_they_send() -> None:
    bulk = {f"bulk {number}": 3000 for number in range(8)}
    outcome = simulate(fair(), bulk=bulk, seconds=20)
    assert max(outcome.tokens.values()) - min(outcome.tokens.values()) < 4 * BUDGET
    assert min(outcome.tokens.values()) > 50_000


def test_many_callers_of_one_text_do_not_starve_a_bulk_caller() -> None:
    crowd = [Client(f"single {number}", think_s=0.01) for number in range(64)]
    outcome = simulate(fair(), bulk={"bulk": 10_000}, clients=crowd, seconds=30)
    shares = sorted(tokens for name, tokens in outcome.tokens.items() if name != "bulk")
    assert outcome.tokens["bulk"] > shares[len(shares) // 2]


@pytest.mark.parametrize("tenants", [1, 8, 64])
@pytest.mark.parametrize("clients", [64, 256])
def test_many_clients_with_mixed_lengths_have_a_short_tail(clients: int, tenants: int) -> None:
    crowd = [Client(f"caller {number % tenants}", think_s=0.0) for number in range(clients)]
    outcome = simulate(fair(), clients=crowd, seconds=30)
    assert outcome.quantile(0.99) < 4 * outcome.quantile(0.5)


def test_sixty_four_clients_get_most_of_what_a_full_queue_gets() -> None:
    crowd = [Client("one", think_s=0.0)] * 64
    full = simulate(fair(), bulk={"one": 6000}, seconds=60)
    assert simulate(fair(), clients=crowd, seconds=20).texts_per_s > 0.9 * full.texts_per_s


def test_batches_of_like_length_beat_batches_in_order_of_arrival() -> None:
    """Padding every text to the longest of whatever came with it wastes half of the engine."""
    crowd = [Client("one", think_s=0.0)] * 64

    def rate(make: Callable[[], Queue]) -> float:
        return simulate(make(), clients=crowd, seconds=20).texts_per_s

    assert rate(fair) > 1.5 * rate(FirstComeFirstServed)


def test_a_free_engine_starts_at_once() -> None:
    """Ten clients that ask rarely: nobody waits for a batch to fill."""
    idle = [Client(f"single {number}", think_s=2.0) for number in range(10)]
    outcome = simulate(fair(), clients=idle, seconds=60)
    assert outcome.quantile(0.9) < batch_seconds(256)
