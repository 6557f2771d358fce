"""The golden check of the detector: on its own weights, and on what is no detector of faces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from phalanx.engines.choice import EngineChoice
from phalanx.engines.face import detector_golden
from phalanx.engines.face.detector import FaceDetector
from phalanx.engines.face.detector_golden import check_detector, deviation, golden_looks, stored_golden
from phalanx.engines.face.facts import Box
from phalanx.engines.face.opening import open_detector
from phalanx.errors import Unavailable
from phalanx.models.store import ModelStore
from phalanx.models.version import Version


@pytest.fixture(scope="module")
def networks(models_dir: Path) -> tuple[Version, Version]:
    store = ModelStore(models_dir)
    return store.active("blazeface-full-range"), store.active("blazeface-short-range")


def opened(networks: tuple[Version, Version], weights: tuple[str, str] | None = None) -> FaceDetector:
    full, short = (version.path("model.tflite") for version in networks)
    return open_detector(full, short, EngineChoice(threads=1), weights=weights)


@pytest.fixture(scope="module")
def detector(networks: tuple[Version, Version]) -> Iterator[FaceDetector]:
    one = opened(networks)
    yield one
    one.close()


def test_the_stored_faces_are_of_the_catalogued_weights(networks: tuple[Version, Version]) -> None:
    assert stored_golden().weights == tuple(version.sha256 for version in networks)


def test_these_weights_hold_tightly_and_others_loosely(
    detector: FaceDetector, networks: tuple[Version, Version]
) -> None:
    exact = check_detector(detector, stored_golden().weights)
    loose = check_detector(detector, ("0" * 64, "1" * 64))
    assert exact.holds
    assert loose.holds
    assert exact.deviation == loose.deviation
    assert exact.allowed <= 0.02 < loose.allowed
    assert 3 * exact.deviation < 0.05


def test_a_detector_that_sees_elsewhere_is_refused(
    networks: tuple[Version, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By 3 % of the face's width: within what other weights may do, beyond what these may."""
    decode = FaceDetector.run

    def shifted(self: FaceDetector, batch: object) -> object:
        return [
            [face._replace(keypoints=face.keypoints + np.float32(0.03 * face.box.width)) for face in faces]
            for faces in decode(self, batch)  # type: ignore[arg-type]
        ]

    monkeypatch.setattr(FaceDetector, "run", shifted)
    opened(networks).close()
    with pytest.raises(Unavailable, match=r"golden check of the face detector failed: a known face was 0\.03"):
        opened(networks, stored_golden().weights)


def test_a_detector_that_sees_nothing_is_refused(
    networks: tuple[Version, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FaceDetector, "run", lambda self, batch: [[] for _ in batch])
    with pytest.raises(Unavailable, match="a known face was not found"):
        opened(networks)


def test_deviation_is_infinite_for_none_two_and_nan(detector: FaceDetector) -> None:
    (face,) = detector.run(golden_looks()[:1])[0]
    assert deviation([face], face) == 0
    moved = face._replace(box=Box(*(value + 1 for value in face.box)))
    assert 0 < deviation([moved], face) < 0.05
    broken = face._replace(keypoints=np.full_like(face.keypoints, np.nan))
    assert [deviation(faces, face) for faces in ([], [face, face], [broken])] == [np.inf] * 3


def test_an_installation_without_its_portrait_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(detector_golden, "PORTRAIT", tmp_path / "portrait.jpg")
    with pytest.raises(Unavailable, match="missing from this installation"):
        golden_looks()
