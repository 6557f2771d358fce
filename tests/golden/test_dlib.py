"""dlib's network as it is published, converted: against dlib itself, against numpy, and on faces."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from skimage.data import astronaut

import dlib_network
from phalanx.engines.choice import EngineChoice
from phalanx.engines.face import golden
from phalanx.engines.face.align import warp
from phalanx.engines.face.embedder import FaceEmbedder
from phalanx.engines.face.load import load_face_embedder
from phalanx.engines.face.spec import FaceSpec
from phalanx.models.conversion.dlib_file import Unit, read_resnet

SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"

SPEC = FaceSpec(
    name="dlib-resnet-v1",
    version=SHA256[:12],
    sha256=SHA256,
    dimensions=128,
    input_size=150,
    template="dlib",
    metric="euclidean",
    threshold=0.6,
    meaning="dlib's own",
)

ASTRONAUT = np.array(
    [[202.4, 102.9], [245.7, 104.4], [223.3, 130.4], [223.3, 149.3], [180.2, 108.8], [268.8, 111.1]], dtype=np.float32
)
"""Landmarks in the order of `facts`: eyes, nose, mouth, ears, each pair from left to right."""

PHOTOS: dict[str, list[tuple[str, list[tuple[float, float]]]]] = {
    "biden.jpg": [("2", [(533.9, 326.7), (655.1, 352.8), (602.2, 400.6), (577.6, 471.6)])],
    "biden2.jpg": [("2", [(553.9, 401.7), (763.5, 422.4), (647.2, 536.0), (638.1, 634.2)])],
    "obama.jpg": [("3", [(440.2, 214.4), (548.9, 216.3), (495.5, 276.5), (494.0, 334.7)])],
    "obama2.jpg": [("3", [(244.7, 371.2), (372.7, 383.5), (273.7, 448.6), (279.8, 522.6)])],
    "obama3.jpg": [("3", [(739.8, 387.5), (862.1, 404.3), (814.2, 427.8), (798.7, 503.8)])],
    "obama_and_biden.jpg": [
        ("2", [(800.5, 488.0), (881.5, 500.2), (825.2, 542.0), (823.4, 583.2)]),
        ("3", [(1189.6, 462.7), (1271.1, 443.5), (1238.5, 487.6), (1249.8, 534.7)]),
    ],
    "two_people.jpg": [
        ("3", [(288.8, 102.0), (357.0, 110.8), (331.7, 122.5), (323.1, 164.7)]),
        ("2", [(844.0, 127.4), (909.3, 138.5), (881.8, 165.5), (870.1, 203.3)]),
    ],
}
"""Eyes, nose and mouth of each face of the reference photos, by person."""

Floats = npt.NDArray[np.floating]


@pytest.fixture(scope="module", params=["openvino f32", "openvino auto", "onnxruntime f32"])
def model(request: pytest.FixtureRequest, dlib_resnet: Path) -> FaceEmbedder:
    engine, precision = str(request.param).split()
    return load_face_embedder(SPEC, dlib_resnet / "model.onnx", EngineChoice(engine=engine, precision=precision))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def exact(dlib_resnet: Path) -> FaceEmbedder:
    return load_face_embedder(SPEC, dlib_resnet / "model.onnx", EngineChoice(precision="f32"))


@pytest.fixture(scope="module")
def picture() -> npt.NDArray[np.uint8]:
    return np.asarray(astronaut(), dtype=np.uint8)  # type: ignore[no-untyped-call]


def vector(model: FaceEmbedder, image: npt.NDArray[np.uint8], keypoints: npt.NDArray[np.float32]) -> Floats:
    [found] = model.run([model.prepare(model.align(image, keypoints).image)])
    return found


def test_vectors_are_dlibs_own(model: FaceEmbedder) -> None:
    """The stored ones are `compute_face_descriptor` of dlib 20.0.1 (the dlib-bin wheel) on the same chips."""
    stored = golden.stored_golden(SHA256)
    assert stored is not None
    difference = np.abs(golden.embed_faces(model) - stored.rows(3)).max()
    assert difference < (1e-4 if model.backend.precision == "f32" else 5e-3)


def test_vectors_are_those_of_numpy(dlib_resnet: Path, exact: FaceEmbedder) -> None:
    """The layers one by one, nothing folded, in float64."""
    read = read_resnet(dlib_resnet / "model.dat")

    def layer(unit: Unit) -> dlib_network.Layer:
        convolution = unit.convolution
        return dlib_network.Layer(
            convolution.weight, convolution.bias, *unit.affine, convolution.stride, convolution.padding
        )

    blocks = [(layer(block.first), layer(block.second), block.halves) for block in read.blocks]
    network = dlib_network.Network(read.mean, layer(read.stem), blocks, read.head)
    chips = golden.faces(150)
    expected = np.stack([dlib_network.forward(network, chip) for chip in chips])
    np.testing.assert_allclose(golden.embed_faces(exact), expected, atol=1e-4)


def test_a_face_gives_the_same_vector_alone_and_in_a_batch(model: FaceEmbedder) -> None:
    prepared = [model.prepare(face) for face in golden.faces(150)]
    together = model.run([*prepared, *prepared, *prepared])
    tolerance = 1e-5 if model.backend.precision == "f32" else 2e-2
    for index, item in enumerate(prepared):
        for copy in together[index::3]:
            assert np.linalg.norm(model.run([item])[0] - copy) < tolerance


@pytest.mark.parametrize(("scale", "degrees"), [(1.0, 15.0), (1.0, -40.0), (1.0, 170.0), (0.85, 0.0), (2.5, 20.0)])
def test_a_face_keeps_its_vector_when_the_picture_is_turned_and_scaled(
    exact: FaceEmbedder, picture: npt.NDArray[np.uint8], scale: float, degrees: float
) -> None:
    """dlib's own landmarks, found again in such pictures, move its vectors by 0.06 on average and 0.12 at most."""
    side, turn = 700, math.radians(degrees)
    linear = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    forth = np.column_stack([linear, np.full(2, side / 2) - linear @ (223.0, 125.0)])
    back = np.linalg.inv(np.vstack([forth, (0, 0, 1)]))[:2]
    moved = warp(picture, back, side)
    keypoints = ((ASTRONAUT - 0.5) @ forth[:, :2].T + forth[:, 2] + 0.5).astype(np.float32)
    distance = exact.compare(vector(exact, picture, ASTRONAUT), vector(exact, moved, keypoints))
    assert distance < 0.12


