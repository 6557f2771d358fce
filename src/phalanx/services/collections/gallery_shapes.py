"""Faces of a gallery, as the store of vectors keeps them and as callers see them."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import msgspec

from phalanx.contract.collections import Condition, Filter, MatchOf
from phalanx.contract.faces import BoundingBox, FoundFace, Landmarks
from phalanx.contract.gallery import MAX_METADATA_BYTES, EnrolledFace
from phalanx.errors import InvalidRequest, TooLarge
from phalanx.ports import Point
from phalanx.services.collections.registry import Collection

PERSON_KEY = "person_id"

_NAMESPACE = uuid.UUID("5f0a3f55-5a0c-5e0b-8a55-8e4c0a1f0d21")


def contract_digest(collection: Collection) -> str:
    """Return 32 hex digits of what a collection is pinned to."""
    return hashlib.blake2b(collection.record.contract.encode(), digest_size=16).hexdigest()


def face_id(organisation: str, image_sha256: str, index: int, contract: str) -> str:
    """Return the id of a face: the same for the same face, by its number from the left, of the same file."""
    return str(uuid.uuid5(_NAMESPACE, f"{organisation}\x1f{image_sha256}\x1f{index}\x1f{contract}"))


def payload_of(
    person: str, image_sha256: str, face: FoundFace, contract: str, created_at: float, metadata: dict[str, Any]
) -> dict[str, Any]:
    """Return what is stored beside a face's vector: JSON values only."""
    landmarks = {name: list(getattr(face.landmarks, name)) for name in face.landmarks.__struct_fields__}
    return {
        PERSON_KEY: person, "image_sha256": image_sha256, "bbox": msgspec.to_builtins(face.bbox),
        "landmarks": landmarks, "quality": face.quality, "confidence": face.confidence, "contract": contract,
        "created_at": created_at, "metadata": metadata,
    }  # fmt: skip


def view_face(point: Point) -> EnrolledFace:
    """Return a stored face as its caller sees it."""
    known = point.payload
    return EnrolledFace(
        id=point.id, person_id=known[PERSON_KEY], image_sha256=known["image_sha256"],
        bbox=msgspec.convert(known["bbox"], BoundingBox), landmarks=msgspec.convert(known["landmarks"], Landmarks),
        quality=known["quality"], confidence=known["confidence"], created_at=known["created_at"],
        metadata=known["metadata"],
    )  # fmt: skip


def only_person(person: str) -> Filter:
    """Return the filter that lets the faces of one person through."""
    return Filter(must=[Condition(key=PERSON_KEY, match=MatchOf(value=person))])


def check_person(person: str) -> None:
    """Raise `InvalidRequest` for an id that could not be said in a path; its length is seen to by its type."""
    if not person.strip() or person in (".", "..") or any(not char.isprintable() for char in person):
        raise InvalidRequest(
            "a person's id is neither blank nor . or .., and has no control characters", param="person_id"
        )


def check_metadata(metadata: dict[str, Any]) -> None:
    """Raise `TooLarge` over 16 KiB of JSON."""
    size = len(msgspec.json.encode(metadata))
    if size > MAX_METADATA_BYTES:
        raise TooLarge(f"metadata has {size} bytes, {MAX_METADATA_BYTES} are allowed", param="metadata")
