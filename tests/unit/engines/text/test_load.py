from __future__ import annotations

import base64
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from phalanx.engines.backends import runs_bf16
from phalanx.engines.choice import EngineChoice
from phalanx.engines.text import golden
from phalanx.engines.text.golden import (
    Golden,
    GoldenResult,
    check_golden,
    embed_units,
    require_golden,
    stored_golden,
)
from phalanx.engines.text.load import TextFiles, load_text_model
from phalanx.engines.text.model import TextModel
from phalanx.engines.text.spec import TextSpec
from phalanx.errors import Unavailable

SPEC = TextSpec(name="tiny", version="0123456789ab", sha256="0" * 64, dimensions=64, max_tokens=32, positions=64)
MINILM = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def test_a_version_of_the_store_is_loaded_and_warm(version: Path) -> None:
    model = load_text_model(SPEC, TextFiles.of_version(version), EngineChoice(precision="f32", threads=1))
    assert model.backend.precision == "f32"
    assert model.spec.tokenizer_sha256
    assert model.run([model.prepare("the cat")])[0].shape == (64,)


def test_auto_precision_is_what_the_processor_has(version: Path) -> None:
    model = load_text_model(SPEC, TextFiles.of_version(version), EngineChoice(device="cpu"))
    assert model.backend.precision in ({"bf16", "f32"} if runs_bf16("auto", "cpu") else {"f32"})


def test_onnxruntime_is_float32_by_itself(version: Path) -> None:
    model = load_text_model(SPEC, TextFiles.of_version(version), EngineChoice(engine="onnxruntime", device="cpu"))
    assert (model.backend.name, model.backend.precision) == ("onnxruntime", "f32")


def test_workers_with_another_engine_share_no_vectors(version: Path) -> None:
    files = TextFiles.of_version(version)
    by_engine = [
        load_text_model(SPEC, files, EngineChoice(engine=engine, device="cpu", precision="f32", threads=1)).spec
        for engine in ("openvino", "onnxruntime", "openvino")
    ]
    assert by_engine[0].arithmetic == "openvino cpu f32"
    assert by_engine[0].fingerprint == by_engine[2].fingerprint != by_engine[1].fingerprint


def test_auto_falls_back_to_float32_when_the_golden_check_fails(
    version: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not runs_bf16("auto", "cpu"):
        pytest.skip("this processor has no bfloat16, so there is nothing to fall back from")
    monkeypatch.setitem(golden.MIN_COSINE, "bf16", 1.01)
    with caplog.at_level(logging.WARNING):
        model = load_text_model(SPEC, TextFiles.of_version(version), EngineChoice(device="cpu"))
    assert model.backend.precision == "f32"
    assert "using f32" in caplog.text
    with pytest.raises(Unavailable, match=r"golden check of tiny 0123456789ab failed.*bf16"):
        load_text_model(SPEC, TextFiles.of_version(version), EngineChoice(device="cpu", precision="bf16"))


def test_int8_asks_for_a_quantised_version(version: Path) -> None:
    with pytest.raises(Unavailable, match="is not quantised; run: phalanx models quantize tiny --int8"):
        load_text_model(SPEC, TextFiles.of_version(version), EngineChoice(precision="int8"))


def test_a_graph_of_other_dimensions_is_refused(version: Path) -> None:
    spec = TextSpec(name="tiny", version="v", sha256="0" * 64, dimensions=384, max_tokens=32, positions=64)
    with pytest.raises(Unavailable, match="gives 64 dimensions; 384 were expected"):
        load_text_model(spec, TextFiles.of_version(version), EngineChoice(precision="f32"))


@pytest.mark.parametrize("missing", ["model.onnx", "tokenizer.json"])
def test_a_missing_file_is_named_with_the_command(version: Path, tmp_path: Path, missing: str) -> None:
    for path in version.iterdir():
        if path.name != missing:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(Unavailable, match=f"{missing} is missing.*phalanx models pull"):
        TextFiles.of_version(tmp_path)


def test_vectors_that_come_with_a_version_are_its_golden_ones(version: Path, tmp_path: Path) -> None:
    folder = tmp_path / "0123456789ab-int8"
    shutil.copytree(version, folder)
    choice = EngineChoice(precision="f32", engine="onnxruntime", device="cpu")
    model = load_text_model(SPEC, TextFiles.of_version(folder), choice)
    rows = embed_units(model, ["the cat", "blue"])

    def bring(vectors: np.ndarray[Any, Any]) -> None:
        golden = Golden(
            model="tiny", source="test", texts=["the cat", "blue"], max_tokens=32,
            vectors=base64.b64encode(vectors.astype("<f4").tobytes()).decode(),
        )  # fmt: skip
        (folder / "golden.json").write_bytes(msgspec.json.encode(golden))

    bring(rows)
    load_text_model(SPEC, TextFiles.of_version(folder), choice)
    bring(rows[::-1])
    with pytest.raises(Unavailable, match=r"golden check of tiny 0123456789ab failed: '(the cat|blue)'"):
        load_text_model(SPEC, TextFiles.of_version(folder), choice)
    (folder / "golden.json").write_text('{"texts": 1}')
    with pytest.raises(Unavailable, match=r"golden\.json cannot be read as stored vectors"):
        load_text_model(SPEC, TextFiles.of_version(folder), choice)


def f32(version: Path) -> TextModel:
    return load_text_model(SPEC, TextFiles.of_version(version), EngineChoice(precision="f32", engine="onnxruntime"))


def test_vectors_that_are_not_finite_fail_the_check(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = f32(version)
    monkeypatch.setattr(model, "run", lambda batch: [np.full(64, np.nan, dtype=np.float32)] * len(batch))
    result = check_golden(model, lambda: model)
    assert not result.holds
    with pytest.raises(Unavailable, match=r"cosine -1\.000000"):
        require_golden(model, result)


def test_stored_vectors_decide_where_there_are_some(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = f32(version)
    stored = stored_golden(MINILM)
    assert stored is not None
    other = TextModel(
        TextSpec(name="x", version="v", sha256=MINILM, dimensions=64, max_tokens=32, positions=64),
        model._tokenizer,
        model.backend,
    )
    with pytest.raises(Unavailable, match="64 components; its golden ones have 384"):
        check_golden(other, lambda: model)
    known = dict(zip(stored.texts, stored.rows(), strict=True))
    monkeypatch.setattr(other, "prepare", lambda text: SimpleNamespace(text=text, tokens=3))
    monkeypatch.setattr(other, "run", lambda batch: [known[item.text] * 3 for item in batch])
    assert check_golden(other, lambda: model).holds
    known[stored.texts[1]] = stored.rows()[0]
    result = check_golden(other, lambda: model)
    assert not result.holds
    assert result.text == stored.texts[1]


def test_stored_vectors_are_of_unit_length_and_of_those_weights_only(tmp_path: Path) -> None:
    stored = stored_golden(MINILM)
    assert stored is not None
    np.testing.assert_allclose(np.linalg.norm(stored.rows(), axis=1), 1, atol=1e-5)
    assert stored_golden(MINILM[:12] + "0" * 52) is None
    assert stored_golden("f" * 64, tmp_path) is None


def test_a_result_below_what_is_needed_does_not_hold() -> None:
    assert GoldenResult(0.9999, "x", 0.9999).holds
    assert not GoldenResult(0.99989, "x", 0.9999).holds
    assert EngineChoice().precision == "auto"
