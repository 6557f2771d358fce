"""`phalanx faces enrol` and `identify`: persons of a gallery, by folders of pictures."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import typer

from phalanx.cli.asking import Asks, patiently, request_of
from phalanx.cli.bulk.journal import Facts
from phalanx.cli.faces.commands import DEFAULT_CONFIDENCE, counted, read_face
from phalanx.cli.faces.drawn import Drawings
from phalanx.cli.faces.lines import Line
from phalanx.cli.faces.looking import look
from phalanx.cli.faces.options import (
    AsJson,
    Confidence,
    DetectorOption,
    Draw,
    OutputPath,
    Paths,
    sitting,
)
from phalanx.cli.faces.pictures import Picture, collect
from phalanx.cli.faces.run import Work, failed
from phalanx.cli.options import Force, Key, Organisation, Quiet, Restart, Url
from phalanx.contract.collections import CreateCollectionRequest
from phalanx.contract.gallery import (
    DEFAULT_MIN_QUALITY,
    MAX_CANDIDATES,
    EnrolRequest,
    EnrolResponse,
    IdentifiedFace,
    IdentifyRequest,
    IdentifyResponse,
    ListPersonsRequest,
)
from phalanx.engines.face.drawing import Mark
from phalanx.errors import Conflict, InvalidRequest, NotFound

Collection = Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection of faces.")]
Person = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Whose faces these are; as the picture's folder is called unless given."),
]
Create = Annotated[bool, typer.Option("--create", help="Make the collection, if it is not there.")]
MinQuality = Annotated[float, typer.Option(min=0, max=1, help="Least quality of a face.")]
Metadata = Annotated[str | None, typer.Option(metavar="JSON", help="An object that is kept with each face.")]
FaceToEnrol = Annotated[str, typer.Option("--face", help="largest, only (refuses several), or a number from the left.")]
FaceToName = Annotated[
    str, typer.Option("--face", help="all, largest, only (refuses several), or a number from the left.")
]
Threshold = Annotated[float | None, typer.Option(help="What stands for one person, if not the collection's own.")]
Limit = Annotated[int, typer.Option(min=1, max=MAX_CANDIDATES, help="Persons named for each face.")]


def enrol(
    collection: Collection,
    paths: Paths,
    person: Person = None,
    create: Create = False,
    organisation: Organisation = None,
    face: FaceToEnrol = "largest",
    min_quality: MinQuality = DEFAULT_MIN_QUALITY,
    metadata: Metadata = None,
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
    """Enrol the persons of pictures: one face a picture.

    Without --person each is named as the folder that the picture is in. The
    same face of the same file twice is one face, so the command may be
    repeated. A face that is too poor is refused with what is wanting, the
    others go on, and the exit status is 1.

    While a worker runs it alone may open collections on this machine: ask it
    by --url and --key.

    \b
    Examples:
      phalanx faces enrol staff people/ --create
      phalanx faces enrol staff eileen.jpg --person eileen
      phalanx faces enrol staff people/ --url http://127.0.0.1:8000 --key @key.txt
    """
    told = sitting(output=output, as_json=as_json, quiet=quiet, force=force, restart=restart, url=url, key=key)
    which, known = _which(face, several=False), _object(metadata)
    pictures = collect(paths)
    names = {picture.name: person for picture in pictures} if person is not None else persons_of(pictures)

    template = EnrolRequest(
        name=collection, person_id="", face=which, metadata=known, min_quality=min_quality,
        min_confidence=min_confidence, detector=detector, organisation=organisation,
    )  # fmt: skip
    facts: Facts = {
        "the command": "enrol", "the collection": collection, "--organisation": organisation, "--person": person,
        "--face": face, "--min-quality": str(min_quality), "--metadata": metadata,
        "--min-confidence": str(min_confidence), "--detector": detector,
    }  # fmt: skip
    look(pictures, told, facts, lambda asks: _enrolling(asks, template, names, create=create), vectors=True)


def identify(
    collection: Collection,
    paths: Paths,
    face: FaceToName = "all",
    limit: Limit = 5,
    threshold: Threshold = None,
    organisation: Organisation = None,
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
    """Say who is in pictures, among those who are enrolled.

    Each line has the nearest persons of each face with their scores, and what
    the threshold means among as many faces as are enrolled.

    \b
    Examples:
      phalanx faces identify staff party.jpg
      phalanx faces identify staff photos/ -o who.jsonl --draw named/
      phalanx faces identify staff door.jpg --face largest --threshold 0.5
      phalanx faces identify staff in/ --url http://127.0.0.1:8000 --key @key.txt
    """
    told = sitting(output=output, as_json=as_json, quiet=quiet, force=force, restart=restart, url=url, key=key)
    which = _which(face, several=True)
    pictures = collect(paths)
    drawings = Drawings(draw, pictures) if draw else None

    template = IdentifyRequest(
        name=collection, face=which, limit=limit, threshold=threshold, min_confidence=min_confidence,
        detector=detector, organisation=organisation,
    )  # fmt: skip
    facts: Facts = {
        "the command": "identify", "the collection": collection, "--organisation": organisation, "--face": face,
        "--limit": limit, "--threshold": None if threshold is None else str(threshold),
        "--min-confidence": str(min_confidence), "--detector": detector,
    }  # fmt: skip
    look(pictures, told, facts, lambda asks: _identifying(asks, template, drawings), vectors=True)


def persons_of(pictures: Sequence[Picture]) -> dict[str, str | None]:
    """Return who is on each picture, by its name: as the folder is called that it is in.

    Raises `InvalidRequest` for standard input, and where pictures lie beside folders of persons: their folder is none.
    """
    if any(picture.path is None for picture in pictures):
        raise InvalidRequest("standard input is in no folder that names a person: say --person")
    roots = {_folder(picture, len(picture.within)) for picture in pictures if len(picture.within) > 1}
    for picture in pictures:
        if len(picture.within) == 1 and _folder(picture, 1) in roots:
            raise InvalidRequest(
                f"{picture.name!r} lies beside folders of persons, not in one: say whose it is by --person"
            )
    return {picture.name: picture.path.resolve().parent.name for picture in pictures if picture.path is not None}


def _enrolling(asks: Asks, template: EnrolRequest, names: Mapping[str, str | None], *, create: bool) -> Work:
    owner = _Once(asks, template.name, template.organisation, create=create, hint="--create makes it")

    async def work(picture: Picture) -> Line:
        data = await asyncio.to_thread(picture.read)
        person, whose = names[picture.name] or "", await owner.known()
        request = msgspec.structs.replace(template, person_id=person, image=asks.image(data), organisation=whose)
        try:
            answer: EnrolResponse = await patiently(lambda: asks.ask("faces.enrol", request))
        except Conflict as error:
            # The collection was looked at before: this is about the one face, which is another person's.
            return failed(picture, error)
        assert answer.face is not None
        words = f"{picture.name}: {answer.person_id}{'' if answer.created else ', who was enrolled by it before'}"
        fields = {"person_id": answer.person_id, "created": answer.created, "face": answer.face, "model": answer.model}
        return Line(picture.name, fields, f"{words}, quality {answer.face.quality:.2f}", 1)

    return work


def _identifying(asks: Asks, template: IdentifyRequest, drawings: Drawings | None) -> Work:
    owner = _Once(asks, template.name, template.organisation)

    async def work(picture: Picture) -> Line:
        data = await asyncio.to_thread(picture.read)
        whose = await owner.known()
        request = msgspec.structs.replace(template, image=asks.image(data), organisation=whose)
        answer: IdentifyResponse = await patiently(lambda: asks.ask("faces.identify", request))
        faces = answer.faces or []
        if drawings is not None:
            marks = [Mark(one.bbox, one.landmarks, _label(one)) for one in faces]
            await drawings.add(picture, data, marks, answer.landmarks_estimated or ())
        fields = {
            name: getattr(answer, name)
            for name in ("faces", "landmarks_estimated", "model", "metric", "threshold", "search")
        }
        words = "".join(f"\n  {_said(one)}" for one in faces)
        return Line(picture.name, fields, f"{picture.name}: {counted(len(faces))}{words}", len(faces))

    return work


class _Once:
    """Looks a collection up when first asked, and knows then whose it is."""

    def __init__(
        self,
        asks: Asks,
        name: str,
        organisation: str | None,
        *,
        create: bool = False,
        hint: str = "`phalanx collections list` shows all",
    ) -> None:
        self._asks = asks
        self._name = name
        self._organisation = organisation
        self._create = create
        self._hint = hint
        self._found: asyncio.Task[str | None] | None = None

    async def known(self) -> str | None:
        """Return the organisation to name. Raises `NotFound`, `Conflict` for another kind or several owners."""
        if self._found is None:
            self._found = asyncio.create_task(self._look())
        return await asyncio.shield(self._found)

    async def _look(self) -> str | None:
        try:
            owner = await self._asks.owner(self._name, self._organisation)
        except NotFound:
            if not self._create:
                raise NotFound(f"there is no collection {self._name!r}; {self._hint}") from None
            owner = None
        if self._create:
            making = request_of(CreateCollectionRequest, name=self._name, kind="faces", organisation=owner)
            await self._asks.ask("collections.create", making)
        await self._asks.ask(
            "faces.persons", request_of(ListPersonsRequest, name=self._name, limit=1, organisation=owner)
        )
        return owner


def _which(text: str, *, several: bool) -> Any:
    """Return which face is meant. Raises `InvalidRequest`."""
    if text == "only":
        return text
    if text == "all" and not several:
        raise InvalidRequest("--face is largest, only, or a number from 0: each picture has one face of the person")
    return read_face(text)


def _object(text: str | None) -> dict[str, Any]:
    try:
        return {} if text is None else msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise InvalidRequest(f"--metadata is no JSON object: {error}") from None


def _folder(picture: Picture, levels: int) -> str:
    assert picture.path is not None
    return str(picture.path.resolve().parents[levels - 1])


def _label(face: IdentifiedFace) -> str:
    if not face.candidates:
        return "?"
    return f"{face.person_id or '?'} {face.candidates[0].score:.2f}"


def _said(face: IdentifiedFace) -> str:
    where = f"{face.bbox.width:.0f} × {face.bbox.height:.0f} at {face.bbox.x:.0f}, {face.bbox.y:.0f}"
    others = ", ".join(f"{one.person_id} {one.score:.3f}" for one in face.candidates) or "nobody is enrolled"
    return f"{where}: {face.person_id or 'nobody known'} ({others})"
