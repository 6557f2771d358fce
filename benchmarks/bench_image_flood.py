"""64 clients with a picture of 12 megapixels each, at once: who is let in gets its answer, the others are told when to come.

All behave as they are told: one that was answered sends its next picture, one that was refused comes back after `Retry-After`.
What is done meanwhile is held against what 4 clients get, who are never too many, in turns with them. The load generator has the
same cores as the worker, and sends 3 MB with every call, so what a refusal takes is its p50: it holds the time in which
the picture was read.
"""

from __future__ import annotations

import statistics
import sys
import time

import cv2
import numpy as np

from measuring.load import Answers, Load, percentile, send
from measuring.photos import copies, photo
from measuring.report import Row, main, say
from measuring.worker import Worker
from pictures import astronaut, saved

FEW, MANY = 4, 64
ROUNDS, SECONDS, SETTLED_S = 3, 12.0, 2.0
FILES = 80
"""More than are under way at once: equal ones are computed once. None is kept, so they are sent again and again."""
PATHS = ("/v1/faces/detect", "/v1/faces/embed")
LATE_BAR, GOODPUT_BAR = 1.0, 0.9
PATIENCE_S = 60.0
KEEP_NOTHING = {"SERVICES": "faces,images", "RESULT_CACHE_BYTES": "0"}


def measure() -> list[Row]:
    """Return the rows."""
    files = copies(_camera(), FILES)
    found: dict[str, list[tuple[Answers, Answers]]] = {path: [] for path in PATHS}
    with Worker(scope="faces,images", environ=KEEP_NOTHING) as worker:
        _await_models(worker)
        for number in range(ROUNDS):
            for path in PATHS:
                few, many = (send(_load(worker, path, files, clients)) for clients in (FEW, MANY))
                found[path].append((few, many))
                say(
                    f"{number + 1}/{ROUNDS} {path}: {FEW} clients {few.statuses()}, {_goodput(few):.1f} images/s; "
                    f"{MANY} clients {many.statuses()}, {_goodput(many):.1f} images/s"
                )
    return [row for path in PATHS for row in _rows(path, found[path])]


def _rows(path: str, rounds: list[tuple[Answers, Answers]]) -> list[Row]:
    floods = [many for _, many in rounds]
    late = sum(many.count(504) for many in floods)
    answers = sum(map(len, floods))
    told = np.concatenate([many.latency_ms[many.status == 503] for many in floods])
    if not len(told):
        raise RuntimeError(f"nobody was refused, so this was no flood: {[many.statuses() for many in floods]}")
    silent = sum(int(np.isnan(many.retry_after_s[many.status == 503]).sum()) for many in floods)
    return [
        Row(
            claim=f"{path}, {MANY} clients: answers that came too late", measured=100 * late / answers, unit="%",
            better="lower", bar=LATE_BAR, noise=1.0, note=f"of {answers}",
        ),
        Row(
            claim=f"{path}, {MANY} clients: goodput ÷ that of {FEW}", unit="×", better="higher", bar=GOODPUT_BAR, noise=0.15,
            measured=statistics.median(_goodput(many) / _goodput(few) for few, many in rounds),
            note=f"{statistics.median(_goodput(many) for many in floods):.1f} images/s",
        ),
        Row(
            claim=f"{path}, {MANY} clients: the refused have their 503: p50", measured=percentile(told, 50), unit="ms",
            better="lower", noise=1.0, note=f"{len(told)} refusals, {silent} without Retry-After",
        ),
    ]  # fmt: skip


def _goodput(answers: Answers) -> float:
    """Return good answers a second, once all have begun."""
    done_s = answers.sent_s + answers.latency_ms / 1e3
    counted = (answers.status == 200) & (done_s >= SETTLED_S) & (done_s < SECONDS)
    return float(counted.sum()) / (SECONDS - SETTLED_S)


def _camera() -> bytes:
    """Return a JPEG of 4,000 × 3,000 with one face and a sensor's noise: 2.8 MB."""
    picture = cv2.resize(astronaut(), (4000, 3000), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    grain = np.random.default_rng(1).normal(0, 14, (1500, 2000, 3)).astype(np.float32)
    picture += cv2.resize(grain, (4000, 3000))
    return saved(np.clip(picture, 0, 255).astype(np.uint8), "JPEG", quality=90)


def _load(worker: Worker, path: str, bodies: list[bytes], clients: int) -> Load:
    return Load(
        port=worker.port, key=worker.key, path=path, content_type="image/jpeg", bodies=bodies, repeat=True,
        connections=clients, seconds=SECONDS, patient=True,
    )  # fmt: skip


def _await_models(worker: Worker) -> None:
    """Wait until face models are loaded."""
    one = Load(port=worker.port, key=worker.key, path=PATHS[1], content_type="image/jpeg", bodies=[photo()])
    until = time.monotonic() + PATIENCE_S
    while send(one).statuses() != {200: 1}:
        if time.monotonic() > until:
            raise RuntimeError("the face models are not loaded after a minute")
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
