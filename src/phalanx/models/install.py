"""Puts a version together in a workspace: collect the pinned files, derive the others, publish."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from phalanx import __version__
from phalanx.errors import Unavailable, UpstreamFailed
from phalanx.models.catalogue import Entry, Source, paths_in
from phalanx.models.layout import Layout, Manifest
from phalanx.models.pins import Pin, mismatch, pin_of
from phalanx.models.progress import Progress
from phalanx.models.sources import Access, fetch

Converters = Mapping[str, Callable[[Path], list[str]]]


def collect(
    entry: Entry, workspace: Path, *, sources: Sequence[Source], progress: Progress, access: Access
) -> list[str]:
    """Bring the files of an entry that a workspace lacks, source after source; return those that gave
    any.

    Raises `UpstreamFailed` with what each source said when files are still missing, `Unavailable` on a
    full disk.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    for leftover in workspace.glob(".pip-*"):
        shutil.rmtree(leftover)
    missing = {file: pin for file, pin in entry.files.items() if mismatch(workspace / file, pin)}
    require_space(workspace, sum(pin.size for pin in missing.values()))
    used, said = [], []
    for source in sources:
        if not paths_in(source, missing):
            continue
        progress.note(f"{entry.name}: from {source}")
        try:
            fetch(source, missing, workspace, progress=progress, access=access)
        except UpstreamFailed as failure:
            said.append(f"{source}: {failure.detail}")
            progress.note(f"{entry.name}: {failure.detail}")
        still = {file: pin for file, pin in missing.items() if mismatch(workspace / file, pin)}
        if len(still) < len(missing):
            used.append(str(source))
        missing = still
    if missing:
        raise UpstreamFailed(f"{entry.name}: no source gave {', '.join(missing)}. " + ". ".join(said))
    return used


def manifest_of(entry: Entry, sources: list[str]) -> Manifest:
    """Return the manifest of an entry's version, with nothing derived yet."""
    return Manifest(
        name=entry.name,
        version=entry.pinned_version,
        task=entry.task,
        licence=entry.licence,
        primary=entry.primary,
        files=entry.files,
        sources=sources,
        made_at=datetime.now(UTC),
        made_by=f"phalanx {__version__}",
        dimensions=entry.dimensions,
        conversion=entry.conversion,
        text=entry.text,
        detection=entry.detection,
        face=entry.face,
    )


def publish(
    layout: Layout, manifest: Manifest, workspace: Path, *, converters: Converters, progress: Progress
) -> Manifest:
    """Derive what the conversion makes of the workspace's files, then publish; return the full manifest."""
    if manifest.conversion is not None:
        derived = derive(manifest.conversion, workspace, converters, progress)
        manifest = msgspec.structs.replace(manifest, derived=derived)
    layout.publish(workspace, manifest)
    return manifest


def derive(conversion: str, folder: Path, converters: Converters, progress: Progress) -> dict[str, Pin]:
    """Run a conversion in a folder and return the pins of the files it wrote.

    Raises `Unavailable` if unknown.
    """
    if conversion not in converters:
        known = ", ".join(sorted(converters)) or "none"
        raise Unavailable(f"the model needs the conversion {conversion!r}; this version of Phalanx has: {known}")
    progress.note(f"converting ({conversion})")
    return {file: pin_of(folder / file) for file in converters[conversion](folder)}


def reuse(files: Mapping[str, Pin], origin: Path, workspace: Path) -> None:
    """Copy those files of another folder into a workspace that are as pinned.

    Copies, since with links a byte that goes wrong in one version would go wrong in the other.
    """
    for file, pin in files.items():
        if mismatch(origin / file, pin) is None and mismatch(workspace / file, pin):
            copy(origin / file, workspace / file)


def copy(origin: Path, target: Path) -> None:
    """Copy a file, making the folder it goes to."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(origin, target)


def require_space(folder: Path, needed: int) -> None:
    """Raise `Unavailable` unless the file system of a folder has `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Unavailable(f"{folder} has {free:,} bytes free, {needed:,} are needed; make room or set MODEL_DIR")
