"""The graph that we write against BERT computed step by step in numpy."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from phalanx.models.conversion import CONVERTERS, UnsupportedModel
from phalanx.models.conversion.weights import read_tensors

Array = npt.NDArray[np.float32]

CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "max_position_embeddings": 24,
    "vocab_size": 50,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}


def random_weights(config: dict[str, Any] = CONFIG) -> dict[str, Array]:
    rng = np.random.default_rng(7)
    size, wide = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], size),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], size),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], size),
        "embeddings.LayerNorm.weight": (size,),
        "embeddings.LayerNorm.bias": (size,),
    }
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= {f"{at}.{part}.weight": (size, size), f"{at}.{part}.bias": (size,)}
        shapes |= {f"{at}.intermediate.dense.weight": (wide, size), f"{at}.intermediate.dense.bias": (wide,)}
        shapes |= {f"{at}.output.dense.weight": (size, wide), f"{at}.output.dense.bias": (size,)}
        for part in ("attention.output", "output"):
            shapes |= {f"{at}.{part}.LayerNorm.weight": (size,), f"{at}.{part}.LayerNorm.bias": (size,)}
    return {
        name: (rng.normal(0, 0.3, shape) + name.endswith("Norm.weight")).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_safetensors(path: Path, weights: dict[str, Array], dtype: str = "F32") -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs, at = [], 0
    for name, value in weights.items():
        match dtype:
            case "F16":
                blob = value.astype(np.float16).tobytes()
            case "BF16":
                blob = (value.view(np.uint32) >> 16).astype(np.uint16).tobytes()
            case _:
                blob = value.tobytes()
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + b"".join(blobs))


def model_folder(path: Path, weights: dict[str, Array] | None = None, dtype: str = "F32", **changes: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIG | changes))
    write_safetensors(path / "model.safetensors", random_weights() if weights is None else weights, dtype)
    return path


def erf_gelu(x: Array) -> Array:
    return np.asarray(x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))), dtype=np.float32)


def tanh_gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))), dtype=np.float32)


def relu(x: Array) -> Array:
    return np.maximum(x, np.float32(0))


ACTIVATIONS = {"gelu": erf_gelu, "gelu_new": tanh_gelu, "relu": relu}


def norm(x: Array, scale: Array, bias: Array, eps: float) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled: Array = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * scale + bias
    return scaled


def bert(w: dict[str, Array], ids: npt.NDArray[np.int64], config: dict[str, Any]) -> Array:
    """One text, no padding: `[tokens]` to `[tokens, hidden]`, following the paper."""
    heads, eps = config["num_attention_heads"], config["layer_norm_eps"]
    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = x + w["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, w["embeddings.LayerNorm.weight"], w["embeddings.LayerNorm.bias"], eps)

    def dense(value: Array, at: str) -> Array:
        return value @ w[f"{at}.weight"].T + w[f"{at}.bias"]

    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        q, k, v = (
            dense(x, f"{at}.attention.self.{part}").reshape(len(ids), heads, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares = shares / shares.sum(-1, keepdims=True)
        context = (shares @ v).transpose(1, 0, 2).reshape(len(ids), -1)
        out = f"{at}.attention.output"
        x = norm(dense(context, f"{out}.dense") + x, w[f"{out}.LayerNorm.weight"], w[f"{out}.LayerNorm.bias"], eps)
        inner = ACTIVATIONS[config["hidden_act"]](dense(x, f"{at}.intermediate.dense"))
        out = f"{at}.output"
        x = norm(dense(inner, f"{out}.dense") + x, w[f"{out}.LayerNorm.weight"], w[f"{out}.LayerNorm.bias"], eps)
    return x


def run(folder: Path, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> Array:
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    (output,) = session.run(["last_hidden_state"], {"input_ids": ids, "attention_mask": mask})
    return np.asarray(output, dtype=np.float32)


IDS = np.array([3, 17, 49, 0, 8, 21, 5], dtype=np.int64)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_the_graph_computes_what_the_paper_says(tmp_path: Path, activation: str) -> None:
    folder = model_folder(tmp_path, hidden_act=activation)
    assert CONVERTERS["bert"](folder) == ["model.onnx"]
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    found = run(folder, IDS[None], np.ones((1, len(IDS)), dtype=np.int64))[0]
    expected = bert(random_weights(), IDS, CONFIG | {"hidden_act": activation})
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_padding_changes_nothing(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    CONVERTERS["bert"](folder)
    ids, mask = np.full((2, 12), 9, dtype=np.int64), np.zeros((2, 12), dtype=np.int64)
    ids[0, :7], mask[0, :7] = IDS, 1
    ids[1, :3], mask[1, :3] = IDS[:3], 1
    found = run(folder, ids, mask)
    np.testing.assert_allclose(found[0, :7], bert(random_weights(), IDS, CONFIG), atol=2e-5)
    np.testing.assert_allclose(found[1, :3], bert(random_weights(), IDS[:3], CONFIG), atol=2e-5)


@pytest.mark.parametrize("prefix", ["", "bert.", "model.", "0.auto_model."])
def test_tensors_are_found_under_any_usual_prefix(tmp_path: Path, prefix: str) -> None:
    weights = {prefix + name: value for name, value in random_weights().items()}
    weights["pooler.dense.weight"] = np.zeros((32, 32), dtype=np.float32)
    folder = model_folder(tmp_path, weights)
    CONVERTERS["bert"](folder)
    found = run(folder, IDS[None], np.ones((1, len(IDS)), dtype=np.int64))[0]
    np.testing.assert_allclose(found, bert(random_weights(), IDS, CONFIG), atol=2e-5)


def test_the_old_names_of_layer_norm_are_understood(tmp_path: Path) -> None:
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    weights = random_weights()
    for name in list(weights):
        for new, was in old.items():
            if name.endswith(new):
                weights[name.replace(new, was)] = weights.pop(name)
    folder = model_folder(tmp_path, weights)
    CONVERTERS["bert"](folder)
    found = run(folder, IDS[None], np.ones((1, len(IDS)), dtype=np.int64))[0]
    np.testing.assert_allclose(found, bert(random_weights(), IDS, CONFIG), atol=2e-5)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_weights_compute_in_float32(tmp_path: Path, dtype: str) -> None:
    weights = random_weights()
    folder = model_folder(tmp_path, weights, dtype)
    CONVERTERS["bert"](folder)
    if dtype == "F16":
        rounded = {name: value.astype(np.float16).astype(np.float32) for name, value in weights.items()}
    else:
        rounded = {name: (value.view(np.uint32) >> 16 << 16).view(np.float32) for name, value in weights.items()}
    found = run(folder, IDS[None], np.ones((1, len(IDS)), dtype=np.int64))[0]
    np.testing.assert_allclose(found, bert(rounded, IDS, CONFIG), atol=2e-5)


def test_the_graph_holds_no_copy_of_the_weights(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    CONVERTERS["bert"](folder)
    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    outside = {one.name for one in graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL}
    assert outside == set(random_weights())
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.onnx", "model.safetensors"]


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "mpnet", "modernbert", "distilbert", "nomic_bert", None])
def test_other_architectures_are_refused_by_name(tmp_path: Path, kind: str | None) -> None:
    folder = model_folder(tmp_path, model_type=kind)
    with pytest.raises(UnsupportedModel, match=f"{kind!r}.*'bert' can be converted"):
        CONVERTERS["bert"](folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_act": "silu"}, "hidden_act is 'silu'; supported: gelu"),
        ({"position_embedding_type": "relative_key"}, "'relative_key'"),
        ({"is_decoder": True}, "is_decoder True"),
        ({"num_attention_heads": 5}, "32 is no multiple of num_attention_heads 5"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"layer_norm_eps": 0}, "layer_norm_eps"),
        ({"vocab_size": 60}, r"has the shape \[50, 32\]; config.json asks for \[60, 32\]"),
        ({"num_hidden_layers": 3}, "has no tensor encoder.layer.2.attention.self.query.weight"),
    ],
)
def test_a_configuration_that_does_not_fit_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    folder = model_folder(tmp_path, **changes)
    with pytest.raises(UnsupportedModel, match=said):
        CONVERTERS["bert"](folder)
    assert not (folder / "model.onnx").exists()


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"config\.json cannot be read"):
        CONVERTERS["bert"](tmp_path)
    folder = model_folder(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnsupportedModel, match=r"model\.safetensors is missing"):
        CONVERTERS["bert"](folder)


def test_a_file_without_a_bert_inside_says_what_it_holds(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, {"shared.weight": np.zeros((2, 2), dtype=np.float32)})
    with pytest.raises(UnsupportedModel, match=r"1 tensors, such as shared\.weight"):
        CONVERTERS["bert"](folder)


def test_quantised_tensors_are_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"'))
    with pytest.raises(UnsupportedModel, match="is I32; supported: F32, F16, BF16"):
        CONVERTERS["bert"](folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "does not fit in its 0 bytes"),
        (b"\x05", "does not fit in its 1 bytes"),
        (struct.pack("<Q", 2**60) + b"{}", "does not fit"),
        (struct.pack("<Q", 3) + b"{x}", "is no safetensors file"),
        (struct.pack("<Q", 2) + b"\xff\xfe", "is no safetensors file"),
        (struct.pack("<Q", 59) + b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}'[:59], "safetensors"),
    ],
)
def test_a_damaged_weights_file_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(UnsupportedModel, match=said):
        read_tensors(path)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "is cut short: a ends at byte"),
        ({"dtype": "F32", "shape": [4], "data_offsets": [-4, 4]}, "is cut short"),
        ({"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}, "needs 16 bytes, it has 8"),
    ],
)
def test_tensors_that_do_not_fit_the_file_are_refused(tmp_path: Path, entry: dict[str, Any], said: str) -> None:
    head = json.dumps({"a": entry}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(head)) + head + b"\0" * 8)
    with pytest.raises(UnsupportedModel, match=said):
        read_tensors(path)
