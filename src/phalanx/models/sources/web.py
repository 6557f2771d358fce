"""Downloads over HTTP(S) that survive a bad line: resumed by range, retried with backoff, verified by pin."""

from __future__ import annotations

import http.client
import ipaddress
import random
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from typing import IO, Any, NoReturn
from urllib.parse import urlsplit

from phalanx import __version__
from phalanx.errors import UpstreamFailed
from phalanx.models.pins import Arriving, Pin, WrongBytes
from phalanx.models.progress import Progress, read_chunks

TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
LONGEST_PAUSE_S = 30.0


class _Transient(Exception):
    """An attempt failed in a way that another one may not."""

    def __init__(self, reason: str, *, pause_s: float = 0.0) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


class Downloader:
    """Downloads pinned files. Up to `attempts` in a row may bring nothing; pauses double from `pause_s`.

    Proxies are the environment's, except for loopback addresses. `timeout_s` bounds each wait for bytes.
    """

    def __init__(
        self,
        *,
        attempts: int = 5,
        pause_s: float = 0.5,
        timeout_s: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._attempts = attempts
        self._pause_s = pause_s
        self._timeout_s = timeout_s
        self._sleep = sleep

    def download(
        self, url: str, target: Path, pin: Pin, *, name: str, progress: Progress, token: str | None = None
    ) -> None:
        """Bring `url` to `target`; what an interrupted download of the same address left is gone on with.

        `token` is sent to the address's own origin only. Raises `UpstreamFailed` when it is refused or stays
        unreachable, `WrongBytes` when the file there is another one.
        """
        require_safe(url)
        with Arriving(target, pin, name=name) as arriving:
            left_over = arriving.received > 0
            try:
                self._complete(_Transfer(url, arriving, progress, token, self._timeout_s), arriving, progress)
                return
            except WrongBytes as refusal:
                if not left_over:
                    raise
                progress.note(f"{refusal.detail}; beginning anew")
        # A part that outlived a power cut may hold what was never written, so the source is not to blame yet.
        with Arriving(target, pin, name=name, afresh=True) as arriving:
            self._complete(_Transfer(url, arriving, progress, token, self._timeout_s), arriving, progress)

    def _complete(self, transfer: _Transfer, arriving: Arriving, progress: Progress) -> None:
        fruitless, complete = 0, transfer.complete
        while not complete:
            received = arriving.received
            try:
                transfer.attempt()
                complete = True
            except _Transient as failure:
                fruitless = 1 if arriving.received > received else fruitless + 1
                self._pause(fruitless, failure, arriving.name, progress)
        transfer.commit()

    def _pause(self, fruitless: int, failure: _Transient, name: str, progress: Progress) -> None:
        if fruitless >= self._attempts:
            raise UpstreamFailed(f"{name}: {failure}; given up after {fruitless} attempts") from failure
        spread = random.uniform(0.75, 1.25)  # noqa: S311 (keeps many workers from asking in step; no secret)
        pause_s = min(LONGEST_PAUSE_S, max(failure.pause_s, self._pause_s * 2 ** (fruitless - 1) * spread))
        progress.note(f"{name}: {failure}; trying again in {pause_s:.1f} s")
        self._sleep(pause_s)


class _Transfer:
    """One file on its way: what is there already, and the validator under which the rest may be asked for."""

    def __init__(self, url: str, arriving: Arriving, progress: Progress, token: str | None, timeout_s: float) -> None:
        self._url = url
        self._host = urlsplit(url).netloc
        self._arriving = arriving
        self._progress = progress
        self._token = token
        self._timeout_s = timeout_s
        self._validator = arriving.part.with_name(arriving.part.name.removesuffix(".part") + ".etag")

    @property
    def complete(self) -> bool:
        return self._arriving.received == self._arriving.pin.size and bool(self._etag())

    def commit(self) -> None:
        self._validator.unlink(missing_ok=True)
        self._arriving.commit()

    def attempt(self) -> None:
        """Ask once and take what comes. Raises `_Transient`, `UpstreamFailed`, `WrongBytes`."""
        size = self._arriving.pin.size
        try:
            with self._ask() as response:
                self._accept(response)
                for chunk in self._body(response):
                    self._arriving.write(chunk)
        finally:
            self._progress.finish()
        if self._arriving.received < size:
            raise _Transient(f"the connection ended after {self._arriving.received} of {size} bytes")

    def _ask(self) -> http.client.HTTPResponse:
        try:
            return self._open()
        except urllib.error.HTTPError as error:
            with error:
                self._explain(error)
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise UpstreamFailed(f"{self._host} shows no trusted certificate: {error.reason}") from error
            raise _Transient(f"{self._host} cannot be reached ({error.reason})") from error
        except (OSError, http.client.HTTPException) as error:
            raise _Transient(f"{self._host} broke the connection ({error!r})") from error

    def _body(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        try:
            yield from read_chunks(response, self._progress)
        except (OSError, http.client.HTTPException) as error:
            raise _Transient(f"{self._host} broke the connection ({error!r})") from error

    def _open(self) -> http.client.HTTPResponse:
        headers = {"User-Agent": f"phalanx/{__version__}", "Accept-Encoding": "identity"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        etag = self._etag()
        if self._arriving.received and not etag:
            self._arriving.restart()
        if self._arriving.received:
            headers |= {"Range": f"bytes={self._arriving.received}-", "If-Range": etag}
        self._progress.start(self._arriving.name, self._arriving.pin.size)
        self._progress.advance(self._arriving.received)
        request = urllib.request.Request(self._url, headers=headers)  # noqa: S310 (require_safe allows http and https)
        proxies: list[Any] = [urllib.request.ProxyHandler({})] if is_loopback(self._url) else []
        opener = urllib.request.build_opener(_Redirects(self._refuse_linked), *proxies)
        response: http.client.HTTPResponse = opener.open(request, timeout=self._timeout_s)
        return response

    def _accept(self, response: http.client.HTTPResponse) -> None:
        """Check that the answer's body is what the `.part` lacks, starting over when it is the whole file."""
        size = self._arriving.pin.size
        if response.status == 206:
            if response.headers.get("Content-Range") != f"bytes {self._arriving.received}-{size - 1}/{size}":
                self._arriving.restart()
                raise _Transient(f"{self._host} answered another range than asked for")
            return
        if response.status != 200:
            raise UpstreamFailed(f"{self._host} answered {response.status} for {self._arriving.name}")
        if self._arriving.received:
            self._arriving.restart()
            self._progress.start(self._arriving.name, size)
        if response.length is not None and response.length != size:
            self._arriving.refuse(f"at {self._host} has {response.length} bytes, not {size}")
        etag = response.headers.get("ETag", "")
        # A weak validator may stand for other bytes, so it is of no use for a range (RFC 9110, 13.1.5).
        self._validator.write_text("" if etag.startswith("W/") else f"{self._url}\n{etag}", encoding="utf-8")

    def _etag(self) -> str:
        if not self._validator.is_file():
            return ""
        url, _, etag = self._validator.read_text(encoding="utf-8").partition("\n")
        return etag if url == self._url else ""

    def _refuse_linked(self, headers: Message) -> None:
        """Refuse before the download what a hub's redirect says is another file."""
        size, pin = headers.get("X-Linked-Size", ""), self._arriving.pin
        if size.isdecimal() and int(size) != pin.size:
            self._arriving.refuse(f"at {self._host} has {size} bytes, not {pin.size}")
        digest = headers.get("X-Linked-Etag", "").strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", digest) and digest != pin.sha256:
            self._arriving.refuse(f"at {self._host} has sha256 {digest}, not {pin.sha256}")

    def _explain(self, error: urllib.error.HTTPError) -> NoReturn:
        said = error.headers.get("X-Error-Message") or error.headers.get("X-Error-Code") or error.reason
        answer = f"{self._host} answered {error.code} ({said}) for {self._arriving.name}"
        if error.code == 416:
            self._arriving.restart()
            raise _Transient(answer)
        if error.code in TRANSIENT_STATUS:
            after = error.headers.get("Retry-After", "")
            raise _Transient(answer, pause_s=float(after) if after.isdecimal() else 0.0)
        if error.code in (401, 403):
            had = "the token sent does not open it" if self._token else "no token was sent"
            answer += f"; {had}: accept the model's terms there and set a token of that account"
        raise UpstreamFailed(answer) from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to safe addresses, shows their headers to `inspect`, leaves credentials behind."""

    def __init__(self, inspect: Callable[[Message], None]) -> None:
        self._inspect = inspect

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        self._inspect(headers)
        require_safe(newurl)
        following = super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
        if following and urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            following.remove_header("Authorization")
        return following


def is_loopback(url: str) -> bool:
    """Return whether an address names this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_safe(url: str) -> None:
    """Raise `UpstreamFailed` unless an address is https, or http on loopback."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(url)):
        raise UpstreamFailed(f"{parts.scheme}://{parts.netloc} is refused; use https (http on loopback only)")
