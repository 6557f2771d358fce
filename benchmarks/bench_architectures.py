"""BERT graphs of our own against transformers' BertModel, on small models with weights drawn at random.

Each configuration is like one of the models that are served (pooling is no part of the graph): activation, depth,
heads, the type that weights are stored in, the prefix of their names. Token vectors are compared in float32 on a
batch with padding, by both backends. Weights are drawn widely, so that a wrong layer shows.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from measuring.lines import LineProcess
from measuring.own import unpacked
from measuring.peers import PeersUnavailable, open_peers
from measuring.report import Row, main, not_measured, say
from phalanx.engines.backends import EngineName, open_backend
from phalanx.models.conversion import CONVERTERS

BAR = 1e-4
BATCH, LENGTH = 6, 48
ENGINES: tuple[EngineName, ...] = ("openvino", "onnxruntime")


class Architecture(NamedTuple):
    """A configuration of `config.json` beside the common one, and how its weights are stored."""

    name: str
    config: dict[str, Any]
    dtype: str = "float32"
    prefix: str = ""


COMMON = {
    "vocab_size": 500,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 64,
}
ARCHITECTURES = (
    Architecture("MiniLM-like: 6 layers, 12 heads", {"num_hidden_layers": 6, "hidden_size": 96, "num_attention_heads": 12}),
    Architecture("bge-small-like: 12 layers, bert. prefix", {"num_hidden_layers": 12}, prefix="bert."),
    Architecture("e5-small-like: 12 layers, float16", {"num_hidden_layers": 12}, dtype="float16"),
    Architecture("e5-base-like: bfloat16, model. prefix", {"num_hidden_layers": 3}, dtype="bfloat16", prefix="model."),
    Architecture("gelu_new", {"num_hidden_layers": 2, "hidden_act": "gelu_new"}),
    Architecture("relu, one token type", {"num_hidden_layers": 2, "hidden_act": "relu", "type_vocab_size": 1}),
    Architecture("one layer, one head, eps 1e-5", {"num_hidden_layers": 1, "num_attention_heads": 1, "layer_norm_eps": 1e-5}),
)  # fmt: skip


def measure() -> list[Row]:
    """Return the rows."""
    try:
        peers = open_peers(1)
    except PeersUnavailable as error:
        return not_measured([(one.name, "difference", "lower", BAR) for one in ARCHITECTURES], str(error))
    with peers, tempfile.TemporaryDirectory(prefix="phalanx-bench-") as folder:
        return [_compare(peers, one, Path(folder) / str(seed), seed) for seed, one in enumerate(ARCHITECTURES)]


def _compare(peers: LineProcess, one: Architecture, folder: Path, seed: int) -> Row:
    config = {**COMMON, **one.config}
    peers.ask("random_bert", folder=str(folder), config=config, dtype=one.dtype, prefix=one.prefix, seed=seed)
    ids, mask = _batch(config["vocab_size"], seed)
    answer = peers.ask("bert_states", folder=str(folder), prefix=one.prefix, ids=ids.tolist(), mask=mask.tolist())
    expected = unpacked(answer["states"])
    CONVERTERS["bert"](folder)
    worst = 0.0
    for engine in ENGINES:
        states = open_backend(folder / "model.onnx", engine=engine, device="cpu", precision="f32").infer(ids, mask)
        difference = float(np.abs(states - expected)[mask == 1].max())
        worst = max(worst, difference)
        say(f"{one.name}: {engine} {difference:.1e}")
    spread = float(expected[mask == 1].std())
    return Row(
        claim=f"{one.name}: largest difference to BertModel", measured=worst, unit="", better="lower", bar=BAR,
        noise=9.0, note=f"of values that spread by {spread:.2f}; {' and '.join(ENGINES)}",
    )  # fmt: skip


def _batch(vocabulary: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ids and mask `[batch, seq]` of texts of every length from 1 to the longest."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(1, vocabulary, size=(BATCH, LENGTH))
    lengths = np.linspace(1, LENGTH, BATCH).astype(np.int64)
    mask = (np.arange(LENGTH)[None, :] < lengths[:, None]).astype(np.int64)
    return ids * mask, mask


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
