"""MiniLM in process on mixed lengths: tokens a second against sentence-transformers fp32 and ONNX Runtime fp32.

All contenders embed the same texts (the reference texts and as many made up), tokenising and unit length included, on
the same cores, in turns: a round is one pass of each. Of the median of the rounds' ratios and the ratio of the best
rounds the smaller one counts: neighbours on the machine distort the one, luck the other. Tokens are those of the texts,
special tokens included, padding not. Each peer has the batch size that was best for it in a trial; for ONNX Runtime so
has the graph: as torch exports it, or as ONNX Runtime's own transformer tools fuse it.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

from measuring.cores import available
from measuring.corpus import Corpus, reference
from measuring.lines import LineProcess
from measuring.model import BUILD, peer_folder
from measuring.own import cosines, open_own, unpacked
from measuring.peers import PeersUnavailable, open_peers
from measuring.report import Row, main, not_measured, say

ROUNDS = 11
LEAST_ROUNDS = 5
ENOUGH_S = 60.0
"""On a machine so busy that the rounds take longer, there are fewer of them."""
BATCHES = (8, 16, 32, 64)
ST_BAR, ORT_BAR, COSINE_BAR = 4.0, 1.6, 0.9999

Pass = Callable[[list[str]], float]
"""Embeds texts and returns the seconds that it took."""


class Contender(NamedTuple):
    """One who embeds."""

    name: str
    run: Pass


def measure() -> list[Row]:
    """Return the rows."""
    texts = reference().texts + Corpus(1).mixed(136)
    with ExitStack() as stack:
        auto, facts = stack.enter_context(open_own("auto"))
        f32, _ = stack.enter_context(open_own("f32"))
        tokens = auto.ask("encode", texts=texts)["tokens"]
        contenders = [Contender("auto", _own(auto)), Contender("f32", _own(f32))]
        try:
            peers = stack.enter_context(open_peers(len(available())))
        except PeersUnavailable as error:
            return not_measured(
                [
                    ("tokens/s ÷ sentence-transformers fp32", "×", "higher", ST_BAR),
                    ("tokens/s ÷ ONNX Runtime fp32", "×", "higher", ORT_BAR),
                ],
                str(error),
            )
        peers.ask("load", folder=str(peer_folder()), graphs=str(BUILD))
        st, st_setting = _best(peers, ["st"], texts)
        ort, ort_setting = _best(peers, ["ort", "ort-fused"], texts)
        rates = _rounds([*contenders, st._replace(name="st"), ort._replace(name="ort")], texts, tokens)
        exact = unpacked(peers.ask("encode", peer="st", texts=texts, batch=32, vectors=True)["vectors"])
        ours = unpacked(auto.ask("encode", texts=texts, vectors=True)["vectors"])
    worst = float(cosines(ours, exact).min())
    return _rows(rates, worst, f"{facts['engine']} {facts['precision']}", st_setting, ort_setting)


def _own(process: LineProcess) -> Pass:
    return lambda texts: float(process.ask("encode", texts=texts)["seconds"])


def _peer(process: LineProcess, peer: str, batch: int) -> Pass:
    return lambda texts: float(process.ask("encode", peer=peer, texts=texts, batch=batch)["seconds"])


def _best(process: LineProcess, peers: list[str], texts: list[str]) -> tuple[Contender, str]:
    """Return the fastest of the settings in a trial, and its name. The first pass of each is for warming up."""
    trials: dict[tuple[str, int], float] = {}
    for attempt in range(3):
        for peer in peers:
            for batch in BATCHES:
                seconds = _peer(process, peer, batch)(texts[attempt % 2 :: 2])
                if attempt:
                    trials[peer, batch] = min(seconds, trials.get((peer, batch), seconds))
    peer, batch = min(trials, key=trials.__getitem__)
    setting = f"{peer} with batches of {batch}"
    say(f"best in the trial: {setting}")
    return Contender(peer, _peer(process, peer, batch)), setting


def _rounds(contenders: list[Contender], texts: list[str], tokens: int) -> dict[str, list[float]]:
    """Return each contender's tokens a second, round by round; who begins changes from round to round."""
    rates: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    until = time.perf_counter() + ENOUGH_S
    for number in range(ROUNDS):
        if number >= LEAST_ROUNDS and time.perf_counter() > until:
            break
        turn = number % len(contenders)
        for contender in contenders[turn:] + contenders[:turn]:
            rates[contender.name].append(tokens / contender.run(texts))
        say(f"round {number + 1}/{ROUNDS}: " + ", ".join(f"{name} {found[-1]:,.0f}" for name, found in rates.items()))
    return rates


def _rows(rates: dict[str, list[float]], cosine: float, engine: str, st: str, ort: str) -> list[Row]:
    best = {name: max(found) for name, found in rates.items()}

    def ratio(own: str, peer: str) -> dict[str, Any]:
        typical = statistics.median(a / b for a, b in zip(rates[own], rates[peer], strict=True))
        return {"measured": min(typical, max(rates[own]) / max(rates[peer])), "unit": "×", "better": "higher"}

    def speed(name: str, note: str) -> Row:
        return Row(
            claim=f"{name}, tokens/s (best round)", measured=best[name], unit="tok/s", better="higher",
            yardstick=best["ort"], note=note,
        )  # fmt: skip

    return [
        Row(claim="tokens/s ÷ sentence-transformers fp32", bar=ST_BAR, note=f"auto is {engine}; {st}", **ratio("auto", "st")),
        Row(claim="tokens/s ÷ ONNX Runtime fp32", bar=ORT_BAR, note=f"auto is {engine}; {ort}", **ratio("auto", "ort")),
        Row(claim="f32: tokens/s ÷ sentence-transformers fp32", **ratio("f32", "st")),
        Row(claim="f32: tokens/s ÷ ONNX Runtime fp32", **ratio("f32", "ort")),
        speed("auto", engine),
        speed("f32", "openvino f32"),
        speed("st", st),
        speed("ort", ort),
        Row(claim="lowest cosine to sentence-transformers fp32", measured=cosine, unit="cosine", better="higher", bar=COSINE_BAR),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
