"""Admission over HTTP: keys, rates, quotas, permits, idempotency."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from phalanx.cli.worker import call_here
from phalanx.contract.keys import RevokeKeyRequest
from phalanx.services.callers.keys import new_key_text

EMBED = "/v1/text/embed"
BODY = {"texts": ["Hello world"]}


@pytest.mark.parametrize(
    "headers",
    [{"authorization": "Bearer KEY"}, {"authorization": "bearer KEY"}, {"x-api-key": "KEY"}],
)
def test_a_key_may_come_in_two_headers(worker: Any, headers: dict[str, str]) -> None:
    """Bearer, in any case, or X-API-Key."""
    sent = {name: value.replace("KEY", worker.key()) for name, value in headers.items()}
    assert worker.post(EMBED, BODY, key=None, headers=sent).status == 200


@pytest.mark.parametrize(
    "wrong",
    ["fe_short", "", "x" * 9000, new_key_text("sk_"), new_key_text("fe_"), new_key_text("fe_")[:-1] + "!", "é"],
    ids=["short", "empty", "long", "sk", "fe", "no checksum", "not ASCII"],
)
def test_another_key_is_refused(worker: Any, wrong: str) -> None:
    """Malformed, unknown, of another prefix, too long: 401 that shows none of it."""
    answer = worker.post(EMBED, BODY, key=None, headers={"x-api-key": wrong})
    assert answer.status == 401
    assert len(wrong) < 3 or wrong.encode() not in answer.body


def test_basic_authentication_is_refused(worker: Any) -> None:
    """401 that says what to send."""
    answer = worker.post(EMBED, BODY, key=None, headers={"authorization": "Basic YTpi"})
    assert (answer.status, "Bearer" in answer.json["detail"]) == (401, True)


def test_a_revoked_key_is_refused_within_its_freshness(start_worker: Callable[..., Any]) -> None:
    """A second after the revocation at the latest."""
    worker = start_worker()
    key = worker.key(email="gone@example.org")
    assert worker.post(EMBED, BODY, key=key).status == 200
    (record,) = worker.get("/v1/keys?organisation=gone@example.org").json["keys"]
    worker.run(call_here(worker.app, worker.app.operations["keys.revoke"], RevokeKeyRequest(id=record["id"])))
    worker.run(asyncio.sleep(1.05))
    answer = worker.post(EMBED, BODY, key=key)
    assert (answer.status, "revoked" in answer.json["detail"]) == (401, True)


def test_a_free_key_has_a_rate(start_worker: Callable[..., Any]) -> None:
    """60 a minute with a burst: then 429 with Retry-After and both families of headers."""
    worker = start_worker(RATE_LIMIT_BURST="3")
    key = worker.key(tier="free")
    answers = [worker.post(EMBED, BODY, key=key) for _ in range(5)]
    assert [a.status for a in answers].count(200) in (3, 4)
    last = answers[-1]
    assert (last.status, last.json["code"]) == (429, "rate_limited")
    assert int(last.headers["retry-after"]) >= 1
    assert {"ratelimit", "ratelimit-policy", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"} <= set(
        last.headers
    )


def test_a_paid_key_has_no_rate(worker: Any) -> None:
    """Nor its headers."""
    answers = [worker.post(EMBED, BODY, key=worker.key(tier="pro", email="pro@example.org")) for _ in range(100)]
    assert {a.status for a in answers} == {200}
    assert "ratelimit" not in answers[0].headers


def test_a_free_organisation_has_a_quota(start_worker: Callable[..., Any]) -> None:
    """Hard, and a refused or failed call does not count."""
    worker = start_worker(FREE_TIER_LIMIT="3", RATE_LIMIT_ENABLED="false")
    key = worker.key(tier="free")
    assert worker.post(EMBED, {"texts": [""]}, key=key).status == 400
    assert [worker.post(EMBED, BODY, key=key).status for _ in range(4)] == [200, 200, 200, 429]
    answer = worker.post(EMBED, BODY, key=key)
    assert (answer.json["code"], int(answer.headers["retry-after"]) > 0) == ("quota_exceeded", True)


def test_anonymous_callers_get_what_is_set(start_worker: Callable[..., Any]) -> None:
    """Only the scopes of ANONYMOUS_SCOPES, limited by address."""
    worker = start_worker(ANONYMOUS_SCOPES="images", RATE_LIMIT_BURST="2")
    image = {"content-type": "image/png"}
    first = worker.post("/v1/example/digest", body=b"x", headers=image, key=None)
    assert (first.status, "ratelimit" in first.headers) == (200, True)
    assert worker.post(EMBED, BODY, key=None).status == 401
    assert worker.get("/v1/models", key=None).status == 200
    statuses = [worker.post("/v1/example/digest", body=b"x", headers=image, key=None).status for _ in range(4)]
    assert statuses[-1] == 429


def test_open_doors_admit_everybody(start_worker: Callable[..., Any]) -> None:
    """AUTH=off: no key, a wrong key and the admin's routes alike."""
    worker = start_worker(AUTH="off")
    assert worker.post(EMBED, BODY, key=None).status == 200
    assert worker.post(EMBED, BODY, key="sk-anything").status == 200
    assert worker.get("/api/status", key=None).status == 200


