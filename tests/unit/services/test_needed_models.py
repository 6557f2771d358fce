"""Which models a worker waits for, by the services that it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from phalanx.app.models import needed_rosters
from phalanx.contract.services import ALL_SERVICES, ServiceName
from phalanx.errors import Unavailable
from phalanx.models.catalogue import load_catalogue
from phalanx.models.store import ModelStore
from phalanx.services.serving.face_models import FaceModels
from phalanx.services.serving.text_models import ModelRegistry

DETECTOR, EMBEDDER = "blazeface-full-range", "dlib-resnet-v1"


@pytest.mark.parametrize(
    ("served", "awaited"),
    [
        (("face-detection",), {DETECTOR}), (("face-embedding",), {DETECTOR, EMBEDDER}), (("similarity",), set()),
        (("image-processing",), set()), (("text",), {"text-model"}), (("text", "similarity"), {"text-model"}),
        (("face-detection", "text"), {DETECTOR, "text-model"}), (("collections",), set()),
    ],
)  # fmt: skip
def test_a_worker_of_some_services_waits_for_their_models_before_loading_begins(
    served: tuple[ServiceName, ...], awaited: set[str], tmp_path: Path
) -> None:
    registry, faces = ModelRegistry("text-model"), FaceModels()
    store = ModelStore(tmp_path, catalogue=load_catalogue())
    rosters = needed_rosters(served, registry, faces, store, is_alone=True)
    assert {name for roster in rosters if roster.is_required for name in roster.missing} == awaited
    for roster, service in ((registry, "text"), (faces.embedders, "face-embedding")):
        if service not in served:
            assert roster not in rosters
            with pytest.raises(Unavailable, match=f"does not have the service '{service}'"):
                roster.heaviest(None)


def test_a_worker_of_all_services_waits_for_text_alone(tmp_path: Path) -> None:
    registry, faces = ModelRegistry("text-model"), FaceModels()
    store = ModelStore(tmp_path, catalogue=load_catalogue())
    rosters = needed_rosters(ALL_SERVICES, registry, faces, store, is_alone=False)
    assert rosters == (registry, faces.detectors, faces.embedders)
    assert [roster.is_required for roster in rosters] == [True, False, False]
    assert not faces.detectors.missing
    assert not faces.embedders.missing
