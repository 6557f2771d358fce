"""No key, token or password gets into a worker's logs, wherever in a request it is put."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from phalanx.services.callers.keys import new_key_text
from servers.worker import WorkerProcess

EMAIL = "secretive@example.org"
PASSWORD = "correct horse battery staple 7"
NEW_PASSWORD = "another horse battery staple 8"
JWT_SECRET = "the-secret-that-signs-access-tokens-0123456789"
EMBED = "/v1/text/embed"

HEADERS = (
    "X-API-Key", "X-Request-Id", "Idempotency-Key", "User-Agent", "Referer", "Cookie", "X-Forwarded-For", "X-Forwarded-Proto",
    "Accept", "Content-Type", "Origin", "Host", "If-None-Match", "Traceparent", "X-Unknown",
)  # fmt: skip
BODIES: tuple[tuple[str, Callable[[str], Any]], ...] = (
    ("/v1/auth/login", lambda secret: {"email": EMAIL, "password": secret}),
    ("/v1/auth/login", lambda secret: {"email": secret, "password": secret}),
    ("/v1/auth/login", lambda secret: {"email": EMAIL, "password": [secret]}),
    ("/v1/auth/signup", lambda secret: {"email": "x@example.org", "password": secret, secret: 1}),
    ("/v1/auth/refresh", lambda secret: {"refresh_token": secret}),
    ("/v1/auth/refresh", lambda secret: secret),
    (EMBED, lambda secret: {"texts": [secret], "model": secret}),
    ("/v1/embeddings", lambda secret: {"input": secret, "model": secret}),
)


class Wire:
    """Requests as odd as they come; who answers what does not matter."""

    def __init__(self, worker: WorkerProcess) -> None:
        self.host, self.port = worker.host, worker.port
        self.sent = 0

    def send(self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """Send a request past any check of the client's own, and read what comes."""
        fields = {"Host": "a", "Connection": "close", "Content-Type": "application/json", **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.raw(f"{method} {target} HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def raw(self, data: bytes) -> None:
        """Send bytes."""
        self.sent += 1
        with socket.create_connection((self.host, self.port), timeout=10) as end, contextlib.suppress(OSError):
            end.sendall(data)
            end.shutdown(socket.SHUT_WR)
            while end.recv(65536):
                pass


def ask(worker: WorkerProcess, path: str, body: Any, key: str | None = None) -> Any:
    connection = http.client.HTTPConnection(worker.host, worker.port, timeout=30)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    with contextlib.closing(connection):
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        return json.loads(text)


@pytest.fixture
def worker(start: Callable[..., WorkerProcess]) -> WorkerProcess:
    """A worker that logs all that it ever logs."""
    worker = start(LOG_LEVEL="debug", JWT_SECRET=JWT_SECRET, APP_ENV="test")
    worker.wait_ready()
    return worker


def secrets_in_use(worker: WorkerProcess) -> dict[str, str]:
    """Make a key, a user, a session; use them, replace them, and return all that was secret on the way."""
    key = worker.key(scopes=("text", "keys", "usage"))
    made = ask(worker, "/v1/keys", {"email": EMAIL, "scopes": ["text"]}, key=worker.key(scopes=("keys", "admin")))
    ask(worker, "/v1/auth/signup", {"email": EMAIL, "password": PASSWORD})
    first = ask(worker, "/v1/auth/login", {"email": EMAIL, "password": PASSWORD})
    second = ask(worker, "/v1/auth/refresh", {"refresh_token": first["refresh_token"]})
    ask(worker, EMBED, {"texts": ["a text"]}, key=key)
    return {
        "key": key,
        "key made over HTTP": made["key"],
        "unknown key": new_key_text("fe_"),
        "mistyped key": new_key_text("fe_")[:-1],
        "access token": second["access_token"],
        "tampered token": second["access_token"][:-6] + "AAAAAA",
        "refresh token": second["refresh_token"],
        "used refresh token": first["refresh_token"],
        "password": PASSWORD,
        "wrong password": NEW_PASSWORD,
        "signing secret": JWT_SECRET,
    }


def expose(wire: Wire, secret: str) -> None:
    """Put a secret wherever a request has room for one."""
    encoded = quote(secret)
    basic = base64.b64encode(f"{EMAIL}:{secret}".encode()).decode()
    for scheme in (f"Bearer {secret}", f"bearer  {secret}", f"Basic {basic}", secret):
        wire.send("POST", EMBED, b'{"texts": ["a"]}', {"Authorization": scheme})
    for name in HEADERS:
        # A sound request id is the caller's to choose, whatever it says; only what looks like a credential is not taken.
        if name != "X-Request-Id" or secret != JWT_SECRET:
            wire.send("POST", EMBED, b'{"texts": ["a"]}', {name: secret})
    for target in (f"{EMBED}?key={encoded}", f"/v1/models?api_key={encoded}&{encoded}={encoded}", f"/livez?{encoded}"):
        wire.send("POST", target, b"{}")
        wire.send("GET", target, headers={"Authorization": f"Bearer {secret}"})
    for target in (f"/{encoded}", f"/v1/keys/{encoded}", f"/v1/models/{encoded}", f"/v1/auth/sessions/{encoded}"):
        wire.send("DELETE", target, headers={"Authorization": f"Bearer {secret}"})
        wire.send("GET", target)
    for path, body in BODIES:
        wire.send("POST", path, json.dumps(body(secret)).encode())
        wire.send("POST", path, json.dumps(body(secret)).encode()[:-1], {"Authorization": f"Bearer {secret}"})
        wire.send("POST", path, json.dumps(body(secret)).encode(), {"Content-Type": f"text/{quote(secret, safe='')}"})
    for malformed in (f"GET /{secret} HTTP/9\r\n\r\n", f"{secret}\r\n\r\n", f"GET / HTTP/1.1\r\n{secret}\r\n\r\n"):
        wire.raw(malformed.encode())
    wire.raw(f"GET /{encoded} HTTP/1.1\r\nAuthorization: {secret}\r\nX: {'x' * 40_000}\r\n\r\n".encode())
    wire.raw(f"GET /{encoded} HTTP/1.1\r\nAuthorization: {secret}\r\nAuthorization: {secret}\r\n\r\n".encode())


def forms(secret: str) -> Iterator[str]:
    """How a secret may be written in a log: as it is, in a URL, in JSON, with a name by Basic, or its telling part alone."""
    yield secret
    yield quote(secret)
    yield json.dumps(secret)[1:-1]
    yield base64.b64encode(f"{EMAIL}:{secret}".encode()).decode()
    yield secret[8:40] if len(secret) > 40 else secret[:20]


def test_no_secret_is_logged(worker: WorkerProcess, tmp_path: Path) -> None:
    """In any position, used rightly or wrongly, while everything that can be logged is."""
    wire = Wire(worker)
    secrets = secrets_in_use(worker)
    for secret in secrets.values():
        expose(wire, secret)
    wire.send("GET", "/v1/models", headers={"X-Request-Id": "the-last-request"})
    metrics = worker.metrics()
    assert worker.stop() == 0
    logged = "".join(path.read_text(errors="replace") for path in tmp_path.glob("*.log"))
    # The search finds what is there: ids are logged, and so was each request.
    assert "the-last-request" in logged
    assert logged.count(EMBED) > len(secrets) * len(HEADERS)
    leaks = [name for name, secret in secrets.items() for form in forms(secret) if form in logged or form in metrics]
    assert leaks == []
    assert "Traceback" not in logged