def test_calls_over_the_worker_are_refused_at_once(start_worker: Callable[..., Any]) -> None:
    """503 `overloaded` with Retry-After; the permit comes back."""
    worker = start_worker(MAX_CONCURRENT_REQUESTS="1")
    gate = worker.app.entrance.gate
    worker.key()
    gate.calls.take()
    answer = worker.post(EMBED, BODY)
    assert (answer.status, answer.json["code"], "retry-after" in answer.headers) == (503, "overloaded", True)
    gate.calls.give()
    assert worker.post(EMBED, BODY).status == 200
    assert gate.calls.taken == 0


def test_a_member_makes_keys_of_its_own_kind_only(worker: Any) -> None:
    """No other tier, no scope that it lacks, and only its own organisation's keys are seen."""
    member = worker.key(tier="pro", scopes=("text", "keys"), email="member@example.org")
    allowed = {"email": "colleague@example.org", "tier": "pro", "scopes": ["text"]}
    made = worker.post("/v1/keys", allowed, key=member)
    assert made.json["record"]["organisation"] == "member@example.org"
    assert worker.post("/v1/keys", {**allowed, "tier": "scale"}, key=member).status == 403
    assert worker.post("/v1/keys", {**allowed, "scopes": ["admin"]}, key=member).status == 403
    seen = worker.get("/v1/keys?organisation=ann@example.org", key=member).json["keys"]
    assert {k["organisation"] for k in seen} == {"member@example.org"}
    others = worker.get("/v1/keys?organisation=ann@example.org").json["keys"][0]["id"]
    assert worker.request("DELETE", f"/v1/keys/{others}", key=member).status == 404
    own = made.json["record"]["id"]
    assert worker.request("DELETE", f"/v1/keys/{own}", key=member).json["revoked_at"] > 0


def test_the_same_idempotency_key_brings_the_same_answer_once(worker: Any) -> None:
    """Replayed, marked, unbilled."""
    key = worker.key(email="twice@example.org")
    headers = {"idempotency-key": "abc"}
    first = worker.post(EMBED, BODY, key=key, headers=headers)
    again = worker.post(EMBED, BODY, key=key, headers=headers)
    assert first.json == again.json
    assert ("idempotency-replayed" in first.headers, again.headers["idempotency-replayed"]) == (False, "true")
    assert worker.totals("twice@example.org").requests == 1


def test_an_idempotency_key_belongs_to_one_request(worker: Any) -> None:
    """Another body is 422; another caller is another key."""
    key = worker.key(email="mismatch@example.org")
    headers = {"idempotency-key": "k"}
    worker.post(EMBED, BODY, key=key, headers=headers)
    other = worker.post(EMBED, {"texts": ["other"]}, key=key, headers=headers)
    assert (other.status, other.json["code"]) == (422, "idempotency_mismatch")
    assert worker.post(EMBED, {"texts": ["other"]}, headers=headers).status == 200


def test_a_failed_call_frees_its_idempotency_key(worker: Any) -> None:
    """It can be tried again."""
    headers = {"idempotency-key": "fails"}
    assert worker.post(EMBED, {"texts": [""]}, headers=headers).status == 400
    assert worker.post(EMBED, {"texts": ["fine now"]}, headers=headers).status == 200


@pytest.mark.parametrize("key", ["", "x" * 256, "é"])
def test_an_unusable_idempotency_key_is_refused(worker: Any, key: str) -> None:
    """1 to 255 ASCII characters."""
    assert worker.post(EMBED, BODY, headers={"idempotency-key": key}).status == 400
