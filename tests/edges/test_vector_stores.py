"""Where a worker's vectors are, by its settings: on a Qdrant server, in Qdrant Edge, or nowhere, which it says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from servers import PostgresServer, RedisServer
from servers.qdrant import QdrantStandIn

NUMBERS = {"kind": "vectors", "dimensions": 3, "metric": "euclidean"}
POINTS = {"points": [{"id": 1, "vector": [1.0, 2.0, 3.0], "payload": {"colour": "red"}}]}


@pytest.fixture(scope="module")
def stand_in() -> Iterator[QdrantStandIn]:
    server = QdrantStandIn(api_key="a key")
    try:
        server.start()
        yield server
    finally:
        server.remove()


def test_on_a_server_collections_come_and_go_with_it(start_worker: Callable[..., Any], stand_in: QdrantStandIn) -> None:
    worker = start_worker(QDRANT_URL=stand_in.url, QDRANT_API_KEY="a key")
    key = worker.key()

    def ask(method: str, path: str, body: Any = None) -> Any:
        return worker.request(method, f"/v1/collections/colours{path}", json_body=body, key=key)

    assert ask("PUT", "", NUMBERS).status == 200
    assert ask("POST", "/points", POINTS).status == 200
    assert worker.get("/health").json["dependencies"]["qdrant"]["healthy"]
    search = {"vector": [1.0, 2.0, 2.0], "limit": 1}
    (match,) = ask("POST", "/search", search).json["matches"]
    assert (match["id"], match["score"], match["payload"]) == (1, 1.0, {"colour": "red"})
    stand_in.kill()
    gone = ask("POST", "/search", search)
    assert (gone.status, gone.json["error"]["code"] if "error" in gone.json else gone.json["code"]) == (
        503,
        "unavailable",
    )
    assert "retry-after" in gone.headers
    health = worker.get("/health").json
    assert (health["status"], health["dependencies"]["qdrant"]["healthy"]) == ("degraded", False)
    # Text does not need it.
    assert worker.get("/readyz").status == 200
    assert worker.post("/v1/text/embed", {"texts": ["a"]}, key=key).status == 200
    stand_in.start()
    # The connection is made anew with pauses of up to a second.
    deadline = time.monotonic() + 15
    while (back := ask("POST", "/search", search)).status == 503 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert back.json["matches"] == [match]


def test_several_workers_without_a_server_say_what_to_set(
    start_worker: Callable[..., Any], postgres: PostgresServer, redis_server: RedisServer
) -> None:
    redis_server.flush()
    worker = start_worker(DATABASE_URL=postgres.create_database(), REDIS_URL=redis_server.url)
    key = worker.key(email="several@example.org")
    body = {**NUMBERS}
    refused = worker.request("PUT", "/v1/collections/colours", json_body=body, key=key)
    assert refused.status == 503
    assert b"QDRANT_URL" in refused.body
    assert worker.post("/v1/text/embed", {"texts": ["a"]}, key=key).status == 200
    assert "qdrant" not in worker.get("/health").json["dependencies"]
