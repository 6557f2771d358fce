"""dlib's network read from its file and written as a graph, on random weights and against numpy."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import dlib_network
from phalanx.models.conversion import UnsupportedModel, convert_dlib_resnet
from phalanx.models.conversion.dlib_file import read_resnet


@pytest.fixture(scope="module")
def network() -> dlib_network.Network:
    return dlib_network.random_network()


@pytest.fixture(scope="module")
def folder(network: dlib_network.Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dlib")
    dlib_network.write(network, folder / "model.dat")
    assert convert_dlib_resnet(folder) == ["model.onnx"]
    return folder


@pytest.fixture(scope="module")
def head(folder: Path) -> bytes:
    """The beginning of the file, into the first residual block: what is wrong there is found without the rest."""
    return (folder / "model.dat").read_bytes()[:30_000]


def test_the_graph_gives_what_numpy_gives(network: dlib_network.Network, folder: Path) -> None:
    """Folding, padding of what differs in size, pooling and the head are all in it."""
    chips = np.random.default_rng(1).integers(0, 256, (3, 150, 150, 3)).astype(np.float32)
    chips[2] = 0
    session = ort.InferenceSession(folder / "model.onnx")
    found = session.run(["embedding"], {"input": np.ascontiguousarray(chips.transpose(0, 3, 1, 2))})[0]
    expected = np.stack([dlib_network.forward(network, chip) for chip in chips])
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_every_number_is_read_from_where_it_is(network: dlib_network.Network, folder: Path) -> None:
    read = read_resnet(folder / "model.dat")
    assert read.mean == network.mean
    assert read.threshold == 0.6
    for (first, second, halves), block in zip(network.blocks, read.blocks, strict=True):
        assert block.halves is halves
        for layer, unit in ((first, block.first), (second, block.second)):
            np.testing.assert_array_equal(unit.convolution.weight, layer.weight)
            np.testing.assert_array_equal(unit.convolution.bias, layer.bias)
            np.testing.assert_array_equal(unit.affine.gamma, layer.gamma)
            np.testing.assert_array_equal(unit.affine.beta, layer.beta)
    np.testing.assert_array_equal(read.head, network.head)


def test_the_same_file_gives_the_same_bytes(folder: Path) -> None:
    before = (folder / "model.onnx").read_bytes()
    convert_dlib_resnet(folder)
    assert (folder / "model.onnx").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["model.dat", "model.onnx"]


def test_a_byte_too_many_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.dat").write_bytes((folder / "model.dat").read_bytes() + b"\0")
    with pytest.raises(UnsupportedModel, match="1 bytes are left after the last layer"):
        convert_dlib_resnet(tmp_path)
    assert not (tmp_path / "model.onnx").exists()


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"model\.dat is missing"):
        convert_dlib_resnet(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b"\x01\x01\x01\x0dloss", b"\x01\x02\x01\x0dloss", "the version of the loss is 2; 1 was expected"),
        (b"loss_metric_2", b"loss_binary_2", "the layer is 'loss_binary_2'"),
        (b"loss_metric_2", b"loss_metric_\xff", "cannot be read"),
        (b"\x01\x02\x01\x03\x01\x15input", b"\x01\x02\x01\x04\x01\x15input", "the version of a layer is 4; 3"),
        (b"\x01\x02\x01\x02\x01\x02\x01\x03\x01\x15", b"\x01\x01" + b"\x01\x02" * 2 + b"\x01\x03\x01\x15", "is 1; 2"),
        (b"input_rgb_image_sized", b"input_rgb_image_square"[:21], "the layer is 'input_rgb_image_squar'"),
        (b"con_4", b"con_5", "the layer is 'con_5'"),
        (b"\x01\x20\x01\x07\x01\x07", b"\x01\x20\x01\x05\x01\x05", "is 32, 5, 5, 2, 2, 0, 0; 32, 7, 7"),
        (b"con_4\x01\x02\x02\x80\x12", b"con_4\x01\x02\x02\x81\x12", "a tensor of shape 4737, 1, 1, 1"),
        (b"con_4\x01\x02\x02\x80\x12", b"con_4\x01\x02\x52\x80\x12", "0x52 begins no integer"),
        (b"con_4\x01\x02", b"con_4\x01\x01", "the version of a tensor is 1; 2"),
        (b"100\x01\x02", b"120\x01\x02", "b'2' is no boolean"),
        (b"\x01\x0dloss", b"\x04\xff\xff\xff\x7floss", "a name of 2147483647 bytes"),
    ],
)
def test_what_is_not_as_expected_is_refused_with_its_place(
    head: bytes, tmp_path: Path, old: bytes, new: bytes, told: str
) -> None:
    assert old in head
    path = tmp_path / "model.dat"
    path.write_bytes(head.replace(old, new, 1))
    with pytest.raises(UnsupportedModel, match=re.escape(told)):
        read_resnet(path)


def test_weights_that_are_not_finite_are_refused(network: dlib_network.Network, tmp_path: Path) -> None:
    stem = network.stem._replace(bias=np.full(32, np.nan, dtype=np.float32))
    with pytest.raises(UnsupportedModel, match="not finite"):
        read_resnet(dlib_network.write(network._replace(stem=stem), tmp_path / "model.dat"))


@pytest.mark.parametrize("kept", [0, 1, 17, 200, 330, 400, 5_000, 19_500, 30_000])
def test_a_file_cut_short_is_refused(head: bytes, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "model.dat"
    path.write_bytes(head[:kept])
    with pytest.raises(UnsupportedModel, match=r"model\.dat: at byte \d+: \d+ bytes are wanted, \d+ are left"):
        read_resnet(path)


def test_damaged_files_are_refused_and_nothing_worse(head: bytes, tmp_path: Path) -> None:
    """Two hundred files with a few bytes changed: none is read, since each lacks its end, and none breaks the reader."""
    rng = np.random.default_rng(9)
    path = tmp_path / "model.dat"
    for _ in range(200):
        damaged = bytearray(head)
        for at in rng.integers(0, 600, 3):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        with pytest.raises(UnsupportedModel):
            read_resnet(path)
