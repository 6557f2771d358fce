"""One text over gRPC, new and cached, and a bulk stream against the runner's own rate.

`Text/Embed` with one text of four tokens, with key check, metering and request log on, by one client that sends the next
call when it has its answer: gRPC's own synchronous one, so its time is in the figure. Runs of new texts take turns with
runs over HTTP on the same worker, since a machine is not as fast from one hour to the next; a bare service of grpc.aio
that answers as many bytes says what of a call is the transport's. The stream is 10,000 short texts,
16 to a message, in five parts; before each, the runner alone embeds as many texts of the same length, tokenising
included, on the same cores. Other users of a machine only ever add time: of several runs the best latency counts, of
the ratios the median.
"""

from __future__ import annotations

import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np

from measuring.bare_grpc import bare_grpc_ms
from measuring.cores import available
from measuring.corpus import Corpus
from measuring.load import Load, json_bodies, percentile, send
from measuring.own import open_own
from measuring.report import Row, main, say
from measuring.worker import HOST, Worker
from phalanx.contract.text import EmbedRequest
from phalanx.edges.grpc.schema import Schema
from phalanx.operations import table

P50_BAR, BULK_BAR = 1.0, 0.85
REPETITIONS = 5
CALLS, WARM_UP = 1000, 200
CACHED_TEXTS = 64
BULK_PARTS, BULK_TEXTS, BULK_TOKENS, IN_A_MESSAGE = 5, 2000, 10, 16

METHODS = Schema(table(plugins=False)).methods


def measure() -> list[Row]:
    """Return the rows."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    with Worker(environ={"GRPC_PORT": str(port)}) as worker, grpc.insecure_channel(f"{HOST}:{port}") as channel:
        metadata = [("authorization", f"Bearer {worker.key}")]
        return [*_latency(worker, channel, metadata), _bulk(channel, metadata)]


def _latency(worker: Worker, channel: Any, metadata: Any) -> list[Row]:
    method = METHODS["text.embed"]
    call = channel.unary_unary(method.path)
    corpus, rows = Corpus(6), []
    few = corpus.short(CACHED_TEXTS)
    kinds: list[tuple[str, Callable[[], list[str]]]] = [
        ("new texts", lambda: corpus.short(CALLS + WARM_UP)),
        ("cached texts", lambda: [few[number % CACHED_TEXTS] for number in range(CALLS + WARM_UP)]),
    ]
    for kind, texts_of in kinds:
        found, yard, over_http = [], [bare_grpc_ms()], []
        for number in range(REPETITIONS):
            took = []
            for text in texts_of():
                began = time.perf_counter()
                method.response_of(call(method.request_of(EmbedRequest(texts=[text])), metadata=metadata, timeout=30.0))
                took.append((time.perf_counter() - began) * 1e3)
            found.append(percentile(np.array(took[WARM_UP:]), 50))
            yard.append(bare_grpc_ms())
            if kind == "new texts":
                over_http.append(_http_ms(worker, corpus))
            say(f"{kind} {number + 1}/{REPETITIONS}: p50 {found[-1]:.3f} ms")
        rows.append(Row(
            claim=f"Text/Embed, {kind}: p50", measured=min(found), unit="ms", better="lower", bar=P50_BAR,
            yardstick=min(yard), noise=0.2,
            note=f"{len(available())} cores, one client, {CALLS} calls a run, best of {REPETITIONS} runs; bare gRPC: {min(yard):.3f} ms",
        ))  # fmt: skip
        if over_http:
            more = [ours - http for ours, http in zip(found, over_http, strict=True)]
            rows.append(Row(
                claim=f"Text/Embed, {kind}: p50 beyond HTTP's", measured=statistics.median(more), unit="ms",
                better="lower", yardstick=min(yard), noise=0.5,
                note=f"runs in turn; HTTP: {min(over_http):.3f} ms at best",
            ))  # fmt: skip
    return rows


def _http_ms(worker: Worker, corpus: Corpus) -> float:
    """Return the p50 of as many new texts over HTTP, in milliseconds."""
    bodies = json_bodies(corpus.short(CALLS + WARM_UP))
    answers = send(Load(port=worker.port, key=worker.key, bodies=bodies, warm_up=WARM_UP))
    answers.require_ok()
    return percentile(answers.latency_ms, 50)


def _bulk(channel: Any, metadata: Any) -> Row:
    method = METHODS["text.embed_stream"]
    call = channel.stream_stream(method.path)
    corpus, ratios, rates = Corpus(7), [], []

    def texts() -> list[str]:
        return [corpus.text(BULK_TOKENS) for _ in range(BULK_TEXTS)]

    def stream(sent: list[str]) -> float:
        messages = [
            method.request_of(EmbedRequest(texts=[*sent[start : start + IN_A_MESSAGE]]))
            for start in range(0, len(sent), IN_A_MESSAGE)
        ]

        def each() -> Iterator[bytes]:
            yield from messages

        began = time.perf_counter()
        count = sum(len(method.response_of(answer).embeddings) for answer in call(each(), metadata=metadata))
        took = time.perf_counter() - began
        if count != len(sent):
            raise RuntimeError(f"{len(sent)} texts were sent, {count} vectors came")
        return took

    with open_own("auto") as (own, _):
        own.ask("encode", texts=texts())
        stream(texts())
        for part in range(BULK_PARTS):
            alone = float(own.ask("encode", texts=texts())["seconds"])
            streamed = stream(texts())
            ratios.append(alone / streamed)
            rates.append(BULK_TEXTS / streamed)
            say(f"bulk {part + 1}/{BULK_PARTS}: {rates[-1]:,.0f} texts/s, {ratios[-1]:.2f} × the runner alone")
    return Row(
        claim="bulk stream ÷ the runner alone", measured=statistics.median(ratios), unit="×", better="higher",
        bar=BULK_BAR, noise=0.1,
        note=f"{max(rates):,.0f} texts/s; {BULK_PARTS} × {BULK_TEXTS} texts of {BULK_TOKENS} tokens, {IN_A_MESSAGE} to a message",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
