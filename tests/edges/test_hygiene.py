"""The edge as the environment sets it: proxies, pages of other origins, TLS, limits in headers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

APP = "https://app.example.org"
EMBED = "/v1/text/embed"
BODY = {"texts": ["Hello world"]}
OVER_TLS = {"x-forwarded-proto": "https"}
BURST = 2


@pytest.fixture(scope="module")
def exposed(start_worker: Callable[..., Any]) -> Any:
    """A worker behind a proxy, whose address the client of these tests has."""
    return start_worker(
        TRUSTED_PROXY_IPS="192.0.2.0/24", FORCE_HTTPS="true", APP_PUBLIC_URL="https://api.example.org",
        ALLOWED_ORIGINS=f"{APP},http://localhost:5173", CORS_ALLOW_CREDENTIALS="true", ANONYMOUS_SCOPES="text",
        RATE_LIMIT_REQUESTS_PER_MINUTE="1", RATE_LIMIT_BURST=str(BURST), PRO_TIER_LIMIT="0",
    )  # fmt: skip


def statuses(worker: Any, *callers: str) -> list[int]:
    """Ask without a credential, once from each address."""
    return [worker.post(EMBED, BODY, key=None, headers={**OVER_TLS, "x-forwarded-for": at}).status for at in callers]


def test_anonymous_callers_are_limited_by_their_own_address(exposed: Any) -> None:
    """Not by the proxy's, nor by what they claim in front of theirs."""
    forged = [f"10.9.8.{number}, 203.0.113.1" for number in range(BURST + 1)]
    assert statuses(exposed, *forged) == [200] * BURST + [429]
    assert statuses(exposed, "203.0.113.2") == [200]


def test_an_ipv6_caller_is_limited_by_subnet(exposed: Any) -> None:
    """Its 2^64 addresses are one caller."""
    own = [f"2001:db8:0:1::{number}" for number in range(1, BURST + 2)]
    assert statuses(exposed, *own) == [200] * BURST + [429]
    assert statuses(exposed, "2001:db8:0:2::1") == [200]


def test_forged_headers_from_anybody_else_have_no_effect(start_worker: Callable[..., Any]) -> None:
    """With other proxies trusted, all requests are this client's, and in clear."""
    worker = start_worker(
        TRUSTED_PROXY_IPS="198.51.100.7", ANONYMOUS_SCOPES="text", RATE_LIMIT_REQUESTS_PER_MINUTE="1",
        RATE_LIMIT_BURST=str(BURST),
    )  # fmt: skip
    assert statuses(worker, *[f"203.0.113.{number}" for number in range(BURST + 1)]) == [200] * BURST + [429]


def test_what_comes_in_clear_is_led_to_tls(exposed: Any) -> None:
    """Readers are redirected, senders refused, probes answered; over TLS the answer asks for TLS from now on."""
    answer = exposed.get("/v1/models?a=b")
    assert (answer.status, answer.headers["location"]) == (308, "https://api.example.org/v1/models?a=b")
    refused = exposed.post(EMBED, BODY)
    assert (refused.status, refused.json["code"]) == (403, "tls_required")
    assert [exposed.get(path, key=None).status for path in ("/livez", "/readyz", "/startupz", "/health")] == [200] * 4
    assert "strict-transport-security" in exposed.get("/v1/models", headers=OVER_TLS).headers


@pytest.mark.parametrize("name", ["text.embed", "models.get", "keys.revoke", "auth.login", "system.status"])
def test_every_route_answers_preflights(exposed: Any, name: str) -> None:
    """No credential is asked for; the page is told methods, headers and for how long."""
    row = exposed.app.operations[name]
    headers = {**OVER_TLS, "origin": APP, "access-control-request-method": row.method}
    answer = exposed.request("OPTIONS", row.path.replace("{", "").replace("}", ""), key=None, headers=headers)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == APP
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert row.method in answer.headers["access-control-allow-methods"].split(", ")
    assert "authorization" in answer.headers["access-control-allow-headers"].split(", ")
    assert int(answer.headers["access-control-max-age"]) > 0


def test_pages_read_answers_and_errors(exposed: Any) -> None:
    """Of origins that may call; to others nothing is said."""
    for key, status in (("default", 200), ("fe_wrong", 401)):
        sent = {**OVER_TLS, "x-forwarded-for": "203.0.113.3"}
        answer = exposed.post(EMBED, BODY, key=key, headers={**sent, "origin": APP})
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, APP)
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        stranger = exposed.post(EMBED, BODY, key=key, headers={**sent, "origin": "https://evil.example.org"})
        assert stranger.status == status
        assert not [name for name in stranger.headers if name.startswith("access-control-")]


def test_only_what_may_be_kept_is_kept(exposed: Any) -> None:
    """Models for a minute, by whom asked; vectors, keys and errors never."""
    models = exposed.get("/v1/models", headers=OVER_TLS)
    assert (models.headers["cache-control"], models.headers["vary"]) == ("private, max-age=60", "origin")
    again = exposed.get("/v1/models", headers={**OVER_TLS, "if-none-match": models.headers["etag"]})
    assert (again.status, again.body, "content-length" in again.headers) == (304, b"", False)
    for answer in (
        exposed.post(EMBED, BODY, headers=OVER_TLS),
        exposed.post("/v1/keys", {"email": "kept@example.org", "scopes": ["text"]}, headers=OVER_TLS),
        exposed.get("/v1/models/none", headers=OVER_TLS),
    ):
        assert answer.headers["cache-control"] == "no-store"


def test_every_window_of_a_free_key_is_said(start_worker: Callable[..., Any]) -> None:
    """The rate and the month; when the month is used up, too."""
    worker = start_worker(RATE_LIMIT_BURST="9", FREE_TIER_LIMIT="2")
    key = worker.key(tier="free", email="windows@example.org")
    first, _, refused = [worker.post(EMBED, BODY, key=key) for _ in range(3)]
    assert first.headers["ratelimit-policy"].startswith('"requests";q=60;w=60, "month";q=2;w=')
    assert [part.split(";")[:2] for part in first.headers["ratelimit"].split(", ")] == [
        ['"requests"', "r=8"],
        ['"month"', "r=1"],
    ]
    assert (refused.status, refused.json["code"]) == (429, "quota_exceeded")
    assert '"month";r=0;t=' in refused.headers["ratelimit"]
    assert int(refused.headers["retry-after"]) > 0


def test_a_soft_quota_that_is_passed_warns(exposed: Any) -> None:
    """The call is answered; the header says what the plan has."""
    key = exposed.key(tier="pro", email="over@example.org")
    exposed.post(EMBED, BODY, key=key, headers=OVER_TLS)
    exposed.run(asyncio.sleep(0))
    answer = exposed.post(EMBED, BODY, key=key, headers=OVER_TLS)
    assert answer.status == 200
    assert "0 are in the plan" in answer.headers["x-quota-warning"]
