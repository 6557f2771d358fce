"""Faces over HTTP: a photo of 512 × 512 with one face, detected, embedded, and embedded as a crop; then by 16 clients at once.

The photo is sent as it is, 63 kB of JPEG, with key check, metering and request log on, and no two files are alike, so that none
is answered from the cache. The worker and the load generator share all cores: one client sleeps while the worker works. Other
users of a machine only ever add time, so of several repetitions the best one counts; the yardstick is a trivial server in the
same minute. Memory is that of a worker with faces, images and vectors, after all of it.
"""

from __future__ import annotations

import itertools
import sys
import time

import numpy as np

from measuring.cores import available
from measuring.load import Answers, Load, percentile, send
from measuring.photos import copies, crop, photo
from measuring.proc import cpu_s
from measuring.report import Row, main, say
from measuring.worker import Worker
from measuring.yardstick import trivial_latency_ms

DETECT, EMBED, ALIGNED = "/v1/faces/detect", "/v1/faces/embed", "/v1/faces/embed?aligned=true"
DETECT_BAR_MS, EMBED_BAR_MS, CROP_BAR_MS, RATE_BAR, RSS_BAR_MIB = 6.0, 12.0, 5.0, 150.0, 600.0
REPETITIONS, IMAGES, WARM_UP = 5, 150, 20
CLIENTS, CROWD_S, CROWD_IMAGES = 16, 3.0, 1500
PATIENCE_S = 60.0
NUMBERS = itertools.count()


def measure() -> list[Row]:
    """Return the rows."""
    whole, head = photo(), crop()
    with Worker(scope="faces,images,vectors", environ={"SERVICES": "faces,images,vectors"}) as worker:
        _await_models(worker, whole)
        yard = trivial_latency_ms()[0]
        cases = ((DETECT, whole), (EMBED, whole), (ALIGNED, head))
        best: dict[str, tuple[float, float]] = {}
        rates: list[float] = []
        spent: list[float] = []
        for number in range(REPETITIONS):
            for path, jpeg in cases:
                answers = _one_client(worker, path, jpeg)
                found = (percentile(answers.latency_ms, 50), percentile(answers.engine_ms, 50))
                best[path] = min(best.get(path, (np.inf, np.inf)), found)
                say(f"{number + 1}/{REPETITIONS} {path}: p50 {found[0]:.2f} ms, engine {found[1]:.2f}")
            rate, cpu_ms = _crowd(worker, whole)
            rates.append(rate)
            spent.append(cpu_ms)
            say(
                f"{number + 1}/{REPETITIONS} {CLIENTS} clients: {rate:.0f} images/s, {cpu_ms:.2f} ms of processor time each"
            )
            yard = min(yard, trivial_latency_ms()[0])
        rss = worker.rss_mib()
    cores = f"{len(available())} cores"
    claims = (
        "detect, 512 × 512 JPEG: p50",
        "detect, align and embed, 512 × 512 JPEG: p50",
        "embed a crop, 150 × 150 JPEG: p50",
    )
    return [
        *(
            Row(claim=claim, measured=best[path][0], unit="ms", better="lower", bar=bar, yardstick=yard, noise=0.2,
                note=f"{cores}, one client; engine {best[path][1]:.2f} ms")
            for claim, (path, _), bar in zip(claims, cases, (DETECT_BAR_MS, EMBED_BAR_MS, CROP_BAR_MS), strict=True)
        ),
        Row(claim=f"detect, align and embed, {CLIENTS} clients", measured=max(rates), unit="images/s", better="higher",
            bar=RATE_BAR, noise=0.2, note=f"{cores}, which the load generator shares"),
        Row(claim=f"processor time for each, {CLIENTS} clients", measured=min(spent), unit="ms", better="lower", noise=0.1,
            note=f"{len(available()) / min(spent) * 1e3:.0f} images/s were all cores the worker's"),
        Row(claim="memory of a worker with faces, images and vectors, after this", measured=rss, unit="MiB", better="lower",
            bar=RSS_BAR_MIB, noise=0.05),
    ]  # fmt: skip


def _one_client(worker: Worker, path: str, jpeg: bytes) -> Answers:
    answers = send(_load(worker, path, _new(jpeg, IMAGES + WARM_UP), warm_up=WARM_UP))
    answers.require_ok()
    if float(np.min(answers.engine_ms)) <= 0:
        raise RuntimeError("a photo that should have been new came from the cache")
    return answers


def _crowd(worker: Worker, jpeg: bytes) -> tuple[float, float]:
    """Return images a second, and milliseconds of processor time that the worker spent on each."""
    before = cpu_s(worker.pid)
    answers = send(
        _load(
            worker, EMBED, _new(jpeg, CROWD_IMAGES), warm_up=CLIENTS, connections=CLIENTS, seconds=CROWD_S, patient=True
        )
    )
    answers.require_ok()
    return answers.rate, (cpu_s(worker.pid) - before) * 1e3 / (len(answers) + CLIENTS)


def _load(worker: Worker, path: str, bodies: list[bytes], **more: object) -> Load:
    fields: dict[str, object] = {"port": worker.port, "key": worker.key, "content_type": "image/jpeg"}
    return Load(**fields, path=path, bodies=bodies, **more)  # type: ignore[arg-type]


def _new(jpeg: bytes, count: int) -> list[bytes]:
    """Copies that no request had before."""
    return copies(jpeg, count, first=next(NUMBERS) * 10_000)


def _await_models(worker: Worker, jpeg: bytes) -> None:
    """Wait until face models are loaded: a worker is ready when its text model is."""
    until = time.monotonic() + PATIENCE_S
    while send(_load(worker, EMBED, _new(jpeg, 1))).statuses() != {200: 1}:
        if time.monotonic() > until:
            raise RuntimeError("the face models are not loaded after a minute")
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
