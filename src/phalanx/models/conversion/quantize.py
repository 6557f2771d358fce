"""BERT in int8 with static scales: the same text gives the same vector whatever it is batched with.

Weights have a scale an output channel, activations one a tensor, both fixed by calibration. A few channels of BERT's
activations are tens of times larger than the rest and mostly of one sign, which one scale cannot hold. So each channel
is first centred and scaled and the weights take that back, and the few largest inside the feed-forward networks go
through a small float32 product of their own. Sources: Xiao et al., "SmoothQuant", https://arxiv.org/abs/2211.10438
(scaling); Wei et al., "Outlier Suppression+", https://arxiv.org/abs/2304.09145 (centring); Dettmers et al.,
"LLM.int8()", https://arxiv.org/abs/2208.07339 (the large ones apart).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from tokenizers import Tokenizer

from phalanx.models.conversion.bert import (
    CONFIG,
    GRAPH,
    WEIGHTS,
    BertConfig,
    BertGraph,
    BertWeights,
    read_config,
    save_graph,
)
from phalanx.models.conversion.calibration import CHECKS, calibration_ids, calibration_texts
from phalanx.models.conversion.trial import Floats, Pooling, Trial, speed_ratio
from phalanx.models.conversion.weights import Tensor, read_tensors

GOLDEN = "golden.json"

REQUIRED_COSINE = 0.99
"""The least cosine to float32 of any check text with which a quantised model may be activated."""

MIGRATION = 0.7
"""How much of a channel's range goes over to the weights, SmoothQuant's alpha. Least cosine of MiniLM over 120 texts:
0.952 at 0.5, 0.992 at 0.7."""

APART = 8
"""Channels of a feed-forward network's inside that stay in float32. Least cosine of MiniLM: 0.992 without, 0.994 with 8
and no better with 32; they take a twentieth of the speed."""

PRECISION_KEY = "phalanx.precision"
"""The entry of the graph's metadata that says that it is int8; backends read it."""


class QuantizeReport(NamedTuple):
    """What came out: cosines to float32 over the check texts and the one that came off worst, how many times faster it
    is than the float model in the faster of its precisions, and the size of the graph in bytes."""

    min_cosine: float
    mean_cosine: float
    worst_text: str
    speed_ratio: float
    size: int

    @property
    def acceptable(self) -> bool:
        """Whether the model may be activated."""
        return self.min_cosine >= REQUIRED_COSINE


class Range(NamedTuple):
    """The least and the greatest value of each channel that calibration saw, `[channels]`."""

    low: Floats
    high: Floats


def quantize(
    folder: Path,
    out: Path,
    *,
    pooling: Pooling = "mean",
    max_tokens: int = 256,
    note: Callable[[str], None] = lambda line: None,
) -> QuantizeReport:
    """Make the int8 form of a version of a BERT and say how good it is.

    `folder` holds `model.safetensors`, `config.json`, `tokenizer.json` and `model.onnx`; `out` gets `model.onnx`, weights
    included, and `golden.json`, the check texts with their float32 vectors. It is for the caller to refuse what is not
    `acceptable`. Takes ten seconds for MiniLM on two cores. Raises `UnsupportedModel`.
    """
    config = read_config(folder / CONFIG)
    weights = BertWeights(read_tensors(folder / WEIGHTS))
    plain = BertGraph(config, weights)
    model = plain.build()
    encode = _encoder(folder / "tokenizer.json", max_tokens)
    note("calibrating")
    texts = [*map(encode, calibration_texts()), *_vocabulary(config.vocab_size, encode(""), max_tokens)]
    ranges = calibrate(model, plain.dense_inputs, folder, texts)
    note("quantising")
    out.mkdir(parents=True, exist_ok=True)
    save_graph(QuantizedGraph(config, weights, folder / WEIGHTS, plain.dense_inputs, ranges).build(), out)
    note("comparing")
    checks = [encode(text) for text in CHECKS]
    expected = Trial(folder / GRAPH, "f32").units(checks, pooling)
    cosines = np.einsum("nd,nd->n", expected, Trial(out / GRAPH, "f32").units(checks, pooling))
    _write_golden(out / GOLDEN, expected, pooling, max_tokens)
    worst = int(cosines.argmin())
    faster = speed_ratio(folder / GRAPH, out / GRAPH)
    return QuantizeReport(
        float(cosines[worst]), float(cosines.mean()), CHECKS[worst], faster, (out / GRAPH).stat().st_size
    )


