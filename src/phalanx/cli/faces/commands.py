"""`phalanx faces detect`, `embed` and `compare`: faces of files and folders."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import typer

from phalanx.cli.asking import Asks, patiently
from phalanx.cli.bulk.journal import Facts
from phalanx.cli.faces.drawn import Drawings
from phalanx.cli.faces.lines import Line
from phalanx.cli.faces.looking import look
from phalanx.cli.faces.options import (
    AsJson,
    Confidence,
    DetectorOption,
    Draw,
    ModelName,
    OutputPath,
    Paths,
    sitting,
)
from phalanx.cli.faces.pictures import Picture, collect
from phalanx.cli.faces.run import OF_THE_PICTURE, Work
from phalanx.cli.options import Force, Key, Quiet, Restart, Url
from phalanx.contract.faces import (
    CompareFacesRequest,
    CompareFacesResponse,
    DetectRequest,
    DetectResponse,
    EmbeddedFace,
    EmbedFacesRequest,
    EmbedFacesResponse,
    FoundFace,
)
from phalanx.engines.face.drawing import Mark
from phalanx.errors import InvalidRequest, PhalanxError

DEFAULT_CONFIDENCE = 0.5

WhichFace = Annotated[str, typer.Option("--face", help="largest, all, or a number from left to right, from 0.")]
Aligned = Annotated[bool, typer.Option("--aligned", help="The pictures are faces already cut out for the model.")]
Reference = Annotated[str, typer.Argument(metavar="REFERENCE", help="The picture with which the others are compared.")]


def detect(
    paths: Paths,
    min_confidence: Confidence = DEFAULT_CONFIDENCE,
    max_faces: Annotated[int | None, typer.Option(min=1, max=1000, help="Keep the largest faces only.")] = None,
    detector: DetectorOption = "auto",
    draw: Draw = None,
    output: OutputPath = None,
    as_json: AsJson = False,
    force: Force = False,
    restart: Restart = False,
    quiet: Quiet = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Find the faces in pictures: boxes, landmarks, confidence, quality.

    A line a picture, in their order; JSON unless a terminal reads it. A
    picture that cannot be read has its error instead, the others go on, and
    the exit status is 1.

    \b
    Examples:
      phalanx faces detect group.jpg
      phalanx faces detect holidays/ -o faces.jsonl
      phalanx faces detect holidays/ --draw drawn/ --min-confidence 0.7
      curl -s https://example.org/photo.jpg | phalanx faces detect - --json
      phalanx faces detect holidays/ --url http://127.0.0.1:8000 --key @key.txt
    """
    told = sitting(output=output, as_json=as_json, quiet=quiet, force=force, restart=restart, url=url, key=key)
    pictures = collect(paths)
    drawings = Drawings(draw, pictures) if draw else None

    def make(asks: Asks) -> Work:
        async def work(picture: Picture) -> Line:
            data = await asyncio.to_thread(picture.read)
            request = DetectRequest(
                images=[asks.image(data)], min_confidence=min_confidence, max_faces=max_faces, detector=detector
            )
            answer: DetectResponse = await patiently(lambda: asks.ask("faces.detect", request))
            (result,) = answer.results or []
            if result.error is not None:
                return Line(picture.name, {}, "", error=result.error)
            faces = result.faces or []
            if drawings is not None:
                marks = [Mark(face.bbox, face.landmarks, f"{face.confidence:.2f}") for face in faces]
                await drawings.add(picture, data, marks, answer.landmarks_estimated)
            fields = {
                "width": result.width, "height": result.height, "faces": faces, "model": answer.model,
                "landmarks_estimated": answer.landmarks_estimated,
            }  # fmt: skip
            return Line(picture.name, fields, _found(picture, faces), len(faces))

        return work

    facts: Facts = {"the command": "detect", "--min-confidence": str(min_confidence), "--max-faces": max_faces}
    look(pictures, told, {**facts, "--detector": detector}, make)


