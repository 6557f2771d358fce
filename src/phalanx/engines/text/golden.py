"""The golden check: a model takes no traffic before a few texts have come out right.

Right is a stored float32 unit vector where there is one, beside the model or with us for these weights, else what the
same graph gives in float32.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from phalanx.contract.vector import Vector
from phalanx.engines.text.model import TextModel
from phalanx.engines.text.spec import Pooling
from phalanx.engines.text.vectors import unit
from phalanx.errors import Unavailable

FOLDER = Path(__file__).parent / "goldens"

MIN_COSINE = {"f32": 0.9999, "bf16": 0.9999, "int8": 0.99}
"""What a vector must reach, by the backend's precision."""

TEXTS = (
    "Hello world",
    "a",
    "The committee postponed the vote until every member had read the report.",
    "def area(r: float) -> float:\n    return 3.14159 * r ** 2",
    "https://example.org/search?q=cosine+similarity&page=2",
    "Ünïcödé façade, Привет, 你好, مرحبا, 🙂",
    "!!! ??? ... 1,234.56 %",
    "lorem ipsum dolor sit amet " * 12,
)
"""For models without stored vectors: short and long, prose, code, an address, scripts, signs."""


class Golden(msgspec.Struct, frozen=True):
    """Texts with the reference's vectors: `vectors` is float32 little-endian `[texts, d]` in base64, rows of length 1.

    They were made with `pooling`, of texts cut at `max_tokens`.
    """

    model: str
    source: str
    texts: list[str]
    vectors: str
    max_tokens: int = 256
    pooling: Pooling = "mean"
    sha256: str = ""

    def rows(self) -> Vector:
        """Return the vectors, `[texts, d]`."""
        flat = np.frombuffer(base64.b64decode(self.vectors), dtype="<f4")
        return flat.reshape(len(self.texts), -1)


class GoldenResult(NamedTuple):
    """The lowest cosine with the text that had it, and what was needed."""

    cosine: float
    text: str
    needed: float

    @property
    def holds(self) -> bool:
        """Whether every text came near enough; a NaN did not."""
        return self.cosine >= self.needed


def read_golden(path: Path) -> Golden:
    """Read stored vectors. Raises `Unavailable` when the file is damaged."""
    try:
        golden = msgspec.json.decode(path.read_bytes(), type=Golden)
        golden.rows()
    except (OSError, ValueError) as error:
        raise Unavailable(f"{path.name} cannot be read as stored vectors: {error}") from error
    return golden


def stored_golden(sha256: str, folder: Path = FOLDER) -> Golden | None:
    """Return the stored vectors of the model with these weights, None if there are none."""
    path = folder / f"{sha256[:12]}.json"
    if not path.is_file():
        return None
    golden = read_golden(path)
    return golden if golden.sha256 == sha256 else None


def check_golden(model: TextModel, exact: Callable[[], TextModel], golden: Golden | None = None) -> GoldenResult:
    """Compare a model with stored vectors, `golden` or ours, or with what `exact()`, the same one in float32, gives.

    Unless it is float32 itself and nothing is stored: then only that the vectors are finite is checked.
    """
    needed = MIN_COSINE[model.backend.precision]
    golden = golden or stored_golden(model.spec.sha256)
    if golden is not None and golden.pooling == model.spec.pooling and (kept := _uncut(model, golden)):
        texts = [golden.texts[index] for index in kept]
        return _compare(texts, embed_units(model, texts), golden.rows()[kept], needed)
    found = embed_units(model, TEXTS)
    expected = found if model.backend.precision == "f32" else embed_units(exact(), TEXTS)
    return _compare(TEXTS, found, expected, needed)


def _uncut(model: TextModel, golden: Golden) -> list[int]:
    """Return which stored texts the model reads as far as the reference did: all, or, cut elsewhere, the short ones."""
    if model.spec.max_tokens == golden.max_tokens:
        return list(range(len(golden.texts)))
    limit = min(model.spec.max_tokens, golden.max_tokens)
    return [index for index, text in enumerate(golden.texts) if model.prepare(text).tokens <= limit]


def require_golden(model: TextModel, result: GoldenResult) -> None:
    """Raise `Unavailable` unless the check held."""
    if not result.holds:
        raise Unavailable(
            f"the golden check of {model.spec.name} {model.spec.version} failed: {result.text[:40]!r} came back at cosine "
            f"{result.cosine:.6f} with {model.backend.name} in {model.backend.precision}, at least {result.needed} is needed"
        )


def embed_units(model: TextModel, texts: Sequence[str]) -> Vector:
    """Return the unit vectors of texts, `[texts, d]`."""
    return unit(np.stack(model.run([model.prepare(text) for text in texts])))


def _compare(texts: Sequence[str], found: Vector, expected: Vector, needed: float) -> GoldenResult:
    if found.shape != expected.shape:
        raise Unavailable(
            f"the model gives vectors of {found.shape[-1]} components; its golden ones have {expected.shape[-1]}"
        )
    cosines = np.einsum("nd,nd->n", found, expected)
    cosines = np.where(np.isfinite(cosines), cosines, -1.0)
    worst = int(np.argmin(cosines))
    return GoldenResult(float(cosines[worst]), texts[worst], needed)