def test_the_order_of_channels_matters(exact: FaceEmbedder, picture: npt.NDArray[np.uint8]) -> None:
    """Blue for red goes wrong without a word: this is what it would look like."""
    right = vector(exact, picture, ASTRONAUT)
    assert exact.compare(right, vector(exact, picture[:, :, ::-1], ASTRONAUT)) > 0.15
    assert 1.2 < np.linalg.norm(right) < 1.6


def test_reference_photos_are_told_apart(
    model: FaceEmbedder, reference_faces: Path, picture: npt.NDArray[np.uint8]
) -> None:
    """45 pairs: 16 of one person, 29 of two."""
    people = [("1", vector(model, picture, ASTRONAUT))]
    for name, faces in PHOTOS.items():
        image = cv2.imread(str(reference_faces / name), cv2.IMREAD_COLOR_RGB)
        assert image is not None
        for person, points in faces:
            keypoints = np.concatenate([points, np.zeros((2, 2))]).astype(np.float32)
            people.append((person, vector(model, np.asarray(image, dtype=np.uint8), keypoints)))
    for number, (person, one) in enumerate(people):
        for other_person, other in people[:number]:
            distance = model.compare(one, other)
            assert model.is_same(distance) is (person == other_person)
            assert distance < 0.5 or distance > 0.7
