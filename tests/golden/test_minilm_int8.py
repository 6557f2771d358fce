"""The real model in int8: near the reference for texts that calibration has not seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from phalanx.cli.root import app
from phalanx.engines.choice import EngineChoice
from phalanx.engines.text.load import TextFiles, load_text_model
from phalanx.engines.text.spec import TextSpec
from phalanx.engines.text.vectors import unit
from phalanx.models.conversion.quantize import GOLDEN, QuantizeReport, quantize
from phalanx.models.store import ModelStore

DATA = Path(__file__).parent / "data"
TEXTS: list[str] = [json.loads(line)["text"] for line in (DATA / "minilm_texts.jsonl").read_text().splitlines()]
REFERENCE = np.load(DATA / "minilm_texts.npy")


@pytest.fixture(scope="module")
def quantized(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, QuantizeReport]:
    out = tmp_path_factory.mktemp("int8") / f"{minilm.name}-int8"
    report = quantize(minilm, out)
    shutil.copy(minilm / "tokenizer.json", out)
    return out, report


def test_it_may_be_activated(quantized: tuple[Path, QuantizeReport]) -> None:
    _, report = quantized
    assert report.min_cosine >= 0.99, report.worst_text
    assert report.size < 30_000_000


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_every_reference_text_is_near_and_company_changes_nothing(
    quantized: tuple[Path, QuantizeReport], engine: str
) -> None:
    out, _ = quantized
    spec = TextSpec(
        name="all-MiniLM-L6-v2", version=out.name, sha256="0" * 64, dimensions=384, max_tokens=256, positions=512
    )
    choice = EngineChoice(engine="openvino" if engine == "openvino" else "onnxruntime", device="cpu", precision="int8")
    model = load_text_model(spec, TextFiles.of_version(out), choice)
    assert model.backend.precision == "int8"
    prepared = [model.prepare(text) for text in TEXTS]
    alone = unit(np.stack([model.run([item])[0] for item in prepared]))
    near = np.einsum("nd,nd->n", alone, REFERENCE)
    assert near.min() >= 0.99, TEXTS[int(near.argmin())]
    order = np.random.default_rng(2).permutation(len(prepared))[:64]
    together = unit(np.stack(model.run([prepared[i] for i in order])))
    assert np.einsum("nd,nd->n", alone[order], together).min() >= 0.99998


def test_the_int8_form_serves_and_can_be_taken_back(
    quantized: tuple[Path, QuantizeReport], models_dir: Path, tmp_path: Path
) -> None:
    """Quantised twice, here and by the command, it is one version; a rollback brings float32 back."""
    name = "all-MiniLM-L6-v2"
    shutil.copytree(models_dir / name, tmp_path / name)
    store = ModelStore(tmp_path)
    plain = store.active(name).version
    files = {file: quantized[0] / file for file in ("model.onnx", GOLDEN)}
    known = store.add_variant(name, plain, "int8", files).version

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, ["models", "--model-dir", str(tmp_path), *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    def active() -> list[str]:
        models = {model["name"]: model for model in json.loads(run("list", "--json"))}
        return list(models[name]["active"])

    assert active() == [plain]
    assert f"{known} is active" in run("quantize", name, "--int8")
    assert active() == [known]
    assert known.endswith("-int8")
    run("verify")
    run("activate", name, plain)
    assert active() == [plain]
