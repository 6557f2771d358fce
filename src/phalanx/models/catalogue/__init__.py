"""The catalogue: one TOML file a model, saying what it is, which bytes make it and where they can be had."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from phalanx.errors import ModelNotFound, Unavailable
from phalanx.models.pins import Digest, FileName, Pin

ModelName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")]
Task = Literal["text-embedding", "face-detection", "face-embedding"]

SETTINGS_OF: Mapping[Task, str] = {"text-embedding": "text", "face-detection": "detection", "face-embedding": "face"}
"""Which field of an entry holds what the engine of each task must know."""


class InvalidCatalogue(Unavailable):
    """A catalogue file cannot be used; the detail names the file and the field."""


class Licence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Under what terms the weights may be used: an SPDX expression, where it says so, whom to name."""

    spdx: str
    url: str
    notice: str


class TextSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a text engine must know beside the weights.

    `max_tokens` is where the model's authors cut, `positions` how many it has, both with special tokens.
    `prompts` are prefixes by name. `normalise` says whether the model's own vectors have unit length.
    """

    max_tokens: Annotated[int, msgspec.Meta(ge=3)]
    positions: Annotated[int, msgspec.Meta(ge=3)]
    pooling: Literal["mean", "cls"]
    normalise: bool
    prompts: dict[str, str] = {}

    def __post_init__(self) -> None:
        if self.max_tokens > self.positions:
            raise ValueError(f"text.max_tokens {self.max_tokens} is over text.positions {self.positions}")


class DetectionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a face detector's engine must know beside the weights.

    `architecture` decides how its outputs are read, `input_size` is the side in pixels of the square that it looks
    at, `threshold` the score from which on something counts as a face.
    """

    architecture: Literal["blazeface-full-range", "blazeface-short-range", "yunet"]
    input_size: Annotated[int, msgspec.Meta(ge=32, le=2048)]
    threshold: Annotated[float, msgspec.Meta(gt=0, lt=1)]


class FaceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an engine of face vectors must know beside the weights.

    It takes a square of `input_size` pixels a side, with the face where `template` has it, channels in the order of
    `channels`; a level v of 0 to 255 is fed as `(v - offset) / scale`. Two vectors are of one person when their
    distance (`euclidean`) is at most, or their similarity (`cosine`) at least, `threshold`; `meaning` says what that
    was measured on.
    """

    input_size: Annotated[int, msgspec.Meta(ge=32, le=1024)]
    template: Literal["dlib", "arcface"]
    metric: Literal["euclidean", "cosine"]
    threshold: Annotated[float, msgspec.Meta(gt=-1, lt=100)]
    meaning: str
    channels: Literal["rgb", "bgr"] = "rgb"
    offset: float = 0.0
    scale: Annotated[float, msgspec.Meta(gt=0)] = 1.0

    def __post_init__(self) -> None:
        if self.metric == "cosine" and self.threshold >= 1:
            raise ValueError(f"face.threshold {self.threshold} is no cosine below 1")


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The platform of a wheel that is unpacked, never run, here; fields are pip's options of these names."""

    platform: str
    python_version: str
    implementation: str = "cp"
    abi: str | None = None


class PypiSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="pypi"):
    """Files inside one wheel or sdist of a package index; `members` maps each to its path in the archive."""

    requirement: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+]*\Z")]
    archive: Annotated[str, msgspec.Meta(pattern=r"^[^/\\]+\.(whl|zip|tar\.gz|tar\.bz2)\Z")]
    sha256: Digest
    members: Annotated[dict[FileName, str], msgspec.Meta(min_length=1)]
    size: Annotated[int, msgspec.Meta(ge=1)]
    target: Target | None = None

    def __str__(self) -> str:
        return f"pypi:{self.requirement}"


class HubSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="hf"):
    """Files of one revision of a hub repository; `members` maps each to its path there (empty: all)."""

    repository: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?\Z")]
    revision: Annotated[str, msgspec.Meta(pattern=r"^[\w.-]+\Z")] = "main"
    members: dict[FileName, str] = {}

    def __str__(self) -> str:
        return f"hf:{self.repository}@{self.revision}"


class WebSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="https"):
    """Files below an address, by name or by their path in `members`; plain http on loopback only."""

    url: Annotated[str, msgspec.Meta(pattern=r"^https?://[^\s]+\Z")]
    members: dict[FileName, str] = {}

    def __str__(self) -> str:
        return self.url


class FileSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="file"):
    """Files in a folder of this machine, or the one file that `path` is."""

    path: Annotated[str, msgspec.Meta(min_length=1)]
    members: dict[FileName, str] = {}

    def __str__(self) -> str:
        return f"file:{self.path}"


Source = PypiSource | HubSource | WebSource | FileSource


def paths_in(source: Source, files: Mapping[str, Pin]) -> dict[str, str]:
    """Return, for each of `files` that a source has, its path there."""
    members = source.members or {file: file for file in files}
    return {file: path for file, path in members.items() if file in files}


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model. Its version is named after the file `primary`; `conversion` says how to derive more."""

    name: ModelName
    summary: str
    task: Task
    licence: Licence
    primary: FileName
    files: dict[FileName, Pin]
    sources: Annotated[list[Source], msgspec.Meta(min_length=1)]
    aliases: list[str] = []
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    conversion: str | None = None
    text: TextSettings | None = None
    detection: DetectionSettings | None = None
    face: FaceSettings | None = None

    def __post_init__(self) -> None:
        if self.primary not in self.files:
            raise ValueError(f"primary {self.primary!r} is none of files: {', '.join(self.files)}")
        for task, field in SETTINGS_OF.items():
            if (getattr(self, field) is None) is (self.task == task):
                raise ValueError(f"{field} is for the task {task} and needed there; the task is {self.task}")
        if self.dimensions is None and self.task.endswith("embedding"):
            raise ValueError(f"dimensions is needed for the task {self.task}")
        for number, source in enumerate(self.sources):
            if strange := sorted(set(source.members) - set(self.files)):
                raise ValueError(f"sources[{number}].members names {', '.join(strange)}, none of files")
        reachable = {file for source in self.sources for file in paths_in(source, self.files)}
        if lost := sorted(set(self.files) - reachable):
            raise ValueError(f"sources: none of them has {', '.join(lost)}")

    @property
    def pinned_version(self) -> str:
        """The version's name: the first 12 digits of the primary file's SHA-256."""
        return version_name(self.files[self.primary].sha256)


def version_name(sha256: str, suffix: str | None = None) -> str:
    """Return a version's name: 12 hex digits of its primary file's SHA-256, for a variant with `-suffix`."""
    return sha256[:12] if suffix is None else f"{sha256[:12]}-{suffix}"


class Catalogue:
    """Entries by name and by alias."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = dict(entries)
        self._names = {name: name for name in entries}
        for entry in entries.values():
            for alias in entry.aliases:
                owner = self._names.setdefault(alias, entry.name)
                if owner != entry.name:
                    raise InvalidCatalogue(f"{entry.name}: aliases: {alias!r} means {owner} already")

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def find(self, name: str) -> Entry | None:
        """Return the entry of this name or alias, None if there is none."""
        return self._entries.get(self._names.get(name, ""))

    def get(self, name: str) -> Entry:
        """Return the entry of this name or alias. Raises `ModelNotFound`, with the nearest name."""
        if entry := self.find(name):
            return entry
        near = difflib.get_close_matches(name, self._names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(self._entries))}"
        raise ModelNotFound(f"there is no model {name!r} in the catalogue; {hint}", param="model")


def read_entry(path: Path) -> Entry:
    """Read one catalogue file. Raises `InvalidCatalogue` naming the file and the field."""
    try:
        entry = msgspec.toml.decode(path.read_bytes(), type=Entry)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidCatalogue(f"{path.name}: {error}") from error
    if path.stem != entry.name:
        raise InvalidCatalogue(f"{path.name}: name: is {entry.name!r}, but the file is named {path.stem!r}")
    return entry


def load_catalogue(folder: Path | None = None) -> Catalogue:
    """Read every `*.toml` of a folder, by default those that come with Phalanx. Raises `InvalidCatalogue`."""
    folder = folder or Path(__file__).parent
    entries = [read_entry(path) for path in sorted(folder.glob("*.toml"))]
    return Catalogue({entry.name: entry for entry in entries})
