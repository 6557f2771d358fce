"""The store on disk: `<root>/<name>/<version>/` with a manifest and `<root>/<name>/active.json`.

Both change by rename. `<root>/.work` holds unfinished pulls and `<root>/.locks` the locks, so whatever
has a name is whole.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import filelock
import msgspec

from phalanx.errors import Unavailable
from phalanx.models.catalogue import (
    DetectionSettings,
    FaceSettings,
    Licence,
    ModelName,
    Task,
    TextSettings,
    version_name,
)
from phalanx.models.pins import FileName, Pin, sync_folder
from phalanx.models.progress import Progress

MANIFEST = "manifest.json"
POINTER = "active.json"

VersionName = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{12}(-[a-z0-9][a-z0-9.]{0,30})?\Z")]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a version is: the catalogue's facts when it was made, and the pin of each file.

    `files` came from `sources`; `derived` were made here from them. A variant, such as int8, names in
    `variant_of` the version it was made from, and its suffix.
    """

    name: ModelName
    version: VersionName
    task: Task
    licence: Licence
    primary: FileName
    files: dict[FileName, Pin]
    made_at: datetime
    made_by: str
    sources: list[str] = []
    derived: dict[FileName, Pin] = {}
    dimensions: int | None = None
    conversion: str | None = None
    text: TextSettings | None = None
    detection: DetectionSettings | None = None
    face: FaceSettings | None = None
    variant_of: VersionName | None = None

    def __post_init__(self) -> None:
        if self.primary not in self.files:
            raise ValueError(f"primary {self.primary!r} is none of files")
        _, _, suffix = self.version.partition("-")
        if self.version != version_name(self.sha256, suffix or None):
            raise ValueError(f"version {self.version} is not named after the sha256 of {self.primary}")
        if bool(suffix) is not bool(self.variant_of):
            raise ValueError(f"version {self.version} and variant_of {self.variant_of} do not go together")

    @property
    def sha256(self) -> str:
        """The SHA-256 of the weights, by which caches and collections know the model."""
        return self.files[self.primary].sha256

    @property
    def pins(self) -> dict[str, Pin]:
        """Every file of the version, derived ones too."""
        return {**self.files, **self.derived}


class Weighted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One active version and its share of the callers, relative to the others' weights."""

    version: VersionName
    weight: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class Pointer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which versions of a model are active, and which were before."""

    versions: Annotated[list[Weighted], msgspec.Meta(min_length=1)]
    changed_at: datetime
    previous: list[Weighted] = []


@dataclass(frozen=True)
class Layout:
    """The paths of a store and the atomic changes to them."""

    root: Path

    def version_folder(self, name: str, version: str) -> Path:
        """Return where a version is, or would be."""
        return self.root / name / version

    def workspace(self, name: str, version: str) -> Path:
        """Return the folder where a version is put together; it is kept when that is interrupted."""
        return self.root / ".work" / f"{name}-{version}"

    def names(self) -> list[str]:
        """Return the names that have at least one version, sorted."""
        return sorted({path.parent.parent.name for path in self.root.glob(f"[!.]*/*/{MANIFEST}")})

    def versions(self, name: str) -> list[str]:
        """Return the versions of a model, sorted."""
        return sorted(path.parent.name for path in (self.root / name).glob(f"*/{MANIFEST}"))

    def read_manifest(self, name: str, version: str) -> Manifest:
        """Read a version's manifest. Raises `Unavailable` when it is damaged."""
        path = self.version_folder(name, version) / MANIFEST
        try:
            return msgspec.json.decode(path.read_bytes(), type=Manifest)
        except (OSError, msgspec.DecodeError) as error:
            raise Unavailable(
                f"version {version} of {name} cannot be read ({error}); "
                f"run: phalanx models pull {name} --force, or: phalanx models rm {name} {version}"
            ) from error

    def read_pointer(self, name: str) -> Pointer | None:
        """Read which versions are active, None if none was ever.

        Raises `Unavailable` when that is damaged.
        """
        path = self.root / name / POINTER
        try:
            return msgspec.json.decode(path.read_bytes(), type=Pointer)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise Unavailable(
                f"{POINTER} of {name} cannot be read ({error}); run: phalanx models activate {name} VERSION"
            ) from error

    def pointer_marks(self) -> dict[str, tuple[int, int]]:
        """Return inode and time of change (nanoseconds) of every pointer, by model; a change is another file."""
        marks = {}
        for path in self.root.glob(f"[!.]*/{POINTER}"):
            try:
                facts = path.stat()
            except OSError:
                continue
            marks[path.parent.name] = (facts.st_ino, facts.st_mtime_ns)
        return marks

    def write_pointer(self, name: str, pointer: Pointer | None) -> None:
        """Change, or with None remove, the pointer; a reader sees the old one or the new one."""
        folder = self.root / name
        if pointer is None:
            (folder / POINTER).unlink(missing_ok=True)
        else:
            fresh = folder / f".{POINTER}.{uuid.uuid4().hex}"
            write_synced(fresh, msgspec.json.format(msgspec.json.encode(pointer)))
            fresh.replace(folder / POINTER)
        sync_folder(folder)

    def publish(self, workspace: Path, manifest: Manifest) -> None:
        """Turn a workspace into a version by one rename, in place of what had its name."""
        for path in sorted(workspace.rglob("*"), reverse=True):
            if path.is_file() and path.relative_to(workspace).as_posix() not in manifest.pins:
                path.unlink()
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        write_synced(workspace / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
        for path in [workspace, *workspace.rglob("*")]:
            sync_folder(path) if path.is_dir() else _sync_file(path)
        self.discard(manifest.name, manifest.version)
        target = self.version_folder(manifest.name, manifest.version)
        target.parent.mkdir(parents=True, exist_ok=True)
        workspace.rename(target)
        sync_folder(target.parent)

    def discard(self, name: str, version: str) -> None:
        """Remove a version, if there: first out of sight by a rename, then for good."""
        folder = self.version_folder(name, version)
        if folder.exists():
            trash = self.root / ".work" / f"trash-{uuid.uuid4().hex}"
            trash.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(trash)
            sync_folder(folder.parent)
            shutil.rmtree(trash)

    def clear(self, workspace: Path) -> None:
        """Remove a workspace with what an interrupted pull left in it."""
        shutil.rmtree(workspace, ignore_errors=True)

    @contextmanager
    def locked(self, name: str, progress: Progress) -> Iterator[None]:
        """Hold a model against other processes and threads, saying so when another has it.

        The lock dies with its holder. Raises `Unavailable` for every `OSError` inside, such as that of a
        folder that cannot be written.
        """
        folder = self.root / ".locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(folder / f"{name}.lock")
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                progress.note(f"another process is changing {name}; waiting for it to finish")
                lock.acquire()
            try:
                yield
            finally:
                lock.release()
        except OSError as error:
            raise Unavailable(f"the model folder {self.root} cannot be changed: {error}") from error


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and flush it to disk."""
    path.write_bytes(content)
    _sync_file(path)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
