"""Collections in a running worker over Qdrant Edge: what was answered is there after any end; moves go on; the command line."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from servers.worker import PHALANX, WorkerProcess

ROOT = "/v1/collections"
SCOPES = ("vectors", "text", "usage")
BOOKS = [
    "A whale and the captain who hunts it", "Bread, flour, yeast and how to bake", "Stars, planets and gravity",
    "A detective solves a murder in London", "How to grow tomatoes in a small garden",
]  # fmt: skip

Start = Callable[..., WorkerProcess]


def ok(worker: WorkerProcess, key: str, method: str, path: str, body: Any = None) -> Any:
    status, data = worker.ask(method, f"{ROOT}{path}", body, key)
    assert status == 200, data
    return json.loads(data)


def ready(start: Start, **environ: str) -> WorkerProcess:
    worker = start(**environ)
    worker.wait_ready()
    return worker


def everything(worker: WorkerProcess, key: str, name: str) -> dict[Any, Any]:
    """All points of a collection by id."""
    found: dict[Any, Any] = {}
    path = f"/{name}/points?limit=1000"
    after = ""
    while True:
        page = ok(worker, key, "GET", path + after)
        found |= {point["id"]: point["payload"] for point in page["points"]}
        if "next" not in page:
            return found
        after = f"&after={page['next']}"


def test_a_restart_keeps_everything(start: Start) -> None:
    worker = ready(start)
    key = worker.key(scopes=SCOPES)
    made = ok(worker, key, "PUT", "/books", {"kind": "texts"})
    ok(worker, key, "POST", "/books/points", {"points": [{"id": n, "text": text} for n, text in enumerate(BOOKS)]})
    ok(worker, key, "POST", "/books/points/delete", {"ids": [4]})
    before = everything(worker, key, "books")
    assert worker.stop() == 0
    worker = ready(start)
    assert ok(worker, key, "GET", "/books") == made
    assert everything(worker, key, "books") == before
    assert len(before) == 4
    found = ok(worker, key, "POST", "/books/search", {"text": "cooking at home", "limit": 1})
    assert found["matches"][0]["id"] == 1


@pytest.mark.parametrize("pause_s", [0.2, 0.7])
def test_a_killed_worker_loses_nothing_that_it_answered(start: Start, pause_s: float) -> None:
    """Writers put and delete points until the worker is gone: what was answered is so, what was under way may be."""
    worker = ready(start)
    key = worker.key(scopes=SCOPES)
    ok(worker, key, "PUT", "/points", {"kind": "vectors", "dimensions": 8})
    kept: list[set[str]] = [set() for _ in range(3)]
    unsure: list[set[str]] = [set() for _ in range(3)]

    def write(number: int) -> None:
        count = 0
        while True:
            ids = {f"{number}-{count}-{n}" for n in range(20)}
            gone = {f"{number}-{count}-0"}
            points = [{"id": one, "vector": [1.0 + n] * 8, "payload": {"n": n}} for n, one in enumerate(sorted(ids))]
            if worker.ask("POST", f"{ROOT}/points/points", {"points": points}, key)[0] != 200:
                unsure[number] |= ids
                return
            kept[number] |= ids - gone
            unsure[number] = set(gone)
            if worker.ask("POST", f"{ROOT}/points/points/delete", {"ids": list(gone)}, key)[0] != 200:
                return
            unsure[number] = set()
            count += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(pause_s)
    worker.kill()
    for thread in threads:
        thread.join()
    worker = ready(start)
    found = set(everything(worker, key, "points"))
    wanted, maybe = set().union(*kept), set().union(*unsure)
    assert wanted <= found
    assert found <= wanted | maybe
    assert ok(worker, key, "GET", "/points/count")["count"] == len(found)


@pytest.fixture
def other_tokens() -> dict[str, str]:
    """What makes the text model another one to a collection: texts are cut elsewhere."""
    return {"MAX_TOKENS": "128"}


def test_a_collection_moves_to_another_model_and_goes_on_after_a_kill(
    start: Start, other_tokens: dict[str, str]
) -> None:
    """The contract differs: a clear conflict, then a move that survives `kill -9` and loses no write."""
    worker = ready(start)
    key = worker.key(scopes=SCOPES)
    ok(worker, key, "PUT", "/books", {"kind": "texts"})
    texts = [f"{text}, volume {n}" for n in range(100) for text in BOOKS]
    for at in range(0, len(texts), 250):
        points = [{"id": text, "text": text} for text in texts[at : at + 250]]
        ok(worker, key, "POST", "/books/points", {"points": points})
    worker.kill()
    worker = ready(start, **other_tokens)
    status, body = worker.post(f"{ROOT}/books/search", {"text": "cooking"}, key)
    assert (status, json.loads(body)["code"]) == (409, "contract_mismatch")
    assert "phalanx collections reembed books" in json.loads(body)["detail"]
    moving = ok(worker, key, "POST", "/books/reembed", {})
    assert (moving["state"], moving["points"]) == ("moving", len(texts))
    ok(worker, key, "POST", "/books/points", {"points": [{"id": "new", "text": "Quantum computers for beginners"}]})
    answer = ok(worker, key, "POST", "/books/search", {"text": "quantum computing", "limit": 1})
    assert answer["matches"][0]["id"] == "new"
    ok(worker, key, "POST", "/books/points/delete", {"ids": [texts[3]]})
    was_moving = ok(worker, key, "GET", "/books/reembed")["state"] == "moving"
    worker.kill()
    worker = ready(start, **other_tokens)
    deadline = time.monotonic() + 120
    while (now := ok(worker, key, "GET", "/books/reembed"))["state"] != "settled":
        assert time.monotonic() < deadline, now
        ok(worker, key, "POST", "/books/search", {"text": "cooking at home", "limit": 1})
        time.sleep(0.2)
    assert was_moving
    assert now["contract"]["max_tokens"] == 128
    found = everything(worker, key, "books")
    assert found == {text: {"text": text} for text in texts if text != texts[3]} | {
        "new": {"text": "Quantum computers for beginners"}
    }
    best = ok(worker, key, "POST", "/books/search", {"text": texts[77], "limit": 1})["matches"][0]
    assert best["id"] == texts[77]
    assert best["score"] > 0.99


def test_the_command_line_by_a_worker_and_without(start: Start, other_tokens: dict[str, str]) -> None:
    worker = ready(start)
    key = worker.key(scopes=SCOPES)
    asked = ("--url", worker.url, "--key", key)
    assert "all-MiniLM-L6-v2" in worker.run("collections", "create", "books", "texts", *asked)
    ok(worker, key, "POST", "/books/points", {"points": [{"id": n, "text": text} for n, text in enumerate(BOOKS)]})
    found = json.loads(worker.run("collections", "search", "books", "baking bread", "--limit", "2", "--json", *asked))
    assert (found[0]["id"], len(found)) == (1, 2)
    # The worker has the files: another process is told so.
    refused = subprocess.run(
        [PHALANX, "collections", "show", "books"], env=worker.environ, capture_output=True, check=False, text=True
    )
    assert (refused.returncode, refused.stdout) == (1, "")
    # In words alone: what the log of a worker would have is none of a command's.
    folder, hint = refused.stderr.splitlines()
    assert "open in another process" in folder
    assert "--url" in hint
    assert worker.stop() == 0
    worker.environ |= other_tokens
    missing = subprocess.run(
        [PHALANX, "collections", "search", "books", "bread"],
        env=worker.environ,
        capture_output=True,
        check=False,
        text=True,
    )
    assert missing.returncode == 1
    assert "phalanx collections reembed books" in missing.stderr
    assert "5 points" in worker.run("collections", "reembed", "books", "--quiet")
    assert "1.0000" in worker.run("collections", "search", "books", BOOKS[2], "--limit", "1")
