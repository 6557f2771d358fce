"""Users over HTTP: from signing up to logging out, and what is refused on the way."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

PASSWORD = "three blind mice"
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def own(start_worker: Callable[..., Any]) -> Any:
    """A worker of one's own, whose address nobody else logs in from."""
    return start_worker(RATE_LIMIT_ENABLED="false")


class Person:
    """A user with one session."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.email = f"ann{next(NUMBERS)}@example.org"
        self.words = {"email": self.email, "password": PASSWORD}
        assert self.open("signup", self.words).status == 200
        answer = self.open("login", self.words)
        assert answer.status == 200, answer.body
        assert (answer.json["token_type"], answer.json["expires_in"]) == ("Bearer", 900)
        self.access, self.refresh = answer.json["access_token"], answer.json["refresh_token"]

    def open(self, name: str, body: dict[str, Any]) -> Any:
        return self.worker.post(f"/v1/auth/{name}", body, key=None)

    def send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return self.worker.request(method, path, json_body=body, key=self.access)


def test_a_user_lives_through_it_all(own: Any) -> None:
    """Sign up, log in, call, refresh, make a key, change the password, log out."""
    ann = Person(own)
    me = ann.send("GET", "/v1/auth/me").json
    assert (me["email"], me["role"], me["key_id"]) == (ann.email, "admin", "")
    assert ann.send("POST", "/v1/text/embed", {"texts": ["hello"]}).status == 200
    renewed = ann.open("refresh", {"refresh_token": ann.refresh}).json
    ann.access, ann.refresh = renewed["access_token"], renewed["refresh_token"]
    made = ann.send("POST", "/v1/keys", {"name": "laptop"}).json
    assert made["record"]["email"] == ann.email
    assert made["record"]["organisation"] == me["organisation"]
    assert own.get("/v1/auth/me", key=made["key"]).json["key_id"] == made["record"]["id"]
    rotated = ann.send("POST", f"/v1/keys/{made['record']['id']}/rotate", {})
    assert own.get("/v1/auth/me", key=rotated.json["key"]).status == 200
    assert own.get("/v1/auth/me", key=made["key"]).status == 401
    assert (
        ann.send("POST", "/v1/auth/password", {"current_password": PASSWORD, "new_password": "four and twenty"}).status
        == 200
    )
    assert ann.open("login", ann.words).status == 401
    assert ann.open("login", {**ann.words, "password": "four and twenty"}).status == 200
    sessions = ann.send("GET", "/v1/auth/sessions").json["sessions"]
    assert [(one["current"], one["address"]) for one in sessions] == [(False, "192.0.2.7"), (True, "192.0.2.7")]
    assert ann.send("DELETE", f"/v1/auth/sessions/{sessions[0]['id']}").json == {"ended": 1}
    assert ann.send("POST", "/v1/auth/logout", {}).json == {"ended": 1}
    ended = ann.send("GET", "/v1/auth/me")
    assert (ended.status, ended.json["code"]) == (401, "session_ended")
    assert ann.open("refresh", {"refresh_token": ann.refresh}).json["code"] == "session_ended"


def test_organisations_over_http(own: Any) -> None:
    """Members are added, seen and taken out; a tier is not for their admin to set."""
    ann, bob = Person(own), Person(own)
    lab = ann.send("POST", "/v1/organisations", {"name": "Lab"}).json
    at = f"/v1/organisations/{lab['id']}"
    assert bob.send("GET", at).status == 404
    assert ann.send("POST", f"{at}/members", {"email": bob.email}).json["role"] == "member"
    assert bob.send("GET", at).json["role"] == "member"
    assert len(bob.send("GET", f"{at}/members").json["members"]) == 2
    assert bob.send("PATCH", at, {"name": "Bob's"}).status == 403
    assert ann.send("PATCH", at, {"tier": "scale"}).status == 403
    assert own.request("PATCH", at, json_body={"tier": "scale"}).json["tier"] == "scale"
    me = bob.send("GET", "/v1/auth/me").json
    assert bob.send("DELETE", f"{at}/members/{me['user_id']}").status == 200
    assert bob.send("GET", at).status == 404
    assert ann.send("DELETE", f"{at}/members/{ann.send('GET', '/v1/auth/me').json['user_id']}").status == 409


def test_administrative_acts_are_in_the_audit_log(own: Any) -> None:
    """Who, what, to whom, from where; for administrators to read."""
    ann = Person(own)
    user = ann.send("GET", "/v1/auth/me").json
    assert own.request("PATCH", f"/v1/users/{user['user_id']}", json_body={"disabled": True}).status == 200
    assert ann.open("login", ann.words).status == 401
    entries = own.get("/v1/audit?action=users.update&limit=1").json["entries"]
    assert [(one["subject"], one["address"], one["status"]) for one in entries] == [
        (user["user_id"], "192.0.2.7", "ok")
    ]
    assert Person(own).send("GET", "/v1/audit").status == 403
    page = own.get("/v1/audit?limit=1").json
    assert own.get(f"/v1/audit?limit=1&before={page['next'] or page['entries'][0]['id']}").status == 200


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"email": "nobody"}, 400, "email"),
        ({"email": "a b@example.org"}, 400, "email"),
        ({"email": "a\0@example.org"}, 400, "email"),
        ({"email": 7}, 400, "email"),
        ({"password": "short"}, 400, "password"),
        ({"password": "password123"}, 400, "password"),
        ({"password": ""}, 400, "password"),
        ({"password": "x" * 2**20}, 400, "password"),
        ({"staff": True}, 400, "staff"),
    ],
)
def test_a_signup_that_cannot_be_is_refused_with_its_field(
    own: Any, fields: dict[str, Any], status: int, param: str
) -> None:
    """No such email, a weak or endless password, a field that only administrators have."""
    body = {"email": f"bob{next(NUMBERS)}@example.org", "password": PASSWORD, **fields}
    answer = own.post("/v1/auth/signup", body, key=None)
    assert (answer.status, answer.json["param"]) == (status, param)
    secret = fields.get("password")
    assert not secret or secret not in json.dumps(answer.json)


def test_a_second_signup_is_a_conflict(own: Any) -> None:
    ann = Person(own)
    answer = ann.open("signup", {**ann.words, "email": ann.email.upper()})
    assert (answer.status, answer.json["code"]) == (409, "conflict")


def test_tokens_that_are_not_access_tokens_open_nothing(own: Any) -> None:
    """The refresh token, `alg` none, a tampered payload, a stranger's signature, an access token used to refresh."""
    ann = Person(own)
    head, payload, signature = ann.access.split(".")
    header = json.loads(base64.urlsafe_b64decode(head + "=="))
    unsigned = base64.urlsafe_b64encode(json.dumps({**header, "alg": "none"}).encode()).rstrip(b"=").decode()
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    other = base64.urlsafe_b64encode(json.dumps({**claims, "sub": "admin"}).encode()).rstrip(b"=").decode()
    forged = [
        ann.refresh,
        f"{unsigned}.{payload}.",
        f"{head}.{other}.{signature}",
        f"{head}.{payload}.{signature[:-4]}AAAA",
    ]
    for token in forged:
        answer = own.get("/v1/auth/me", key=token)
        assert (answer.status, answer.json["code"]) == (401, "unauthenticated"), token
    assert ann.open("refresh", {"refresh_token": ann.access}).status == 401
    assert ann.send("GET", "/v1/auth/me").status == 200


def test_a_member_has_no_keys_scope(own: Any) -> None:
    """What a session may do follows the role in its organisation."""
    ann, bob = Person(own), Person(own)
    lab = ann.send("GET", "/v1/auth/me").json["organisation"]
    ann.send("POST", f"/v1/organisations/{lab}/members", {"email": bob.email})
    answer = bob.open("login", {**bob.words, "organisation": lab})
    bob.access = answer.json["access_token"]
    refused = bob.send("POST", "/v1/keys", {"email": bob.email})
    assert (refused.status, refused.json["code"]) == (403, "forbidden")
    assert "'keys'" in refused.json["detail"]
    assert bob.send("POST", "/v1/text/embed", {"texts": ["hello"]}).status == 200