def embed(
    paths: Paths,
    face: WhichFace = "largest",
    aligned: Aligned = False,
    model: ModelName = None,
    min_confidence: Confidence = DEFAULT_CONFIDENCE,
    detector: DetectorOption = "auto",
    draw: Draw = None,
    output: OutputPath = None,
    as_json: AsJson = False,
    force: Force = False,
    restart: Restart = False,
    quiet: Quiet = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Turn the faces of pictures into vectors.

    A line a picture, in their order, with the metric and the threshold by
    which the model's vectors are compared. A picture without a face is an
    error of its own.

    \b
    Examples:
      phalanx faces embed portrait.jpg --json
      phalanx faces embed people/ -o vectors.jsonl
      phalanx faces embed group.jpg --face all -o group.jsonl
      phalanx faces embed chips/ --aligned --model sface -o chips.jsonl
    """
    told = sitting(output=output, as_json=as_json, quiet=quiet, force=force, restart=restart, url=url, key=key)
    which = read_face(face)
    if aligned and draw is not None:
        raise InvalidRequest("--draw shows what was detected, and in --aligned pictures nothing is")
    pictures = collect(paths)
    drawings = Drawings(draw, pictures) if draw else None

    def make(asks: Asks) -> Work:
        async def work(picture: Picture) -> Line:
            data = await asyncio.to_thread(picture.read)
            request = EmbedFacesRequest(
                images=[asks.image(data)], face=which, aligned=aligned, model=model, min_confidence=min_confidence,
                detector=detector,
            )  # fmt: skip
            answer: EmbedFacesResponse = await patiently(lambda: asks.ask("faces.embed", request))
            (result,) = answer.results or []
            if result.error is not None:
                return Line(picture.name, {}, "", error=result.error)
            faces = result.faces or []
            if drawings is not None:
                marks = [mark for one in faces if (mark := _mark(one))]
                await drawings.add(picture, data, marks, answer.landmarks_estimated or ())
            fields = {
                "faces": faces, "landmarks_estimated": answer.landmarks_estimated, "model": answer.model,
                "metric": answer.metric, "threshold": answer.threshold, "threshold_meaning": answer.threshold_meaning,
                "dimensions": answer.dimensions,
            }  # fmt: skip
            qualities = ", ".join(f"{one.quality:.2f}" for one in faces)
            words = (
                f"{picture.name}: {counted(len(faces))} × {answer.dimensions} by {answer.model}, quality {qualities}"
            )
            return Line(picture.name, fields, words, len(faces))

        return work

    facts: Facts = {
        "the command": "embed", "--face": face, "--aligned": aligned, "--model": model,
        "--min-confidence": str(min_confidence), "--detector": detector,
    }  # fmt: skip
    look(pictures, told, facts, make)


def compare(
    reference: Reference,
    paths: Paths,
    model: ModelName = None,
    min_confidence: Confidence = DEFAULT_CONFIDENCE,
    detector: DetectorOption = "auto",
    output: OutputPath = None,
    as_json: AsJson = False,
    force: Force = False,
    restart: Restart = False,
    quiet: Quiet = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Say whether the largest face of each picture is the person of REFERENCE.

    The exit status is 0 whatever the answers are, and 1 when a picture could
    not be compared.

    \b
    Examples:
      phalanx faces compare passport.jpg selfie.jpg
      phalanx faces compare passport.jpg holidays/ --json | jq 'select(.same)'
    """
    told = sitting(output=output, as_json=as_json, quiet=quiet, force=force, restart=restart, url=url, key=key)
    (first,) = collect([reference])[:1]
    if len(collect([reference])) > 1:
        raise InvalidRequest(f"{reference!r} is a folder; REFERENCE is one picture")
    pictures = collect(paths)
    if first.path is None and any(picture.path is None for picture in pictures):
        raise InvalidRequest("standard input holds one picture, which cannot be compared with itself")
    known = first.read()

    def make(asks: Asks) -> Work:
        async def work(picture: Picture) -> Line:
            data = await asyncio.to_thread(picture.read)
            request = CompareFacesRequest(
                images=[asks.image(known), asks.image(data)], model=model, min_confidence=min_confidence,
                detector=detector,
            )  # fmt: skip
            try:
                answer: CompareFacesResponse = await patiently(lambda: asks.ask("faces.compare", request))
            except OF_THE_PICTURE as error:
                raise _of_one(error, first) from None
            verdict = "the same person" if answer.same else "another person"
            words = f"{picture.name}: {verdict} (distance {answer.distance:.3f}, at most {answer.threshold:g})"
            fields = {name: getattr(answer, name) for name in answer.__struct_fields__}
            return Line(picture.name, {"reference": first.name, **fields}, words, 1)

        return work

    facts: Facts = {
        "the command": "compare", "the reference": first.identity(), "--model": model,
        "--min-confidence": str(min_confidence), "--detector": detector,
    }  # fmt: skip
    look(pictures, told, facts, make)


def _of_one(error: PhalanxError, reference: Picture) -> Exception:
    """Return the failure of one of two images by the name that it has here; the reference's fails the run."""
    place, _, said = error.detail.partition(": ")
    if place == "images[0]":
        return typer.BadParameter(f"REFERENCE {reference.name!r}: {said}")
    return type(error)(said) if place == "images[1]" else error


def read_face(text: str) -> Literal["largest", "all"] | int:
    """Return which face is meant. Raises `InvalidRequest`."""
    if text in ("largest", "all"):
        return text  # type: ignore[return-value]
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    raise InvalidRequest(f"--face is largest, all, or a number from 0; this is {text!r}")


def counted(count: int) -> str:
    """Return a number of faces in words."""
    return "1 face" if count == 1 else f"{count} faces"


def _found(picture: Picture, faces: list[FoundFace]) -> str:
    shown = [
        f"{face.bbox.width:.0f} × {face.bbox.height:.0f} at {face.bbox.x:.0f}, {face.bbox.y:.0f}: confidence "
        f"{face.confidence:.2f}, quality {face.quality:.2f}"
        + (f" ({', '.join(face.measures.reasons)})" if face.measures.reasons else "")
        for face in faces
    ]
    return "\n  ".join([f"{picture.name}: {counted(len(faces)) if faces else 'no face'}", *shown])


def _mark(face: EmbeddedFace) -> Mark | None:
    if face.bbox is None:
        return None
    return Mark(face.bbox, face.landmarks, f"{face.confidence or 0:.2f}")
