"""A version as one file, for machines without a network: a plain tar of the manifest, then the files.

Derived files of a pinned model stay behind and are made anew on import, so that everything a bundle
brings of a catalogued model can be checked against the catalogue.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import msgspec

from phalanx.errors import Conflict, NotFound, Unavailable, UnreadableInput
from phalanx.models.catalogue import Catalogue
from phalanx.models.install import require_space
from phalanx.models.layout import MANIFEST, Manifest
from phalanx.models.pins import Pin, WrongBytes, receive, sync_folder
from phalanx.models.progress import Progress, read_chunks

MANIFEST_LIMIT_BYTES = 1 << 20


def write_bundle(manifest: Manifest, folder: Path, path: Path, *, progress: Progress) -> None:
    """Write the version in `folder` to `path`, which appears when it is whole.

    Raises `Conflict` when it exists.
    """
    if path.exists():
        raise Conflict(f"{path} exists already; remove it or name another file")
    if not path.parent.is_dir():
        raise NotFound(f"there is no folder {path.parent} to write the bundle to")
    content = msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(manifest, derived={})))
    part = path.with_name(path.name + ".part")
    try:
        with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(_header(MANIFEST, len(content)), BytesIO(content))
            for file, pin in manifest.files.items():
                progress.start(file, pin.size)
                with (folder / file).open("rb") as stream:
                    tar.addfile(_header(file, pin.size), stream)
                progress.advance(pin.size)
                progress.finish()
        part.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def _header(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    return info


class Bundle:
    """An opened bundle: its manifest is read and checked, its files are still in the tar."""

    def __init__(self, path: Path, tar: tarfile.TarFile) -> None:
        self._path = path
        self._tar = tar
        self.manifest = self._read_manifest()

    def extract(self, workspace: Path, *, progress: Progress) -> None:
        """Put every file into the workspace, verified.

        Raises `UnreadableInput` naming what does not belong.
        """
        workspace.mkdir(parents=True, exist_ok=True)
        require_space(workspace, sum(pin.size for pin in self.manifest.files.values()))
        awaited = dict(self.manifest.files)
        while (info := self._tar.next()) is not None:
            pin = awaited.pop(info.name, None)
            if pin is None:
                known = "a second time" if info.name in self.manifest.files else "which is not in its manifest"
                raise UnreadableInput(f"{self._path.name} has {info.name!r}, {known}")
            self._take(info, pin, workspace, progress)
        if awaited:
            raise UnreadableInput(f"{self._path.name} lacks {', '.join(awaited)}")

    def _take(self, info: tarfile.TarInfo, pin: Pin, workspace: Path, progress: Progress) -> None:
        stream = self._tar.extractfile(info) if info.isreg() else None
        if stream is None:
            raise UnreadableInput(f"{self._path.name}: {info.name} is no regular file")
        progress.start(info.name, pin.size)
        try:
            receive(read_chunks(stream, progress), workspace / info.name, pin, name=info.name)
        except WrongBytes as error:
            raise UnreadableInput(f"{self._path.name}: {error.detail}") from error
        finally:
            progress.finish()

    def _read_manifest(self) -> Manifest:
        first = self._tar.next()
        if first is None or first.name != MANIFEST or not first.isreg() or first.size > MANIFEST_LIMIT_BYTES:
            raise UnreadableInput(f"{self._path.name} does not begin with {MANIFEST}; it is no bundle of a model")
        stream = self._tar.extractfile(first)
        assert stream is not None, "a regular member can be read"
        try:
            manifest = msgspec.json.decode(stream.read(), type=Manifest)
        except msgspec.DecodeError as error:
            raise UnreadableInput(f"{self._path.name}: {MANIFEST}: {error}") from error
        if manifest.derived:
            raise UnreadableInput(f"{self._path.name}: {MANIFEST}: derived files are made on import, never brought")
        return manifest


@contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """Open a bundle. Raises `NotFound` when there is no such file, `UnreadableInput` when it is none."""
    if not path.is_file():
        raise NotFound(f"there is no file {path}")
    try:
        with tarfile.open(path, "r:") as tar:
            yield Bundle(path, tar)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UnreadableInput(f"{path.name} cannot be read as a bundle: {error}") from error


def require_as_catalogued(manifest: Manifest, catalogue: Catalogue) -> None:
    """Raise `UnreadableInput` when a bundle of a catalogued model has other bytes than the catalogue pins.

    A variant was made by someone from such a model and is pinned by its own manifest alone.
    """
    entry = catalogue.find(manifest.name)
    if entry is not None and entry.name != manifest.name:
        raise UnreadableInput(f"the bundle is named {manifest.name!r}, which means {entry.name} here")
    if entry is None or manifest.variant_of is not None:
        return
    for file, pin in {**entry.files, **manifest.files}.items():
        if entry.files.get(file) != manifest.files.get(file):
            pinned = entry.files[file].sha256 if file in entry.files else "no such file"
            brought = pin.sha256 if file in manifest.files else "no such file"
            raise UnreadableInput(f"{file} of {entry.name}: the catalogue has {pinned}, the bundle {brought}")
