"""`--draw FOLDER`: the pictures again, upright and in full size, with what was found in them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from pathlib import Path

from phalanx.cli.faces.pictures import Picture
from phalanx.engines.face.drawing import Mark, draw
from phalanx.engines.image.decode import decode
from phalanx.engines.image.encode import encode
from phalanx.errors import InvalidRequest, Unavailable

MAX_PIXELS = 2**28
"""What is drawn was decoded by the detector before, whose own limit is lower."""

QUALITY = 92
NATIVE = {"jpeg": (".jpg", ".jpeg", ".jfif"), "png": (".png",)}


class Drawings:
    """Writes drawn pictures into a folder, each at the place that it has below the folder that was named."""

    def __init__(self, folder: Path, pictures: Sequence[Picture]) -> None:
        if folder.exists() and not folder.is_dir():
            raise InvalidRequest(f"{str(folder)!r} is no folder to draw into")
        self._folder = folder
        self._places = _places(pictures)
        ours = {picture.path.resolve() for picture in pictures if picture.path is not None}
        for place in self._places.values():
            if any((folder / place).with_suffix(suffix).resolve() in ours for suffix in (place.suffix, ".jpg", ".png")):
                raise InvalidRequest(f"{str(folder / place)!r} is a picture to look at; draw into another folder")

    async def add(self, picture: Picture, data: bytes, marks: Sequence[Mark], estimated: Collection[str]) -> Path:
        """Draw into a picture and write it as JPEG, or as PNG where it was none. Raises `Unavailable` when it cannot be."""
        return await asyncio.to_thread(self._add, picture, data, marks, estimated)

    def _add(self, picture: Picture, data: bytes, marks: Sequence[Mark], estimated: Collection[str]) -> Path:
        decoded = decode(data, max_pixels=MAX_PIXELS, as_srgb=True)
        kind = "jpeg" if decoded.header.format == "jpeg" else "png"
        place = self._folder / self._places[picture.name]
        if place.suffix.lower() not in NATIVE[kind]:
            place = place.with_name(f"{place.name}{NATIVE[kind][0]}")
        drawn = encode(draw(decoded.pixels, marks, estimated=estimated), kind, quality=QUALITY)  # type: ignore[arg-type]
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(drawn)
        except OSError as error:
            raise Unavailable(f"{str(place)!r} cannot be written: {error.strerror}") from None
        return place


def _places(pictures: Sequence[Picture]) -> dict[str, Path]:
    """Return where each picture goes; of several with one place the later ones get a number."""
    places: dict[str, Path] = {}
    taken: dict[Path, int] = {}
    for picture in pictures:
        place = Path(*picture.within)
        count = taken[place] = taken.get(place, 0) + 1
        places[picture.name] = place if count == 1 else place.with_name(f"{place.stem}-{count}{place.suffix}")
    return places
