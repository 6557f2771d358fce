"""BERT as an ONNX graph of our own, from `config.json` and where the tensors lie in `model.safetensors`.

The graph holds no weights: its tensors are external data inside the safetensors file itself, so that the bytes that
run are the bytes whose SHA-256 is pinned, a version takes no second copy on disk, and backends map the file into
memory. Source of the architecture: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding", https://arxiv.org/abs/1810.04805, with the post-layer-norm order and the tensor names of its release.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from phalanx.models.conversion import UnsupportedModel
from phalanx.models.conversion.weights import ITEM_BYTES, Tensor, read_tensors

GRAPH = "model.onnx"
WEIGHTS = "model.safetensors"
CONFIG = "config.json"

OPSET = 20
IR_VERSION = 10

MASKED = -10000.0
"""Added to the attention scores of padding: e^-10000 is 0 in float32 and in bfloat16, and unlike -inf it makes no NaN
of a row that is padding throughout."""

ACTIVATIONS: dict[str, dict[str, str] | None] = {
    "gelu": {"approximate": "none"},
    "gelu_new": {"approximate": "tanh"},
    "gelu_fast": {"approximate": "tanh"},
    "gelu_pytorch_tanh": {"approximate": "tanh"},
    "relu": None,
}
"""Attributes of ONNX's Gelu by the configuration's name for it; None is Relu."""

DTYPES = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16}

Size = Annotated[int, msgspec.Meta(ge=1)]


class BertConfig(msgspec.Struct, frozen=True):
    """What `config.json` says of a BERT, under its own names; fields that change nothing here are not read."""

    model_type: str
    hidden_size: Size
    intermediate_size: Size
    num_attention_heads: Size
    num_hidden_layers: Size
    max_position_embeddings: Size
    vocab_size: Size
    type_vocab_size: Size = 2
    layer_norm_eps: Annotated[float, msgspec.Meta(gt=0)] = 1e-12
    hidden_act: str = "gelu"
    position_embedding_type: str = "absolute"
    is_decoder: bool = False


def write_graph(folder: Path) -> list[str]:
    """Write `model.onnx` into a folder with `model.safetensors` and `config.json`; return the names of what was written.

    Inputs: `input_ids` and `attention_mask`, int64 `[batch, seq]`, 1 for a token and 0 for padding. Output:
    `last_hidden_state`, float32 `[batch, seq, hidden]`. Raises `UnsupportedModel` when the model is no BERT, or a
    tensor is missing or of the wrong shape.
    """
    config = read_config(folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        raise UnsupportedModel(f"{WEIGHTS} is missing; the conversion reads {WEIGHTS} and {CONFIG}")
    save_graph(BertGraph(config, BertWeights(read_tensors(folder / WEIGHTS))).build(), folder)
    return [GRAPH]


def save_graph(model: onnx.ModelProto, folder: Path) -> None:
    """Write a graph as `model.onnx`, whole or not at all."""
    partial = folder / f".{GRAPH}.part"
    partial.write_bytes(model.SerializeToString())
    partial.replace(folder / GRAPH)


def read_config(path: Path) -> BertConfig:
    """Read and check a configuration. Raises `UnsupportedModel` naming what was found and what is supported."""
    try:
        content = path.read_bytes()
        kind = msgspec.json.decode(content, type=dict[str, Any]).get("model_type")
        if kind != "bert":
            raise UnsupportedModel(
                f"{path.name}: model_type is {kind!r}; 'bert' can be converted (MiniLM, bge and e5 English models). "
                "For others, give a folder with model.onnx and tokenizer.json"
            )
        config = msgspec.json.decode(content, type=BertConfig)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnsupportedModel(f"{path.name} cannot be read: {error}") from error
    if config.hidden_act not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UnsupportedModel(f"{path.name}: hidden_act is {config.hidden_act!r}; supported: {known}")
    if config.position_embedding_type != "absolute" or config.is_decoder:
        raise UnsupportedModel(
            f"{path.name}: position_embedding_type is {config.position_embedding_type!r} and is_decoder "
            f"{config.is_decoder}; supported: 'absolute' and False"
        )
    if config.hidden_size % config.num_attention_heads:
        raise UnsupportedModel(
            f"{path.name}: hidden_size {config.hidden_size} is no multiple of "
            f"num_attention_heads {config.num_attention_heads}"
        )
    return config


class BertWeights:
    """The tensors of a checkpoint under BERT's plain names, whatever prefix they were saved with."""

    PREFIXES = ("", "bert.", "model.", "0.auto_model.", "model.bert.")
    OLD_NAMES: Mapping[str, str] = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        probe = "embeddings.word_embeddings.weight"
        self._tensors = tensors
        self._prefix = next((prefix for prefix in self.PREFIXES if prefix + probe in tensors), None)
        if self._prefix is None:
            raise UnsupportedModel(
                f"{WEIGHTS} has no {probe}, nor with the prefix {', '.join(filter(None, self.PREFIXES))}; "
                f"it holds {len(tensors)} tensors, such as {', '.join(sorted(tensors)[:3]) or 'none'}"
            )

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor, checked. Raises `UnsupportedModel`."""
        assert self._prefix is not None
        tensor = self._tensors.get(self._prefix + name)
        for new, old in self.OLD_NAMES.items():
            if tensor is None and name.endswith(new):
                tensor = self._tensors.get(self._prefix + name.removesuffix(new) + old)
        if tensor is None:
            raise UnsupportedModel(f"{WEIGHTS} has no tensor {self._prefix + name}")
        if tensor.shape != shape:
            raise UnsupportedModel(
                f"{WEIGHTS}: {tensor.name} has the shape {list(tensor.shape)}; {CONFIG} asks for {list(shape)}"
            )
        if tensor.dtype not in ITEM_BYTES:
            raise UnsupportedModel(f"{WEIGHTS}: {tensor.name} is {tensor.dtype}; supported: {', '.join(ITEM_BYTES)}")
        return tensor


class BertGraph:
    """Builds the graph. Methods take and return names of values; shapes are `[batch, seq, hidden]` unless said.

    Once built, `dense_inputs` says which value each dense layer reads, by the layer's name.
    """

    def __init__(self, config: BertConfig, weights: BertWeights) -> None:
        self.config = config
        self.weights = weights
        self.dense_inputs: dict[str, str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def build(self) -> onnx.ModelProto:
        """Return the whole model, checked."""
        config = self.config
        mask = self._mask()
        hidden = self._embeddings()
        for number in range(config.num_hidden_layers):
            hidden = self._layer(f"encoder.layer.{number}", hidden, mask)
        self._op("Identity", hidden, name="last_hidden_state")
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "seq"])
            for name in ("input_ids", "attention_mask")
        ]
        output = helper.make_tensor_value_info(
            "last_hidden_state", TensorProto.FLOAT, ["batch", "seq", config.hidden_size]
        )
        graph = helper.make_graph(self._nodes, "bert", inputs, [output], list(self._constants.values()))
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="phalanx")

    def _mask(self) -> str:
        """Return 0 for tokens and `MASKED` for padding, `[batch, 1, 1, seq]`."""
        padding = self._op("Sub", self._number("one", 1.0), self._cast("attention_mask"), name="padding")
        scores = self._op("Mul", padding, self._number("masked", MASKED), name="mask")
        return self._op("Unsqueeze", scores, self._integers("head_axes", [1, 2]), name="mask_by_head")

    def _embeddings(self) -> str:
        config = self.config
        size = config.hidden_size
        places = self._weight("embeddings.position_embeddings.weight", config.max_position_embeddings, size)
        kinds = self._weight("embeddings.token_type_embeddings.weight", config.type_vocab_size, size)
        zero, one = self._integers("zero", [0]), self._integers("one_row", [1])
        # Every token is of the first kind, so its row joins the positions once and for all: backends fold it.
        first = self._op("Slice", kinds, zero, one, zero, name="kind")
        places = self._op("Add", places, first, name="places")
        length = self._op("Shape", "input_ids", name="length", start=1, end=2)
        here = self._op("Slice", places, zero, length, zero, name="places_here")
        tokens = self._words("embeddings.word_embeddings.weight")
        return self._norm(self._op("Add", tokens, here, name="embeddings"), "embeddings.LayerNorm")

    def _words(self, name: str) -> str:
        table = self._weight(name, self.config.vocab_size, self.config.hidden_size)
        return self._op("Gather", table, "input_ids", name="words")

    def _layer(self, at: str, hidden: str, mask: str) -> str:
        size, wide = self.config.hidden_size, self.config.intermediate_size
        context = self._attention(f"{at}.attention.self", hidden, mask)
        attended = self._dense(f"{at}.attention.output.dense", context, size, size)
        hidden = self._norm(
            self._op("Add", attended, hidden, name=f"{at}.attended"), f"{at}.attention.output.LayerNorm"
        )
        inner = self._activation(f"{at}.activation", self._dense(f"{at}.intermediate.dense", hidden, size, wide))
        outer = self._dense(f"{at}.output.dense", inner, wide, size)
        return self._norm(self._op("Add", outer, hidden, name=f"{at}.fed"), f"{at}.output.LayerNorm")

    def _attention(self, at: str, hidden: str, mask: str) -> str:
        """Scaled dot-product attention over `[batch, heads, seq, hidden / heads]`."""
        size, heads = self.config.hidden_size, self.config.num_attention_heads
        split = self._integers("split", [0, 0, heads, size // heads])
        # Separate projections in plain operators: measured as fast as one fused projection, and what backends fuse best.
        axes = {"query": [0, 2, 1, 3], "key": [0, 2, 3, 1], "value": [0, 2, 1, 3]}
        query, key, value = (
            self._op(
                "Transpose",
                self._op("Reshape", self._dense(f"{at}.{part}", hidden, size, size), split, name=f"{at}.{part}.heads"),
                name=f"{at}.{part}.by_head",
                perm=perm,
            )
            for part, perm in axes.items()
        )
        scores = self._op("MatMul", query, key, name=f"{at}.scores")
        scores = self._op("Mul", scores, self._number("scale", 1 / math.sqrt(size // heads)), name=f"{at}.scaled")
        scores = self._op("Softmax", self._op("Add", scores, mask, name=f"{at}.masked"), name=f"{at}.shares", axis=-1)
        context = self._op("MatMul", scores, value, name=f"{at}.context")
        context = self._op("Transpose", context, name=f"{at}.context.turned", perm=[0, 2, 1, 3])
        return self._op("Reshape", context, self._integers("join", [0, 0, size]), name=f"{at}.context.joined")

    def _activation(self, name: str, value: str) -> str:
        attributes = ACTIVATIONS[self.config.hidden_act]
        if attributes is None:
            return self._op("Relu", value, name=name)
        return self._op("Gelu", value, name=name, **attributes)

    def _dense(self, at: str, value: str, inputs: int, outputs: int) -> str:
        # The weight stays `[outputs, inputs]` as in the file: OpenVINO folds the transposition into its product, where
        # a weight turned beforehand would cost a float32 copy of it at load.
        self.dense_inputs[at] = value
        weight = self._op("Transpose", self._weight(f"{at}.weight", outputs, inputs), name=f"{at}.turned", perm=[1, 0])
        product = self._op("MatMul", value, weight, name=f"{at}.product")
        return self._op("Add", product, self._weight(f"{at}.bias", outputs), name=at)

    def _norm(self, value: str, at: str) -> str:
        size = self.config.hidden_size
        scale, bias = self._weight(f"{at}.weight", size), self._weight(f"{at}.bias", size)
        return self._op("LayerNormalization", value, scale, bias, name=at, axis=-1, epsilon=self.config.layer_norm_eps)

    def _weight(self, name: str, *shape: int) -> str:
        """Return a tensor of the checkpoint as float32."""
        tensor = self.weights.take(name, shape)
        proto = onnx.TensorProto(name=name, data_type=DTYPES[tensor.dtype], dims=shape)
        proto.data_location = TensorProto.EXTERNAL
        for key, value in (("location", WEIGHTS), ("offset", tensor.offset), ("length", tensor.length)):
            proto.external_data.add(key=key, value=str(value))
        self._constants[name] = proto
        return name if tensor.dtype == "F32" else self._cast(name)

    def _cast(self, value: str) -> str:
        return self._op("Cast", value, name=f"{value}.float", to=TensorProto.FLOAT)

    def _number(self, name: str, value: float) -> str:
        return self._constant(name, np.float32(value))

    def _integers(self, name: str, values: list[int]) -> str:
        return self._constant(name, np.array(values, dtype=np.int64))

    def _constant(self, name: str, value: npt.NDArray[Any] | np.generic) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def _op(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name
