"""The golden check of a network of face vectors: it takes no traffic before a known face has come out right.

Right is what dlib itself gave for these weights, where it was asked, else what the same graph gives in float32. The
face is that of scikit-image's `astronaut`, Eileen Collins photographed by NASA and in the public domain, aligned to
dlib's template.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import msgspec
import numpy as np

from phalanx.contract.vector import Vector
from phalanx.engines.face.align import Image
from phalanx.engines.face.embedder import FaceEmbedder
from phalanx.errors import Unavailable

FOLDER = Path(__file__).parent / "goldens"
FACE = FOLDER / "astronaut.png"

MAX_DEVIATION = {"f32": 1e-4, "bf16": 0.02}
"""How far a vector may be from the right one, relative to that one's length, by the backend's precision. bfloat16 has
moved dlib's vectors by 0.007 at most; at 0.02 distances of 0.6 are off by 0.01."""


class Golden(msgspec.Struct, frozen=True):
    """What `source` gave for the faces of `faces`: float32 little-endian `[faces, d]` in base64."""

    model: str
    sha256: str
    source: str
    vectors: str

    def rows(self, count: int) -> Vector:
        """Return the vectors of `count` faces, `[count, d]`."""
        return np.frombuffer(base64.b64decode(self.vectors), dtype="<f4").reshape(count, -1)


class GoldenResult(NamedTuple):
    """The largest deviation, and what was allowed."""

    deviation: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether every face came near enough; a NaN did not."""
        return self.deviation <= self.allowed


def faces(side: int) -> list[Image]:
    """Return the faces that are compared, RGB uint8 `[side, side, 3]`: as it is, mirrored, and in half the light."""
    picture = cv2.imread(str(FACE), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise Unavailable(f"{FACE.name} is missing from this installation of Phalanx")
    face: Image = np.asarray(picture, dtype=np.uint8)
    if len(face) != side:
        face = np.asarray(cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return [face, np.ascontiguousarray(face[:, ::-1]), face // 2]


def stored_golden(sha256: str, folder: Path = FOLDER) -> Golden | None:
    """Return the stored vectors of the network with these weights, None if there are none.

    Raises `Unavailable` when the file is damaged.
    """
    path = folder / f"{sha256[:12]}.json"
    if not path.is_file():
        return None
    try:
        golden = msgspec.json.decode(path.read_bytes(), type=Golden)
        golden.rows(1)
    except ValueError as error:
        raise Unavailable(f"{path.name} cannot be read as stored vectors: {error}") from error
    return golden if golden.sha256 == sha256 else None


def check_golden(model: FaceEmbedder, exact: Callable[[], FaceEmbedder]) -> GoldenResult:
    """Compare a network with stored vectors, or with what `exact()`, the same one in float32, gives.

    Unless it is float32 itself and nothing is stored: then only that the vectors are finite is checked. Raises
    `Unavailable` when the stored ones have another length.
    """
    found = embed_faces(model)
    expected = _expected(model, found, exact)
    if found.shape != expected.shape:
        raise Unavailable(f"{model.spec.name} gives {found.shape[1]} components; its golden vectors have others")
    errors = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    return GoldenResult(
        float(np.where(np.isfinite(errors), errors, np.inf).max()), MAX_DEVIATION[model.backend.precision]
    )


def _expected(model: FaceEmbedder, found: Vector, exact: Callable[[], FaceEmbedder]) -> Vector:
    if golden := stored_golden(model.spec.sha256):
        return golden.rows(len(found))
    return found if model.backend.precision == "f32" else embed_faces(exact())


def require_golden(model: FaceEmbedder, result: GoldenResult) -> None:
    """Raise `Unavailable` unless the check held."""
    if not result.holds:
        raise Unavailable(
            f"the golden check of {model.spec.name} {model.spec.version} failed: with {model.backend.name} in "
            f"{model.backend.precision} a face came back {result.deviation:.5f} from what it should be, relative to "
            f"its length; at most {result.allowed} is allowed"
        )


def embed_faces(model: FaceEmbedder) -> Vector:
    """Return the vectors of the faces that are compared, `[faces, d]`."""
    return np.stack(model.run([model.prepare(face) for face in faces(model.spec.input_size)]))
