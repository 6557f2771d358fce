"""What the rest of Phalanx sees of the store: versions, the models they belong to, reports on their files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from phalanx.errors import Unavailable
from phalanx.models.catalogue import DetectionSettings, Entry, FaceSettings, Licence, Task, TextSettings
from phalanx.models.layout import Manifest, Pointer
from phalanx.models.pins import Pin


@dataclass(frozen=True)
class Version:
    """One version of a model that is here: where its files are and what an engine must know of it.

    `sha256` is that of the weights: two versions that compute differently differ in it. `files` holds derived
    files too, by their path in `folder`.
    """

    name: str
    version: str
    folder: Path
    sha256: str
    task: Task
    licence: Licence
    dimensions: int | None
    text: TextSettings | None
    files: Mapping[str, Pin]
    variant_of: str | None
    detection: DetectionSettings | None = None
    face: FaceSettings | None = None

    def path(self, file: str) -> Path:
        """Return where a file of the version is. Raises `Unavailable` when the version has no such file."""
        if file not in self.files:
            has = ", ".join(self.files)
            raise Unavailable(f"version {self.version} of {self.name} has no {file}; it has: {has}")
        return self.folder / file


class ActiveVersion(NamedTuple):
    """A version that takes traffic, with its weight relative to those of the others."""

    version: Version
    weight: float


def version_of(manifest: Manifest, folder: Path) -> Version:
    """Return the version that a manifest describes and a folder holds."""
    return Version(
        name=manifest.name,
        version=manifest.version,
        folder=folder,
        sha256=manifest.sha256,
        task=manifest.task,
        licence=manifest.licence,
        dimensions=manifest.dimensions,
        text=manifest.text,
        files=manifest.pins,
        variant_of=manifest.variant_of,
        detection=manifest.detection,
        face=manifest.face,
    )


class Installed(NamedTuple):
    """A model of the catalogue or the store: its entry if catalogued, its versions, which are active."""

    name: str
    entry: Entry | None
    versions: list[Version]
    pointer: Pointer | None


class FileReport(NamedTuple):
    """One file of a version: what it must be, and what is wrong with it, None if nothing."""

    version: str
    file: str
    pin: Pin
    problem: str | None
