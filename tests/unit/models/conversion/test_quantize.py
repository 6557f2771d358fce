"""Int8 on a small BERT of random weights; the real one is in `tests/golden`."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from phalanx.engines.backends.openvino import openvino_core
from phalanx.models.conversion import CONVERTERS, UnsupportedModel
from phalanx.models.conversion.calibration import CHECKS, calibration_ids, calibration_texts
from phalanx.models.conversion.quantize import QuantizeReport, quantize

SIZE, WIDE, VOCABULARY = 64, 128, 300
OUTLIERS = (5, 40)


def write_model(folder: Path) -> Path:
    """Weights with what makes BERT hard to quantise: a few channels that are far larger than the rest."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    weights: dict[str, Any] = {}

    def put(name: str, *shape: int, centre: float = 0.0, spread: float = 0.1) -> None:
        weights[name] = rng.normal(centre, spread, shape).astype(np.float32)

    for name, rows in (("word", VOCABULARY), ("position", 64), ("token_type", 2)):
        put(f"embeddings.{name}_embeddings.weight", rows, SIZE, spread=1)
    at = "encoder.layer.0"
    for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
        put(f"{at}.{part}.weight", SIZE, SIZE)
        put(f"{at}.{part}.bias", SIZE)
    for name, outputs, inputs in (("intermediate.dense", WIDE, SIZE), ("output.dense", SIZE, WIDE)):
        put(f"{at}.{name}.weight", outputs, inputs)
        put(f"{at}.{name}.bias", outputs)
    for part in ("embeddings.LayerNorm", f"{at}.attention.output.LayerNorm", f"{at}.output.LayerNorm"):
        put(f"{part}.weight", SIZE, centre=1)
        put(f"{part}.bias", SIZE)
    weights[f"{at}.attention.output.LayerNorm.bias"][OUTLIERS[0]] = 25
    weights[f"{at}.intermediate.dense.weight"][OUTLIERS[1]] *= 20
    save_file(weights, str(folder / "model.safetensors"))
    config = {
        "model_type": "bert", "hidden_size": SIZE, "intermediate_size": WIDE, "num_attention_heads": 4,
        "num_hidden_layers": 1, "max_position_embeddings": 64, "vocab_size": VOCABULARY,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *(chr(33 + n) for n in range(94)),
        *(f"##{chr(33 + n)}" for n in range(94)),
    ]
    tokenizer = Tokenizer(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    CONVERTERS["bert"](folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, QuantizeReport]:
    root = tmp_path_factory.mktemp("quantize")
    folder = write_model(root / "float")
    before = sorted(path.name for path in folder.iterdir())
    said: list[str] = []
    report = quantize(folder, root / "int8", max_tokens=48, note=said.append)
    assert said == ["calibrating", "quantising", "comparing"]
    assert sorted(path.name for path in folder.iterdir()) == before
    return folder, root / "int8", report


def vectors(folder: Path, ids: npt.NDArray[np.int64], engine: str) -> npt.NDArray[np.float32]:
    mask = np.ones_like(ids)
    if engine == "onnxruntime":
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        tokens = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    else:
        compiled = openvino_core().compile_model(folder / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        tokens = compiled([ids, mask])[0]
    found = np.asarray(tokens, dtype=np.float32).mean(axis=1)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), dtype=np.float32)


IDS = np.random.default_rng(4).integers(4, VOCABULARY, (12, 20))


def test_the_vectors_stay_near_the_float_ones(made: tuple[Path, Path, QuantizeReport]) -> None:
    folder, out, report = made
    cosines = (vectors(folder, IDS, "onnxruntime") * vectors(out, IDS, "onnxruntime")).sum(axis=1)
    assert cosines.min() >= 0.995
    assert report.acceptable
    assert report.min_cosine >= 0.995
    assert report.mean_cosine >= report.min_cosine
    assert report.worst_text in CHECKS
    assert report.speed_ratio > 0


def test_both_backends_run_it_alike(made: tuple[Path, Path, QuantizeReport]) -> None:
    _, out, _ = made
    cosines = (vectors(out, IDS, "openvino") * vectors(out, IDS, "onnxruntime")).sum(axis=1)
    assert cosines.min() >= 0.9995


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_scales_are_static_so_company_changes_nothing(made: tuple[Path, Path, QuantizeReport], engine: str) -> None:
    _, out, _ = made
    together = vectors(out, IDS, engine)
    alone = np.concatenate([vectors(out, row[None], engine) for row in IDS])
    assert (together * alone).sum(axis=1).min() >= 0.999999


def test_dense_layers_and_words_are_int8(made: tuple[Path, Path, QuantizeReport]) -> None:
    folder, out, report = made
    model = onnx.load(str(out / "model.onnx"))
    onnx.checker.check_model(model, full_check=True)
    held = {one.name: one for one in model.graph.initializer}
    matrices = [name for name, one in held.items() if one.data_type == onnx.TensorProto.INT8 and len(one.dims) == 2]
    assert len(matrices) == 6 + 1
    assert {(entry.key, entry.value) for entry in model.metadata_props} == {("phalanx.precision", "int8")}
    assert report.size == (out / "model.onnx").stat().st_size < 0.5 * (folder / "model.safetensors").stat().st_size


def test_the_channels_that_stand_out_are_taken_apart(made: tuple[Path, Path, QuantizeReport]) -> None:
    _, out, _ = made
    held = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(str(out / "model.onnx")).graph.initializer}
    assert OUTLIERS[1] in held["encoder.layer.0.activation.large"]
    assert held["encoder.layer.0.activation.factor"][OUTLIERS[1]] == 0


def test_the_golden_file_holds_the_float_vectors(made: tuple[Path, Path, QuantizeReport]) -> None:
    folder, out, _ = made
    golden = json.loads((out / "golden.json").read_text())
    assert golden["texts"] == list(CHECKS)
    assert (golden["pooling"], golden["max_tokens"]) == ("mean", 48)
    rows = np.frombuffer(base64.b64decode(golden["vectors"]), dtype="<f4").reshape(len(CHECKS), SIZE)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    first = np.array([tokenizer.encode(CHECKS[0]).ids])
    np.testing.assert_allclose(rows[0], vectors(folder, first, "openvino")[0], atol=1e-5)


def test_a_model_below_the_bar_is_not_acceptable() -> None:
    report = QuantizeReport(0.9899, 0.999, "x", 1.5, 1)
    assert not report.acceptable
    assert report._replace(min_cosine=0.99).acceptable


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "float")
    (folder / "config.json").write_text('{"model_type": "roberta"}')
    with pytest.raises(UnsupportedModel, match="'roberta'"):
        quantize(folder, tmp_path / "int8")
    assert not (tmp_path / "int8").exists()


def test_calibration_is_of_wide_variety_and_the_same_every_time() -> None:
    texts = calibration_texts()
    assert texts == calibration_texts()
    joined = "".join(texts)
    for part in ("🙂", "Завтра", "字", "تشرق", "날씨", "http", "def ", "é", "\u200b", "[UNK]"):
        assert part in joined
    assert min(map(len, texts)) == 1
    assert max(map(len, texts)) > 2_000
    assert not set(CHECKS) & set(texts)


def test_every_token_is_seen_once() -> None:
    ids = calibration_ids(range(5, 105), 30)
    assert sorted(id_ for text in ids for id_ in text) == list(range(5, 105))
    assert {len(text) for text in ids} == {30, 10}
