"""The model store: which models are here, which of their versions is active, and every change to that.

A change is one rename, so a reader sees all of it or nothing, and a worker notices it by the pointer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from phalanx import __version__
from phalanx.errors import Conflict, InvalidRequest, NotFound, Unavailable
from phalanx.models.bundle import Bundle, open_bundle, require_as_catalogued, write_bundle
from phalanx.models.catalogue import Catalogue, Entry, Source, load_catalogue, version_name
from phalanx.models.install import Converters, collect, copy, manifest_of, publish, reuse
from phalanx.models.layout import Layout, Manifest, Pointer, VersionName, Weighted
from phalanx.models.pins import mismatch, pin_of
from phalanx.models.progress import Progress, Silent
from phalanx.models.sources import Access
from phalanx.models.version import ActiveVersion, FileReport, Installed, Version, version_of


class ModelStore:
    """The models under one folder. A name may be an alias, such as the hub's id, everywhere.

    Methods that change anything hold the model's lock, wait while another process has it, and raise
    `Unavailable` when the folder cannot be written. Reading needs neither lock nor write access. Only
    `pull` uses the network, and not even that when the model is here. Every method that takes a name
    raises `ModelNotFound` for an unknown one.
    """

    def __init__(
        self,
        root: Path,
        *,
        catalogue: Catalogue | None = None,
        converters: Converters | None = None,
        access: Access | None = None,
    ) -> None:
        self.catalogue = catalogue or load_catalogue()
        self._layout = Layout(root)
        self._converters = converters
        self._access = access or Access()

    def pull(
        self,
        name: str,
        *,
        progress: Progress | None = None,
        force: bool = False,
        source: Source | None = None,
    ) -> Version:
        """Make the catalogue's version of a model present and whole, and active if the model has none active.

        What is here and verified is not fetched. Intact files of a damaged version, and what an
        interrupted pull left, are used again, unless `force`, which begins from nothing. `source` is
        asked instead of the catalogue's. Raises `UpstreamFailed` with what every source said, `Unavailable`
        on a full disk.
        """
        entry, progress = self.catalogue.get(name), progress or Silent()
        if not force and self._has_active(entry.name) and (manifest := self._intact(entry, Silent())):
            progress.note(f"{entry.name}: version {entry.pinned_version} is here and verified")
            return self._version(manifest)
        return self._bring(entry, [source] if source else entry.sources, force, progress)

    def add(self, entry: Entry, *, progress: Progress | None = None) -> Version:
        """Make a model of the user's own present, and active if there is none active of its name.

        Another file under the same name is another version. Raises `Conflict` when the name is the catalogue's, or
        that of a model for another task, `UpstreamFailed` when its file cannot be read.
        """
        if known := self.catalogue.find(entry.name):
            raise Conflict(f"{entry.name!r} means {known.name} of the catalogue; give yours another name")
        for version in self.versions(entry.name) if entry.name in self._layout.names() else []:
            if version.task != entry.task:
                raise Conflict(f"{entry.name!r} is a model for {version.task} here; give yours another name")
        return self._bring(entry, entry.sources, False, progress or Silent())

    def _bring(self, entry: Entry, sources: list[Source], force: bool, progress: Progress) -> Version:
        with self._layout.locked(entry.name, progress):
            manifest = None if force else self._intact(entry, progress)
            if manifest:
                progress.note(f"{entry.name}: version {entry.pinned_version} is here and verified")
            manifest = manifest or self._install(entry, sources, force, progress)
            if not self._has_active(entry.name):
                self._point(entry.name, [Weighted(manifest.version)], previous=[])
        return self._version(manifest)

    def _install(self, entry: Entry, sources: list[Source], force: bool, progress: Progress) -> Manifest:
        workspace = self._layout.workspace(entry.name, entry.pinned_version)
        if force:
            self._layout.clear(workspace)
        else:
            reuse(entry.files, self._layout.version_folder(entry.name, entry.pinned_version), workspace)
        used = collect(entry, workspace, sources=sources, progress=progress, access=self._access)
        return self._publish(manifest_of(entry, used or ["files that were here"]), workspace, progress)

    def _intact(self, entry: Entry, progress: Progress) -> Manifest | None:
        """Return the manifest of the catalogue's version if that is here with every byte right."""
        if entry.pinned_version not in self._layout.versions(entry.name):
            return None
        try:
            manifest = self._layout.read_manifest(entry.name, entry.pinned_version)
        except Unavailable as error:
            progress.note(error.detail)
            return None
        damaged = [report for report in self._check(manifest) if report.problem]
        for report in damaged:
            progress.note(f"{entry.name}: {report.file} {report.problem}; repairing")
        return None if damaged or manifest.files != entry.files else manifest

    def _publish(self, manifest: Manifest, workspace: Path, progress: Progress) -> Manifest:
        converters = self._converters or {}
        if self._converters is None and manifest.conversion:
            # Converters bring the onnx library along, which a worker that only serves never needs.
            from phalanx.models.conversion import CONVERTERS

            converters = CONVERTERS
        return publish(self._layout, manifest, workspace, converters=converters, progress=progress)

    def versions(self, name: str) -> list[Version]:
        """Return the versions of a model that are here, oldest first."""
        name = self._name(name)
        manifests = [self._layout.read_manifest(name, version) for version in self._layout.versions(name)]
        return [self._version(one) for one in sorted(manifests, key=lambda manifest: manifest.made_at)]

    def models(self) -> list[Installed]:
        """Return every model of the catalogue or of the store, by name."""
        entries = {entry.name: entry for entry in self.catalogue}
        return [
            Installed(name, entries.get(name), self.versions(name), self._layout.read_pointer(name))
            for name in sorted({*entries, *self._layout.names()})
        ]

    def pointer(self, name: str) -> Pointer | None:
        """Return which versions of a model are active, None if none is."""
        return self._layout.read_pointer(self._name(name))

    def active(self, name: str) -> Version:
        """Return the active version, of several the one with most weight.

        Raises `Unavailable` saying what to run.
        """
        return max(self.active_versions(name), key=lambda one: one.weight).version

    def active_versions(self, name: str) -> list[ActiveVersion]:
        """Return the active versions with their weights, in the pointer's order; at least one.

        Raises `Unavailable` saying what to run.
        """
        name = self._name(name)
        pointer = self._layout.read_pointer(name)
        if pointer is None:
            raise Unavailable(f"the model {name} is not here; run: phalanx models pull {name}")
        here = self._layout.versions(name)
        for one in pointer.versions:
            if one.version not in here:
                raise Unavailable(f"version {one.version} of {name} is gone; run: phalanx models pull {name}")
        return [
            ActiveVersion(self._version(self._layout.read_manifest(name, one.version)), one.weight)
            for one in pointer.versions
        ]

    def version(self, name: str, version: str) -> Version:
        """Return one version of a model. Raises `NotFound`, `Unavailable` when it is damaged."""
        name = self._name(name)
        return self._version(self._manifest(name, version))

    def pointer_marks(self) -> dict[str, tuple[int, int]]:
        """Return, for every model that has an active version, a mark that changes whenever that does.

        It costs one look at each pointer's metadata: nothing is read.
        """
        return self._layout.pointer_marks()

    def verify(self, name: str, version: str | None = None) -> list[FileReport]:
        """Read every file of one version, or of all, and compare it with its pin; one report a file.

        Raises `NotFound` when there is no such version, `Unavailable` when the model is not here at all.
        """
        name = self._name(name)
        chosen = [version] if version else self._layout.versions(name)
        if not chosen:
            raise Unavailable(f"the model {name} is not here; run: phalanx models pull {name}")
        return [report for one in chosen for report in self._check(self._manifest(name, one))]

    def activate(self, name: str, version: str) -> Version:
        """Send all traffic to a version, which is verified first.

        Raises `NotFound`, `Conflict` when it is damaged.
        """
        (active,) = self.activate_shares(name, {version: 1.0})
        return active.version

    def activate_shares(self, name: str, weights: Mapping[str, float]) -> list[ActiveVersion]:
        """Share callers out among versions by weight, each of which is verified first.

        Raises `NotFound`, `Conflict` when one is damaged, `InvalidRequest` for a weight that is not above 0, or none.
        """
        name = self._name(name)
        if not weights:
            raise InvalidRequest("name at least one version")
        for version, weight in weights.items():
            if not (math.isfinite(weight) and weight > 0):
                raise InvalidRequest(f"the weight of {version} is {weight:g}; it must be more than 0")
        with self._layout.locked(name, Silent()):
            manifests = [self._manifest(name, version) for version in weights]
            for manifest in manifests:
                for report in self._check(manifest):
                    if report.problem:
                        raise Conflict(
                            f"version {manifest.version} of {name} is damaged: {report.file} {report.problem}"
                        )
            try:
                pointer = self._layout.read_pointer(name)
            except Unavailable:
                pointer = None
            chosen = [Weighted(version, weight) for version, weight in weights.items()]
            if pointer is None or pointer.versions != chosen:
                self._point(name, chosen, previous=pointer.versions if pointer else [])
        return [
            ActiveVersion(self._version(manifest), weight)
            for manifest, weight in zip(manifests, weights.values(), strict=True)
        ]

    def rollback(self, name: str) -> Version:
        """Go back to what was active before; a second time comes forward again.

        Raises `Conflict` when it cannot.
        """
        name = self._name(name)
        with self._layout.locked(name, Silent()):
            pointer = self._layout.read_pointer(name)
            if pointer is None or not pointer.previous:
                raise Conflict(f"{name} has no earlier active version to go back to")
            gone = [one.version for one in pointer.previous if one.version not in self._layout.versions(name)]
            if gone:
                raise Conflict(f"version {', '.join(gone)} of {name} was removed; there is nothing to go back to")
            self._point(name, pointer.previous, previous=pointer.versions)
        return self.active(name)

    def remove(self, name: str, version: str, *, force: bool = False) -> None:
        """Remove a version.

        Raises `NotFound`, and `Conflict` when it is active, unless `force`, which deactivates.
        """
        name = self._name(name)
        with self._layout.locked(name, Silent()):
            self._require(name, version)
            pointer = self._layout.read_pointer(name)
            if pointer and any(one.version == version for one in pointer.versions):
                if not force:
                    raise Conflict(f"version {version} of {name} is active; activate another one first, or use --force")
                kept = [one for one in pointer.versions if one.version != version]
                self._point(name, kept, previous=pointer.previous)
            self._layout.discard(name, version)

    def export(self, name: str, path: Path, *, version: str | None = None, progress: Progress | None = None) -> Path:
        """Write a version, by default the active one, as a bundle: to a file, or into a folder.

        Raises `Unavailable` when the model is not here, `Conflict` when it is damaged or the file exists
        already.
        """
        found = self._manifest(self._name(name), version or self.active(name).version)
        for report in self._check(found):
            if report.problem:
                raise Conflict(f"version {found.version} of {found.name}: {report.file} {report.problem}")
        if path.is_dir():
            path = path / f"{found.name}-{found.version}.tar"
        write_bundle(found, self._folder(found), path, progress=progress or Silent())
        return path

    def import_bundle(self, path: Path, *, progress: Progress | None = None) -> Version:
        """Add the version that a bundle holds, active if the model has none active. Twice is harmless.

        Raises `NotFound`, and `UnreadableInput` when the bundle is damaged, holds what its manifest does
        not say, or differs from the catalogue.
        """
        progress = progress or Silent()
        with open_bundle(path) as bundle:
            name = bundle.manifest.name
            require_as_catalogued(bundle.manifest, self.catalogue)
            with self._layout.locked(name, progress):
                manifest = self._imported(bundle, path, progress)
                if not self._has_active(name):
                    self._point(name, [Weighted(manifest.version)], previous=[])
        return self._version(manifest)

    def _imported(self, bundle: Bundle, path: Path, progress: Progress) -> Manifest:
        brought = bundle.manifest
        if brought.version in self._layout.versions(brought.name):
            here = self._layout.read_manifest(brought.name, brought.version)
            if here.files == brought.files and not any(report.problem for report in self._check(here)):
                progress.note(f"{here.name}: version {here.version} is here and verified")
                return here
        workspace = self._layout.workspace(brought.name, f"{brought.version}.import")
        self._layout.clear(workspace)
        entry = None if brought.variant_of else self.catalogue.find(brought.name)
        said = manifest_of(entry, [f"bundle:{path.name}"]) if entry else brought
        try:
            bundle.extract(workspace, progress=progress)
            return self._publish(said, workspace, progress)
        finally:
            self._layout.clear(workspace)

    def add_variant(
        self, name: str, version: str, suffix: str, files: Mapping[str, Path], *, primary: str = "model.onnx"
    ) -> Version:
        """Make a version of another one's files, without its weights and graph, and of `files` by name.

        `primary` is the file of `files` that holds the weights; the version is named after it and
        `suffix`. It is not activated. Raises `NotFound`, `Conflict` when it exists, `InvalidRequest` for
        a bad suffix or primary.
        """
        name = self._name(name)
        if primary not in files:
            raise InvalidRequest(f"the variant's primary file {primary!r} is none of: {', '.join(files)}")
        origin = self._manifest(name, version)
        kept = {file: pin for file, pin in origin.files.items() if file != origin.primary and file not in files}
        pins = kept | {file: pin_of(path) for file, path in files.items()}
        made = _convert_version(version_name(pins[primary].sha256, suffix))
        manifest = msgspec.structs.replace(
            origin,
            version=made,
            variant_of=version,
            primary=primary,
            files=pins,
            derived={},
            conversion=None,
            sources=[f"variant:{version}"],
            made_at=datetime.now(UTC),
            made_by=f"phalanx {__version__}",
        )
        with self._layout.locked(name, Silent()):
            if made in self._layout.versions(name):
                raise Conflict(f"version {made} of {name} exists already")
            workspace = self._layout.workspace(name, made)
            self._layout.clear(workspace)
            reuse(kept, self._folder(origin), workspace)
            for file, path in files.items():
                copy(path, workspace / file)
            return self._version(self._publish(manifest, workspace, Silent()))

    def _name(self, name: str) -> str:
        if entry := self.catalogue.find(name):
            return entry.name
        return name if name in self._layout.names() else self.catalogue.get(name).name

    def _has_active(self, name: str) -> bool:
        pointer = self._layout.read_pointer(name)
        return pointer is not None and any(one.version in self._layout.versions(name) for one in pointer.versions)

    def _point(self, name: str, versions: list[Weighted], *, previous: list[Weighted]) -> None:
        pointer = Pointer(versions=versions, previous=previous, changed_at=datetime.now(UTC)) if versions else None
        self._layout.write_pointer(name, pointer)

    def _check(self, manifest: Manifest) -> list[FileReport]:
        folder = self._folder(manifest)
        return [
            FileReport(manifest.version, file, pin, mismatch(folder / file, pin)) for file, pin in manifest.pins.items()
        ]

    def _require(self, name: str, version: str) -> None:
        versions = self._layout.versions(name)
        if version not in versions:
            here = ", ".join(versions) or "none"
            raise NotFound(f"there is no version {version!r} of {name} here; there are: {here}")

    def _manifest(self, name: str, version: str) -> Manifest:
        self._require(name, version)
        return self._layout.read_manifest(name, version)

    def _folder(self, manifest: Manifest) -> Path:
        return self._layout.version_folder(manifest.name, manifest.version)

    def _version(self, manifest: Manifest) -> Version:
        return version_of(manifest, self._folder(manifest))


def _convert_version(text: str) -> str:
    try:
        return msgspec.convert(text, VersionName)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{text!r} is no name of a variant; its suffix is like 'int8'") from error
