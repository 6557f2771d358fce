"""`phalanx models add`: a network of the user's own into the store: of face vectors, as ArcFace's, or a YuNet that finds faces."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from phalanx.cli.model_store import listening, open_store
from phalanx.errors import InvalidRequest, NotFound
from phalanx.models.catalogue import Entry, FaceSettings, FileSource, Licence
from phalanx.models.pins import pin_of

EXAMPLE = (
    "Examples: phalanx models add my-arcface --file r50.onnx --licence Apache-2.0 · "
    "phalanx models add yunet --kind detector --file face_detection_yunet_2023mar.onnx --licence MIT"
)

FREE_LICENCES = frozenset(
    {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "CC0-1.0", "ISC", "MIT", "Unlicense"}
)
"""SPDX names of licences that allow every use; of any other the user says to have read it."""

COSINE = 0.4
MEANING = (
    "usual for ArcFace: InsightFace's buffalo_l takes one pair in a million of MR-ALL for one person at 0.408; "
    "measure it on your own photos"
)


DETECTOR_THRESHOLD = 0.5
"""Score from which on something is a face, unless a call says otherwise; what `min_confidence` is by default."""


class AddedKind(StrEnum):
    """What a network is for."""

    embedder = "embedder"
    detector = "detector"


class Range(StrEnum):
    """How levels of 0 to 255 are fed."""

    auto = "auto"
    levels = "0..255"
    signed = "-1..1"


class Channels(StrEnum):
    """The order of the colours."""

    rgb = "rgb"
    bgr = "bgr"


def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What to call it.")],
    file: Annotated[Path, typer.Option(help="An ONNX file, its weights in it; ArcFace's take 112 x 112 pixels.")],
    licence: Annotated[str, typer.Option(help="The licence of the weights, by its SPDX name if it has one.")],
    acknowledge: Annotated[
        bool, typer.Option("--acknowledge-licence", help="You have read it, and your use is within its terms.")
    ] = False,
    kind: Annotated[
        AddedKind, typer.Option(help="embedder: a network of face vectors; detector: a YuNet, as OpenCV Zoo has it.")
    ] = AddedKind.embedder,
    licence_url: Annotated[str, typer.Option(help="Where the licence can be read.")] = "",
    threshold: Annotated[float, typer.Option(help="Cosine from which on two faces are of one person.")] = COSINE,
    meaning: Annotated[str, typer.Option(help="What the threshold was measured on.")] = MEANING,
    input_range: Annotated[
        Range, typer.Option("--range", help="What the network is fed; auto looks whether it scales levels itself.")
    ] = Range.auto,
    channels: Annotated[Channels, typer.Option(help="The order of the colours.")] = Channels.rgb,
) -> None:
    """Add a network of your own.

    One of face vectors has faces aligned as for ArcFace and compared by cosine.
    A detector is a YuNet; calls name it by `detector`, and the options from
    --threshold on are not for it.
    """
    if not file.is_file():
        raise NotFound(f"there is no file {file}")
    if licence not in FREE_LICENCES and not acknowledge:
        raise InvalidRequest(
            f"the licence {licence!r} may not allow your use; InsightFace's packs, for example, are for non-commercial "
            "research only. Read it, and say so with --acknowledge-licence"
        )
    is_detector = kind is AddedKind.detector
    entry = (
        _detector(name, file)
        if is_detector
        else _entry(name, file, threshold=threshold, meaning=meaning, input_range=input_range, channels=channels)
    )
    notice = "The user's own model." + (" The user acknowledged its licence." if acknowledge else "")
    entry = msgspec.structs.replace(entry, licence=Licence(spdx=licence, url=licence_url, notice=notice))
    with listening() as progress:
        version = open_store(context).add(entry, progress=progress)
    console = Console(highlight=False)
    if (face := version.face) is not None:
        console.print(
            f"{version.name}: {face.input_size} x {face.input_size} pixels, {version.dimensions} dimensions, fed "
            f"{_fed(face)}, {face.channels}",
            soft_wrap=True,
        )
    elif (detection := version.detection) is not None:
        side = detection.input_size
        console.print(f"{version.name}: YuNet, {side} x {side} pixels; name it by detector in calls", soft_wrap=True)
    console.print(f"{version.name} {version.version} is ready", soft_wrap=True)


def _entry(name: str, file: Path, *, threshold: float, meaning: str, input_range: Range, channels: Channels) -> Entry:
    # The library that reads graphs is loaded for this command only.
    from phalanx.models.conversion.face_graph import read_face_graph

    graph = read_face_graph(file)
    is_raw = graph.scales_itself if input_range is Range.auto else input_range is Range.levels
    facts = {
        "name": name,
        "summary": f"the user's own network of face vectors, from {file.name}",
        "task": "face-embedding",
        "licence": Licence(spdx="", url="", notice=""),
        "primary": "model.onnx",
        "files": {"model.onnx": pin_of(file)},
        "sources": [FileSource(path=str(file.absolute()))],
        "dimensions": graph.dimensions,
        "face": {
            "input_size": graph.side,
            "template": "arcface",
            "metric": "cosine",
            "threshold": threshold,
            "meaning": meaning,
            "channels": channels.value,
            "offset": 0.0 if is_raw else 127.5,
            "scale": 1.0 if is_raw else 127.5,
        },
    }
    return _converted(facts)


def _detector(name: str, file: Path) -> Entry:
    # As above.
    from phalanx.models.conversion.detector_graph import read_detector_graph

    side = read_detector_graph(file)
    return _converted({
        "name": name,
        "summary": f"the user's own face detector, from {file.name}",
        "task": "face-detection",
        "licence": Licence(spdx="", url="", notice=""),
        "primary": "model.onnx",
        "files": {"model.onnx": pin_of(file)},
        "sources": [FileSource(path=str(file.absolute()))],
        "detection": {"architecture": "yunet", "input_size": side, "threshold": DETECTOR_THRESHOLD},
    })  # fmt: skip


def _converted(facts: dict[str, Any]) -> Entry:
    try:
        return msgspec.convert(facts, Entry)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"the model cannot be added: {error}") from error


def _fed(face: FaceSettings) -> str:
    return "levels of 0 to 255" if face.offset == 0 else "-1 to 1"
