"""The model hub's protocol: `<endpoint>/<repository>/resolve/<revision>/<path>` redirects to the bytes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from phalanx.models.pins import Pin
from phalanx.models.progress import Progress
from phalanx.models.sources.web import Downloader


class Repository(NamedTuple):
    """One revision of a repository. The token goes to the endpoint only, never to where it redirects."""

    endpoint: str
    repository: str
    revision: str
    token: str | None

    def download(self, path: str, target: Path, pin: Pin, progress: Progress, downloader: Downloader) -> None:
        """Download one file. Raises as `Downloader.download`."""
        revision = quote(self.revision, safe="")
        address = f"{self.endpoint.rstrip('/')}/{self.repository}/resolve/{revision}/{quote(path)}"
        downloader.download(address, target, pin, name=path, progress=progress, token=self.token)
