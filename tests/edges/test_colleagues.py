"""Several callers of one organisation: what one of them is answered, and what they do, while books and keys are shared."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from phalanx.errors import Unavailable

PASSWORD = "three blind mice"
NUMBERS = itertools.count()


class Session(NamedTuple):
    """A user's email and access token."""

    email: str
    access: str


@pytest.fixture(scope="module")
def own(start_worker: Callable[..., Any]) -> Any:
    """A worker of one's own, whose address nobody else logs in from."""
    return start_worker(RATE_LIMIT_ENABLED="false")


def _admin(worker: Any) -> Session:
    words = {"email": f"colleague{next(NUMBERS)}@example.org", "password": PASSWORD}
    assert worker.post("/v1/auth/signup", words, key=None).status == 200
    return Session(words["email"], worker.post("/v1/auth/login", words, key=None).json["access_token"])


def _organisation(worker: Any, session: Session) -> str:
    return str(worker.get("/v1/auth/me", key=session.access).json["organisation"])


def test_an_answer_under_an_idempotency_key_is_not_another_members(own: Any) -> None:
    """Both log out with the same key and body: the second is not told what became of the first."""
    ann, bob = _admin(own), _admin(own)
    organisation = _organisation(own, ann)
    member = {"email": bob.email, "role": "member"}
    assert own.post(f"/v1/organisations/{organisation}/members", member, key=ann.access).status == 200
    words = {"email": bob.email, "password": PASSWORD, "organisation": organisation}
    bob = bob._replace(access=own.post("/v1/auth/login", words, key=None).json["access_token"])
    for session in (ann, bob):
        left = own.post("/v1/auth/logout", {}, key=session.access, headers={"idempotency-key": "1"})
        assert (left.status, left.headers.get("idempotency-replayed")) == (200, None)
        assert own.get("/v1/auth/me", key=session.access).status == 401


def test_a_narrow_key_does_not_replay_the_making_of_a_wide_one(own: Any) -> None:
    ann, again = _admin(own), {"idempotency-key": "1"}
    narrow = own.post("/v1/keys", {"email": ann.email, "scopes": ["keys"]}, key=ann.access).json["key"]
    wide = {"email": ann.email, "scopes": ["keys", "text"]}
    made = [own.post("/v1/keys", wide, key=ann.access, headers=again) for _ in range(2)]
    assert [answer.status for answer in made] == [200, 200]
    assert made[0].json == made[1].json
    assert own.post("/v1/keys", wide, key=narrow, headers=again).status == 403


def test_an_act_whose_usage_cannot_be_recorded_is_in_the_audit_log(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = _admin(own)
    organisation = _organisation(own, ann)

    async def refuse(events: object) -> int:
        raise Unavailable("the usage journal is full")

    with monkeypatch.context() as patch:
        patch.setattr(own.app.usage, "record", refuse)
        renamed = own.request("PATCH", f"/v1/organisations/{organisation}", json_body={"name": "New"}, key=ann.access)
        assert renamed.status == 503
    assert own.get(f"/v1/organisations/{organisation}", key=ann.access).json["name"] == "New"
    entries = own.get("/v1/audit?action=organisations.update", key=own.key(scopes=("admin",))).json["entries"]
    assert [entry["status"] for entry in entries if entry["subject"] == organisation] == ["ok"]
