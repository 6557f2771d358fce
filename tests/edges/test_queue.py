"""Every row that takes jobs over the queue edge: REST's answer, REST's error, the same usage."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from edges.conftest import Worker
from phalanx.app.queue import queue_edge
from phalanx.cli.worker import call_here
from phalanx.contract.keys import RevokeKeyRequest
from phalanx.edges.queue.app import Delivery, Done, Failed, Outcome, QueueEdge, event_id
from phalanx.errors import Unavailable
from phalanx.operations import Operation, table
from phalanx.services.callers.keys import key_digest
from phalanx.services.callers.signing import signing_keys
from phalanx.services.jobs.tokens import JobTokens
from phalanx.services.ticket import Caller, Task
from phalanx.settings.queues import JobMapping
from phalanx.stores.memory.clock import SystemClock

NUMBERS = itertools.count(1)
JOB_ROWS = {name: row for name, row in table().items() if row.job}
EXAMPLES = [(name, example) for name, row in JOB_ROWS.items() for example in row.examples]
VARYING = ("ms", "queue_ms", "engine_ms", "search_ms", "updated_at", "created_at")


class Queue:
    """Deliveries to the queue edge of a worker in this process."""

    def __init__(self, worker: Worker, mappings: dict[str, JobMapping] | None = None) -> None:
        self.worker = worker
        settings = dataclasses.replace(worker.app.settings, queue_job_map=mappings or {})
        self.edge: QueueEdge = queue_edge(dataclasses.replace(worker.app, settings=settings))

    def key_id(self, email: str, tier: str = "scale") -> str:
        """The id of the key of an organisation that the worker made for it."""
        record = self.worker.run(self.worker.app.stores.keys.find(key_digest(self.worker.key(tier, email=email))))
        assert record is not None
        return str(record.id)

    def token(self, email: str, job_id: str, operation: str, **changes: Any) -> str:
        """The token that the API would put into a job."""
        settings = self.worker.app.settings
        tokens = JobTokens(signing_keys(settings), issuer=settings.jwt_issuer, clock=SystemClock())
        caller = Caller(email, email, self.key_id(email), "scale", frozenset())
        return str(tokens.sign(caller, Task(job_id, operation), **changes))

    def send(
        self, name: str, data: Any, *, key_id: str = "", job_id: str | None = None, again: int = 0
    ) -> tuple[Outcome, str]:
        """Run a job, and then `again` so often; returns what became of it last, and its id."""
        job_id = job_id or f"job-{next(NUMBERS)}"
        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        event = event_id("bull:jobs", job_id, int(time.time() * 1000))
        for attempt in range(again + 1):
            delivery = Delivery(job_id, "bull:jobs", name, raw, event, key_id, attempt + 1)
            outcome = self.worker.run(self.edge.run(delivery))
        return outcome, job_id


@pytest.fixture(scope="module")
def queue(worker: Worker) -> Queue:
    return Queue(worker)


def error_of(outcome: Outcome) -> str:
    assert isinstance(outcome, Failed)
    said = json.loads(outcome.reason)
    assert set(said) == {"code", "detail"}
    assert said["detail"]
    return str(said["code"])


def settled(answer: Any) -> Any:
    """Without what differs from call to call."""
    if isinstance(answer, dict):
        return {name: settled(value) for name, value in answer.items() if name not in VARYING}
    return [settled(one) for one in answer] if isinstance(answer, list) else answer


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[f"{name}-{n}" for n, (name, _) in enumerate(EXAMPLES)])
def test_a_job_is_answered_and_billed_as_over_rest(queue: Queue, name: str, example: dict[str, Any]) -> None:
    row = JOB_ROWS[name]
    worker, over_rest, over_queue = queue.worker, f"rest-{name}@example.org", f"queue-{name}@example.org"
    path, body = row.path, dict(example)
    for field in list(body):
        if f"{{{field}}}" in path:
            path = path.replace(f"{{{field}}}", str(body.pop(field)))
    before = worker.totals(over_rest), worker.totals(over_queue)
    answer = worker.request(row.method, path, json_body=body, key=worker.key(email=over_rest))
    outcome, _ = queue.send(name, example, key_id=queue.key_id(over_queue))
    if answer.status >= 400:
        assert error_of(outcome) == answer.json["code"]
    else:
        assert isinstance(outcome, Done), outcome
        assert settled(json.loads(outcome.result)) == settled(answer.json)
    after = worker.totals(over_rest), worker.totals(over_queue)
    used = [
        {name: getattr(now, name) - getattr(then, name) for name in ("requests", "units", "tokens")}
        for then, now in zip(before, after, strict=True)
    ]
    assert used[0] == used[1]


def test_a_job_that_is_delivered_three_times_is_billed_once(queue: Queue) -> None:
    email = "thrice@example.org"
    outcome, _ = queue.send("text.embed", {"texts": ["Hello world"]}, key_id=queue.key_id(email), again=2)
    assert isinstance(outcome, Done)
    totals = queue.worker.totals(email)
    assert (totals.requests, totals.units) == (1, totals.tokens)


def test_a_token_admits_its_own_job_only(queue: Queue) -> None:
    email, request = "token@example.org", {"texts": ["Hello world"]}
    token = queue.token(email, "mine", "text.embed")
    outcome, _ = queue.send("text.embed", {**request, "_caller": token}, job_id="mine")
    assert isinstance(outcome, Done)
    assert queue.worker.totals(email).requests == 1
    for job_id, name in (("other", "text.embed"), ("mine", "text.similarity")):
        outcome, _ = queue.send(name, {**request, "_caller": token}, job_id=job_id)
        assert error_of(outcome) == "unauthenticated"
    assert queue.worker.totals(email).requests == 1


def test_what_is_no_token_admits_nobody(queue: Queue) -> None:
    good = queue.token("forged@example.org", "forged", "text.embed")
    expired = queue.token("forged@example.org", "forged", "text.embed", delay_s=-31 * 86_400)
    head, payload, _ = good.split(".")
    access = queue.worker.key(email="forged@example.org")
    for wrong in (f"{head}.{payload}.AAAA", expired, access, "", None, 7, {"key": "x"}, "x" * 10_000, "a.b.c"):
        for key_id in ("", queue.key_id("forged@example.org")):
            outcome, _ = queue.send("text.embed", {"texts": ["x"], "_caller": wrong}, job_id="forged", key_id=key_id)
            assert error_of(outcome) == "unauthenticated", wrong
    escaped = json.dumps({"texts": ["x"], "_caller": "nobody"}).replace("_caller", "\\u005fcaller").encode()
    outcome, _ = queue.send("text.embed", escaped, key_id=queue.key_id("forged@example.org"))
    assert error_of(outcome) == "unauthenticated"


def test_a_job_without_token_or_key_is_not_admitted(queue: Queue) -> None:
    outcome, _ = queue.send("text.embed", {"texts": ["x"]})
    assert error_of(outcome) == "unauthenticated"
    assert isinstance(outcome, Failed)
    assert not outcome.again


def test_a_job_of_a_revoked_key_fails_at_run_time(queue: Queue) -> None:
    email = "revoked@example.org"
    token, key_id = queue.token(email, "late", "text.embed"), queue.key_id(email)
    assert isinstance(queue.send("text.embed", {"texts": ["x"]}, key_id=key_id)[0], Done)
    app = queue.worker.app
    queue.worker.run(call_here(app, app.operations["keys.revoke"], RevokeKeyRequest(id=key_id)))
    for data, bound in (({"texts": ["x"], "_caller": token}, ""), ({"texts": ["x"]}, key_id)):
        outcome, _ = queue.send("text.embed", data, job_id="late", key_id=bound)
        assert error_of(outcome) == "unauthenticated"
        assert isinstance(outcome, Failed)
        assert not outcome.again


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("text.nothing", {}, "not_found"),
        ("keys.create", {"email": "ann@example.org"}, "not_found"),
        ("text.embed", b"", "invalid_request"),
        ("text.embed", b"{", "invalid_request"),
        ("text.embed", b"null", "invalid_request"),
        ("text.embed", b"[1]", "invalid_request"),
        ("text.embed", b'{"texts": ["\xff"]}', "invalid_request"),
        ("text.embed", b"[" * 100_000, "invalid_request"),
        ("text.embed", {"texts": [1]}, "invalid_request"),
        ("text.embed", {"texts": ["x"], "unknown": 1}, "invalid_request"),
        ("text.embed", {"texts": ["x" * 11_000_000]}, "too_large"),
    ],
)
def test_what_cannot_be_a_job_fails_for_good(queue: Queue, name: str, data: Any, code: str) -> None:
    outcome, _ = queue.send(name, data, key_id=queue.key_id("bad@example.org"))
    assert error_of(outcome) == code
    assert isinstance(outcome, Failed)
    assert not outcome.again
    assert queue.worker.totals("bad@example.org").requests == 0


def test_a_limit_delays_a_job(start_worker: Callable[..., Worker]) -> None:
    worker = start_worker(RATE_LIMIT_REQUESTS_PER_MINUTE="6", RATE_LIMIT_BURST="1")
    queue = Queue(worker)
    key_id = queue.key_id("slow@example.org", "free")
    outcomes = [queue.send("text.embed", {"texts": ["x"]}, key_id=key_id)[0] for _ in range(12)]
    late = [one for one in outcomes if isinstance(one, Failed)]
    assert late
    assert len(late) < 12
    for one in late:
        assert one.is_limit
        assert one.error.code == "rate_limited"
        assert 0 < one.after_s <= 60


def test_an_applications_own_jobs_are_mapped(worker: Worker) -> None:
    mapping = JobMapping(
        operation="text.embed", fields={"sentences": "texts"}, defaults={"dimensions": msgspec.Raw(b"64")},
        dropped=("user", "trace"),
    )  # fmt: skip
    queue = Queue(worker, {"embed-sentences": mapping})
    key_id = queue.key_id("mapped@example.org")
    outcome, _ = queue.send("embed-sentences", {"sentences": ["x"], "user": 7, "trace": {}}, key_id=key_id)
    assert isinstance(outcome, Done)
    assert len(json.loads(outcome.result)["embeddings"][0]) == 64
    outcome, _ = queue.send("embed-sentences", {"sentences": ["x"], "other": 7}, key_id=key_id)
    assert error_of(outcome) == "invalid_request"


class Nothing(msgspec.Struct, frozen=True):
    """Nothing is asked, nothing is answered."""


class Troubled:
    """A job that is cut short, fails or succeeds, as it is told; work is done first in any case."""

    def __init__(self, worker: Worker) -> None:
        self.ends: list[BaseException | None] = []
        self.key_id = Queue(worker).key_id("troubled@example.org")
        self.worker = worker
        row = Operation(
            name="test.troubled", request=Nothing, response=Nothing, scope="text", unit="request", http="POST /v1/test/troubled",
            run=self._run, job=True, computed=True, summary="For tests.",
        )  # fmt: skip
        self.edge = queue_edge(dataclasses.replace(worker.app, operations={row.name: row}))

    async def _run(self, _services: Any, ticket: Any, _request: Nothing) -> Nothing:
        ticket.meter.units += 1
        end = self.ends.pop(0)
        if end is not None:
            raise end
        return Nothing()

    def deliver(self, job_id: str, *ends: BaseException | None) -> list[Outcome | None]:
        """Deliver one job as often as there are ends, each without the failure of the one before having been told."""
        self.ends = list(ends)
        event = event_id("bull:jobs", job_id, int(time.time() * 1000))
        delivery = Delivery(job_id, "bull:jobs", "test.troubled", b"{}", event, self.key_id)
        outcomes: list[Outcome | None] = []

        async def once() -> Outcome | None:
            try:
                return await self.edge.run(delivery)
            except asyncio.CancelledError:
                return None

        for _ in ends:
            outcomes.append(self.worker.run(once()))
        return outcomes


def test_a_job_is_billed_once_if_it_succeeds_whatever_was_recorded_before(worker: Worker) -> None:
    troubled, billed, requests = Troubled(worker), 0, 0
    down, cut = Unavailable("a store is down"), asyncio.CancelledError()
    histories: dict[str, tuple[BaseException | None, ...]] = {
        "failed": (down, None), "cut": (cut, None), "often": (down, cut, RuntimeError("a bug"), None, None),
        "lost": (None, down), "never": (down, cut, down),
    }  # fmt: skip
    for name, ends in histories.items():
        outcomes = troubled.deliver(f"troubled-{name}", *ends)
        assert [isinstance(one, Done) for one in outcomes] == [end is None for end in ends]
        succeeded = None in ends
        billed += succeeded
        requests += sum(end is not None for end in ends) + succeeded
        totals = worker.totals("troubled@example.org")
        assert (totals.billed, totals.requests, totals.errors) == (billed, requests, requests - billed), name