def calibrate(
    model: onnx.ModelProto, dense_inputs: Mapping[str, str], folder: Path, texts: Sequence[Sequence[int]]
) -> dict[str, Range]:
    """Run token ids through a graph whose weights are in `folder`; return the range of each value that a dense layer
    reads."""
    values = sorted(set(dense_inputs.values()))
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    observed.graph.output.extend(helper.make_tensor_value_info(value, TensorProto.FLOAT, None) for value in values)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    session = ort.InferenceSession(observed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ranges: dict[str, Range] = {}
    for text in texts:
        ids = np.array([text], dtype=np.int64)
        found = session.run(values, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        for value, rows in zip(values, found, strict=True):
            low, high = rows[0].min(axis=0), rows[0].max(axis=0)
            seen = ranges.get(value, Range(low, high))
            ranges[value] = Range(np.minimum(seen.low, low), np.maximum(seen.high, high))
    return ranges


class _Migration(NamedTuple):
    """How a value becomes int8: `(x - centre) / spread` but for the channels `apart`; `[channels]`, `[few]`."""

    centre: Floats
    spread: Floats
    apart: npt.NDArray[np.int64]


class QuantizedGraph(BertGraph):
    """BERT's graph with dense layers and word embeddings in int8; it holds its own weights."""

    def __init__(
        self,
        config: BertConfig,
        weights: BertWeights,
        file: Path,
        dense_inputs: Mapping[str, str],
        ranges: Mapping[str, Range],
    ) -> None:
        super().__init__(config, weights)
        self._file = file
        self._ranges = ranges
        self._readers: dict[str, list[str]] = {}
        for layer, value in dense_inputs.items():
            self._readers.setdefault(value, []).append(layer)
        self._migrations: dict[str, _Migration] = {}

    def build(self) -> onnx.ModelProto:
        """Return the model, marked as int8."""
        model = super().build()
        model.metadata_props.add(key=PRECISION_KEY, value="int8")
        return model

    def _dense(self, at: str, value: str, inputs: int, outputs: int) -> str:
        if value not in self._migrations:
            self._migrations[value] = self._migrate(value, inputs)
        centre, spread, apart = self._migrations[value]
        weight = self._matrix(at, inputs)
        large = weight[:, apart].T.copy()
        weight[:, apart] = 0
        levels, steps = _levels(weight * spread)
        scale = self._constant(f"{at}.weight.steps", steps[:, 0])
        zero = self._constant(f"{at}.weight.zero", np.zeros(outputs, dtype=np.int8))
        stored = self._constant(f"{at}.weight.int8", levels.T.astype(np.int8))
        matrix = self._op("DequantizeLinear", stored, scale, zero, name=f"{at}.weight", axis=1)
        product = self._op("MatMul", f"{value}.restored", matrix, name=f"{at}.product")
        if len(apart):
            few = self._op("MatMul", f"{value}.apart", self._constant(f"{at}.large", large), name=f"{at}.few")
            product = self._op("Add", product, few, name=f"{at}.all")
        # The weights as they are after rounding give back what centring took, so that it adds no error.
        bias = self._array(self.weights.take(f"{at}.bias", (outputs,))) + (levels * steps) @ (centre / spread)
        return self._op("Add", product, self._constant(f"{at}.bias", bias.astype(np.float32)), name=at)

    def _migrate(self, value: str, channels: int) -> _Migration:
        """Centre, spread and quantise a value for all layers that read it: `<value>.restored`, and `<value>.apart`."""
        low, high = self._ranges[value]
        centre: Floats = (high + low) / np.float32(2)
        reach: Floats = np.maximum((high - low) / np.float32(2), np.float32(1e-3))
        inside = channels == self.config.intermediate_size
        apart = np.sort(np.argsort(-reach)[: APART if inside else 0]).astype(np.int64)
        centre[apart], reach[apart] = 0, reach.min()
        weight = np.stack([np.abs(self._matrix(reader, channels)).max(axis=0) for reader in self._readers[value]]).max(
            0
        )
        rough = reach**MIGRATION / np.maximum(weight, 1e-4) ** (1 - MIGRATION)
        spread: Floats = (rough / np.exp(np.log(rough).mean())).astype(np.float32)
        step = np.float32((reach / spread).max() / 127)
        factor = 1 / spread
        factor[apart] = 0
        scaled = self._op("Mul", value, self._constant(f"{value}.factor", factor), name=f"{value}.scaled")
        shift = self._constant(f"{value}.shift", (-centre / spread).astype(np.float32))
        moved = self._op("Add", scaled, shift, name=f"{value}.centred")
        scale, zero = self._constant(f"{value}.step", step), self._constant("int8_zero", np.int8(0))
        stored = self._op("QuantizeLinear", moved, scale, zero, name=f"{value}.int8")
        self._op("DequantizeLinear", stored, scale, zero, name=f"{value}.restored")
        if len(apart):
            self._op("Gather", value, self._constant(f"{value}.large", apart), name=f"{value}.apart", axis=-1)
        return _Migration(centre, spread, apart)

    def _words(self, name: str) -> str:
        table = self.weights.take(name, (self.config.vocab_size, self.config.hidden_size))
        levels, steps = _levels(self._array(table))
        rows = self._op("Gather", self._constant(name, levels.astype(np.int8)), "input_ids", name="words.int8")
        scale = self._op("Gather", self._constant(f"{name}.steps", steps), "input_ids", name="words.steps")
        return self._op("Mul", self._cast(rows), scale, name="words")

    def _weight(self, name: str, *shape: int) -> str:
        return self._constant(name, self._array(self.weights.take(name, shape)))

    def _matrix(self, layer: str, inputs: int) -> Floats:
        size, wide = self.config.hidden_size, self.config.intermediate_size
        outputs = wide if layer.endswith("intermediate.dense") else size
        return self._array(self.weights.take(f"{layer}.weight", (outputs, inputs)))

    def _array(self, tensor: Tensor) -> Floats:
        raw = np.fromfile(self._file, dtype=np.uint8, count=tensor.length, offset=tensor.offset)
        if tensor.dtype == "BF16":
            return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(tensor.shape)
        return raw.view("<f2" if tensor.dtype == "F16" else "<f4").astype(np.float32).reshape(tensor.shape)


def _levels(matrix: Floats) -> tuple[Floats, Floats]:
    """Return a matrix in whole steps, -127 to 127, with the step of each row, `[rows, 1]`."""
    steps = (np.maximum(np.abs(matrix).max(axis=1, keepdims=True), 1e-8) / 127).astype(np.float32)
    return np.rint(matrix / steps), steps


def _encoder(path: Path, max_tokens: int) -> Callable[[str], list[int]]:
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return lambda text: list(tokenizer.encode(text).ids)


def _vocabulary(size: int, special: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Return texts that hold every token, between the special ones that every text stands between."""
    words = [id_ for id_ in range(size) if id_ not in special]
    return [[*special[:1], *ids, *special[1:]] for ids in calibration_ids(words, max_tokens - len(special))]


def _write_golden(path: Path, vectors: Floats, pooling: Pooling, max_tokens: int) -> None:
    """Write what `engines/text/golden.py` reads: the float32 vectors that this model must come near to."""
    golden = {
        "model": "float32 form of the same weights",
        "source": "the float32 graph, at quantisation",
        "pooling": pooling,
        "max_tokens": max_tokens,
        "texts": CHECKS,
        "vectors": base64.b64encode(vectors.astype("<f4").tobytes()).decode(),
    }
    path.write_bytes(msgspec.json.encode(golden))
