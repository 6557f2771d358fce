"""64 clients with mixed lengths over HTTP, against the runner itself fed 64 texts at a time.

Both use the same cores, in turns, on the same texts. Where there are no cores beside those, the load generator takes
its share of them; the note says how much. The bar holds with that share counted against us.
"""

from __future__ import annotations

import statistics
import sys

from measuring.cores import available
from measuring.corpus import Corpus
from measuring.load import Load, json_bodies, percentile, send
from measuring.own import open_own
from measuring.report import Row, main, say
from measuring.worker import Worker

CLIENTS = 64
CORES = 2
ROUNDS = 5
SECONDS = 4.0
TEXTS = 12_000
TAIL_BAR, RATIO_BAR = 4.0, 0.70


def measure() -> list[Row]:
    """Return the rows."""
    texts = Corpus(6).mixed(TEXTS)
    cores, beside = available()[:CORES], available()[CORES : CORES + 1]
    bodies = json_bodies(texts)
    ratios, tails, halves, rates, shares, errors = [], [], [], [], [], 0
    with open_own(cores=cores) as (own, _), Worker(cores=cores) as worker:
        for number in range(ROUNDS):
            part = slice(number * TEXTS // ROUNDS, (number + 1) * TEXTS // ROUNDS)
            alone = own.ask("feed", texts=texts[part], seconds=SECONDS)["texts_per_s"]
            load = Load(
                port=worker.port, key=worker.key, bodies=bodies[part], connections=CLIENTS, seconds=SECONDS,
                cores=beside or cores, warm_up=CLIENTS,
            )  # fmt: skip
            answers = send(load)
            errors += len(answers) - answers.count(200)
            p50, p99 = percentile(answers.latency_ms, 50), percentile(answers.latency_ms, 99)
            rates.append(answers.rate)
            ratios.append(answers.rate / alone)
            tails.append(p99 / p50)
            halves.append(p50)
            shares.append(answers.cpu_s / answers.elapsed_s / len(cores))
            say(
                f"round {number + 1}/{ROUNDS}: {answers.rate:,.0f} req/s of {alone:,.0f}, p50 {p50:.1f}, p99 {p99:.1f} ms"
            )
    place = f"on {len(cores)} cores" + (
        "" if beside else f", {statistics.median(shares):.0%} of them the load generator's"
    )
    return [
        Row(claim=f"{CLIENTS} clients: errors", measured=errors, unit="errors", better="lower", bar=0),
        Row(
            claim=f"{CLIENTS} clients: p99 ÷ p50", measured=statistics.median(tails), unit="×", better="lower",
            bar=TAIL_BAR, noise=0.3, note=f"p50 {statistics.median(halves):.0f} ms",
        ),
        Row(
            claim=f"{CLIENTS} clients: rate ÷ the runner's own, fed {CLIENTS} at a time",
            measured=statistics.median(ratios), unit="×", better="higher", bar=RATIO_BAR, note=place,
        ),
        Row(
            claim=f"{CLIENTS} clients: rate", measured=statistics.median(rates), unit="req/s", better="higher",
            yardstick=statistics.median(rate / ratio for rate, ratio in zip(rates, ratios, strict=True)),
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
