from __future__ import annotations

from pathlib import Path

import pytest

from phalanx.engines import backends
from phalanx.engines.backends import choose_device, describe_devices, open_backend, runs_bf16
from phalanx.engines.backends import devices as facts
from phalanx.engines.backends import onnxruntime as ort
from phalanx.engines.backends.devices import gpu_name, has_native_bf16, processor_name
from phalanx.engines.backends.signature import Signature, read_signature
from phalanx.errors import Unavailable

IDS = {"input_ids": 2, "attention_mask": 2}


def see_gpu(monkeypatch: pytest.MonkeyPatch, *, gpu: bool, cuda: bool) -> None:
    monkeypatch.setattr(backends, "sees_gpu", lambda: gpu)
    monkeypatch.setattr(ort, "has_cuda", lambda: cuda)


@pytest.mark.parametrize(
    ("gpu", "cuda", "engine", "device", "chosen"),
    [
        (False, False, "auto", "auto", "cpu"),
        (True, False, "auto", "auto", "cpu"),
        (True, True, "auto", "auto", "cuda:0"),
        (True, True, "onnxruntime", "auto", "cuda:0"),
        (True, True, "openvino", "auto", "cpu"),
        (True, True, "auto", "cpu", "cpu"),
        (True, True, "auto", "cuda:1", "cuda:1"),
        (False, True, "auto", "auto", "cpu"),
    ],
)
def test_the_device_follows_what_is_there_and_what_is_asked(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, cuda: bool, engine: backends.EngineName, device: str, chosen: str
) -> None:
    see_gpu(monkeypatch, gpu=gpu, cuda=cuda)
    assert choose_device(engine, device) == chosen


def test_a_gpu_without_the_provider_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    see_gpu(monkeypatch, gpu=True, cuda=False)
    with pytest.raises(Unavailable, match=r"pip install 'phalanx\[cuda\]'"):
        choose_device("auto", "cuda:0")


def test_openvino_on_a_gpu_is_refused() -> None:
    with pytest.raises(Unavailable, match="set ENGINE=onnxruntime"):
        choose_device("openvino", "cuda:0")


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:x", "CPU", ""])
def test_an_unknown_device_is_named(device: str) -> None:
    with pytest.raises(Unavailable, match=f"DEVICE is '{device}'; it may be auto, cpu, or cuda:0"):
        choose_device("auto", device)


def test_onnxruntime_has_no_bfloat16(tmp_path: Path) -> None:
    assert not runs_bf16("onnxruntime", "cpu")
    with pytest.raises(Unavailable, match="PRECISION is bf16, which ONNX Runtime has not"):
        open_backend(tmp_path / "model.onnx", engine="onnxruntime", device="cpu", precision="bf16")


def test_bfloat16_where_there_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from phalanx.engines.backends import openvino

    monkeypatch.setattr(openvino, "offers_bf16", lambda: False)
    with pytest.raises(Unavailable, match=r"PRECISION is bf16.*set PRECISION=f32 or auto"):
        open_backend(tmp_path / "model.onnx", engine="openvino", device="cpu", precision="bf16")


@pytest.mark.parametrize(
    ("flags", "native"),
    [
        ("fpu avx2 avx512_bf16 sse", True),
        ("amx_bf16", True),
        ("avx_ne_convert", True),
        ("avx512f avx512bw", False),
        ("", False),
    ],
)
def test_bfloat16_in_hardware_is_read_off_the_flags(tmp_path: Path, flags: str, native: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: Test 9000\nflags\t\t: {flags}\nbugs\t: x\n")
    assert has_native_bf16(tmp_path / "cpuinfo") is native
    assert processor_name(tmp_path / "cpuinfo") == "Test 9000"


def test_a_system_that_says_nothing_still_has_names(tmp_path: Path) -> None:
    assert not has_native_bf16(tmp_path / "none")
    assert processor_name(tmp_path / "none")
    assert gpu_name(3, tmp_path) == "NVIDIA GPU 3"


def test_a_gpu_is_named_by_its_driver(tmp_path: Path) -> None:
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0/information").write_text("Model: \t\t NVIDIA H200\nIRQ: 1\n")
    assert gpu_name(0, tmp_path) == "NVIDIA H200"


def test_devices_are_described_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    see_gpu(monkeypatch, gpu=True, cuda=False)
    lines = describe_devices()
    assert lines[0].startswith("processor: ")
    assert "pip install 'phalanx[cuda]'" in lines[1]
    see_gpu(monkeypatch, gpu=False, cuda=False)
    assert len(describe_devices()) == 1
    assert facts.GPU_NODES


def test_vectors_of_tokens_are_preferred() -> None:
    found = read_signature("g", IDS, {"sentence_embedding": (None, 8), "last_hidden_state": (None, None, 8), "x": (1,)})
    assert found == Signature("last_hidden_state", 8, pooled=False, wants_kinds=False)


def test_a_pooled_output_is_taken_where_there_is_no_other() -> None:
    found = read_signature("g", {**IDS, "token_type_ids": 2}, {"sentence_embedding": (None, 8)})
    assert found == Signature("sentence_embedding", 8, pooled=True, wants_kinds=True)


@pytest.mark.parametrize("inputs", [{"input_ids": 2}, {**IDS, "pixels": 4}, {"input_ids": 1, "attention_mask": 2}, {}])
def test_other_inputs_are_refused_with_what_is_needed(inputs: dict[str, int]) -> None:
    with pytest.raises(Unavailable, match="must take input_ids and attention_mask"):
        read_signature("g", inputs, {"last_hidden_state": (None, None, 8)})


def test_an_output_of_free_width_is_refused() -> None:
    with pytest.raises(Unavailable, match="last size of last_hidden_state is free"):
        read_signature("g", IDS, {"last_hidden_state": (None, None, None)})
