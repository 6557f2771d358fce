"""A hub of our own on loopback, entries made of any bytes, and a listener that remembers."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from phalanx.models.catalogue import Catalogue, Entry, Licence, Source, TextSettings
from phalanx.models.pins import Pin

FILES = {"model.safetensors": bytes(range(256)) * 4000, "config.json": b'{"model_type": "bert"}'}


@dataclass
class Fault:
    """How the next answer for a file goes wrong, once."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    hold: threading.Event | None = None


@dataclass
class Asked:
    """One request that reached a server: which of the two, for what, with which headers."""

    server: str
    path: str
    headers: Mapping[str, str]


class Hub:
    """Speaks the hub's protocol: `resolve` redirects large files to a second origin, which serves ranges."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = dict(FILES)
        self.revision = "abc123"
        self.faults: dict[str, list[Fault]] = {}
        self.asked: list[Asked] = []
        self.etag: str | None = '"v1"'
        self.ranges = True
        self.linked: dict[str, str] = {}
        self.token: str | None = None
        self.far = self._serve("far", self._answer_file)
        self.near = self._serve("near", self._answer_resolve)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.near.server_port}"

    @property
    def files_url(self) -> str:
        return f"http://127.0.0.1:{self.far.server_port}/files"

    def fetches(self, file: str) -> list[Asked]:
        """Requests for a file's bytes."""
        return [one for one in self.asked if one.server == "far" and urlsplit(one.path).path.endswith(f"/{file}")]

    def close(self) -> None:
        for server in (self.near, self.far):
            server.shutdown()
            server.server_close()

    def _serve(self, name: str, answer: Callable[[BaseHTTPRequestHandler, str], None]) -> ThreadingHTTPServer:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append(Asked(name, self.path, dict(self.headers)))
                answer(self, urlsplit(self.path).path)

            def log_message(self, *args: object) -> None:
                return None

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return server

    def _answer_resolve(self, request: BaseHTTPRequestHandler, path: str) -> None:
        prefix = f"/org/model/resolve/{self.revision}/"
        file = path.removeprefix(prefix)
        if self.token and request.headers["Authorization"] != f"Bearer {self.token}":
            _head(
                request,
                401,
                {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to org/model is restricted"},
            )
        elif not path.startswith(prefix) or file not in self.files:
            _head(request, 404, {"X-Error-Code": "EntryNotFound"})
        else:
            content = self.files[file]
            linked = {
                "X-Linked-Size": str(len(content)),
                "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
            }
            _head(request, 302, {"Location": f"{self.files_url}/{file}?signed=1", **linked, **self.linked})

    def _answer_file(self, request: BaseHTTPRequestHandler, path: str) -> None:
        file = path.removeprefix("/files/")
        faults = self.faults.get(file, [])
        fault = faults.pop(0) if faults else Fault()
        content = self.files.get(file)
        if content is None or fault.status != 200:
            _head(request, 404 if content is None else fault.status, fault.headers)
            return
        start = 0
        if (wanted := request.headers["Range"]) and self.ranges and request.headers["If-Range"] == self.etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        headers = {"Content-Length": str(len(content) - start)}
        if self.etag:
            headers["ETag"] = self.etag
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        _head(request, 206 if start else 200, headers | fault.headers)
        request.wfile.write(content[start : fault.cut_after])
        if fault.hold:
            request.wfile.flush()
            fault.hold.wait(20)


def _head(request: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str]) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.end_headers()


class Remembering:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.transfers: list[tuple[str, int | None, int]] = []
        self._current: tuple[str, int | None] = ("", None)
        self._count = 0

    def note(self, message: str) -> None:
        self.notes.append(message)

    def start(self, file: str, total_bytes: int | None) -> None:
        self._current, self._count = (file, total_bytes), 0

    def advance(self, count: int) -> None:
        self._count += count

    def finish(self) -> None:
        self.transfers.append((*self._current, self._count))


def make_pins(files: Mapping[str, bytes]) -> dict[str, Pin]:
    return {name: Pin(size=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in files.items()}


def make_entry(
    sources: list[Source],
    files: Mapping[str, bytes] = FILES,
    *,
    name: str = "tiny",
    conversion: str | None = None,
) -> Entry:
    return Entry(
        name=name,
        summary="a model of the tests",
        task="text-embedding",
        licence=Licence(spdx="CC0-1.0", url="https://example.org/licence", notice="Made by the tests."),
        primary="model.safetensors",
        files=make_pins(files),
        sources=sources,
        aliases=[f"org/{name}"],
        dimensions=4,
        conversion=conversion,
        text=TextSettings(max_tokens=8, positions=16, pooling="mean", normalise=True),
    )


def make_catalogue(*entries: Entry) -> Catalogue:
    return Catalogue({entry.name: entry for entry in entries})


def write_files(folder: Path, files: Mapping[str, bytes] = FILES) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
