"""2,000 requests at once: how soon the refused know, and how much is done meanwhile.

2,000 connections are open and send at the same instant. Then each behaves as it is told: one that was answered sends
its next text, one that was refused comes back after `Retry-After`, which is again nearly all of them at one instant.
The unflooded rate is what 64 clients got just before. The load generator has the same cores as the worker, so a few
refusals wait until the scheduler gives the worker its turn: the bar is for the 99th percentile, and the longest is shown.
"""

from __future__ import annotations

import statistics
import sys
from typing import NamedTuple

import numpy as np

from measuring.corpus import Corpus
from measuring.load import Answers, Load, json_bodies, percentile, send
from measuring.report import Row, main, say
from measuring.worker import Worker

FLOOD = 2000
CLIENTS = 64
FLOODS = 6
SECONDS = 3.5
CALM_S = 3.0
SETTLED_S = 0.5
"""Goodput is counted from here on: before, the worker is reading the first 2,000."""
TEXTS = 60_000
DECIDED_BAR_MS, TOLD_BAR_MS, GOODPUT_BAR, GROWTH_BAR_MIB = 2.0, 400.0, 0.5, 10.0


class Wave(NamedTuple):
    """One flood with the rate before it and the memory after it."""

    answers: Answers
    calm_rate: float
    rss_mib: float

    @property
    def goodput(self) -> float:
        """Good answers a second while flooded."""
        done_s = self.answers.sent_s + self.answers.latency_ms / 1e3
        counted = (self.answers.status == 200) & (done_s >= SETTLED_S) & (done_s < SECONDS)
        return float(counted.sum()) / (SECONDS - SETTLED_S)


def measure() -> list[Row]:
    """Return the rows."""
    bodies = json_bodies(Corpus(7).mixed(TEXTS))
    waves: list[Wave] = []
    with Worker() as worker:
        for number in range(FLOODS):
            part = bodies[number * TEXTS // FLOODS : (number + 1) * TEXTS // FLOODS]
            load = Load(port=worker.port, key=worker.key, bodies=part[::-1], connections=CLIENTS, seconds=CALM_S)
            calm = send(load)
            calm.require_ok()
            flood = Load(
                port=worker.port, key=worker.key, bodies=part, connections=FLOOD, seconds=SECONDS, patient=True
            )
            waves.append(Wave(send(flood), calm.rate, worker.rss_mib()))
            wave = waves[-1]
            say(
                f"flood {number + 1}/{FLOODS}: {wave.answers.statuses()}, {wave.goodput:,.0f} of {wave.calm_rate:,.0f} req/s"
            )
    return _rows(waves)


def _rows(waves: list[Wave]) -> list[Row]:
    refusals = [wave.answers.status == 503 for wave in waves]
    decided = [wave.answers.total_ms[refused] for wave, refused in zip(waves, refusals, strict=True)]
    told = [wave.answers.latency_ms[refused] for wave, refused in zip(waves, refusals, strict=True)]
    silent = sum(
        int(np.isnan(wave.answers.retry_after_s[refused]).sum()) for wave, refused in zip(waves, refusals, strict=True)
    )
    other = sum(len(wave.answers) - wave.answers.count(200) - wave.answers.count(503) for wave in waves)
    count = sum(int(refused.sum()) for refused in refusals)
    if count == 0:
        raise RuntimeError(f"nobody was refused, so this was no flood: {[wave.answers.statuses() for wave in waves]}")
    middle, last = waves[len(waves) // 2 - 1].rss_mib, waves[-1].rss_mib
    goodput = statistics.median(wave.goodput / wave.calm_rate for wave in waves)
    return [
        Row(
            claim="a refusal is decided, after it was read: p99", unit="ms", better="lower", bar=DECIDED_BAR_MS,
            measured=statistics.median(percentile(ms, 99) for ms in decided), noise=1.0,
            note=f"{count:,} refusals in {len(waves)} floods",
        ),
        Row(
            claim="a refusal is decided, after it was read: longest", unit="ms", better="lower", noise=3.0,
            measured=statistics.median(float(ms.max()) for ms in decided), note="median of the floods",
        ),
        Row(
            claim="the refused have their 503: longest", measured=statistics.median(float(ms.max()) for ms in told), unit="ms",
            better="lower", bar=TOLD_BAR_MS, noise=0.5,
            note=f"median of the floods; p50 {statistics.median(percentile(ms, 50) for ms in told):.0f} ms",
        ),
        Row(claim="refusals without Retry-After", measured=silent, unit="answers", better="lower", bar=0),
        Row(
            claim="neither answered nor refused", measured=other, unit="requests", better="lower", bar=0,
            note=f"of {sum(len(wave.answers) for wave in waves):,}",
        ),
        Row(claim="goodput ÷ unflooded rate", measured=goodput, unit="×", better="higher", bar=GOODPUT_BAR),
        Row(
            claim="memory gained in the second half of the floods", measured=last - middle, unit="MiB", better="lower",
            bar=GROWTH_BAR_MIB, noise=9.0, note=f"{waves[0].rss_mib:.0f} MiB after the first, {last:.0f} after the last",
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
