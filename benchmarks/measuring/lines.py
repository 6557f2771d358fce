"""Another process spoken to in lines: one JSON object there, one back. Only the standard library: peers import it too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

Handler = Callable[..., dict[str, Any]]


class LineError(RuntimeError):
    """The other process could not do what it was asked; the text says why."""


class LineProcess:
    """The asking side. Use it as a context manager: leaving ends the process."""

    def __init__(self, argv: Sequence[str | Path], environ: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(environ) if environ else None
        )

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ask(self, command: str, **fields: Any) -> dict[str, Any]:
        """Send a command and wait for its answer. Raises `LineError`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"command": command, **fields}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise LineError(f"the process ended with status {self._process.wait()} when asked to {command}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LineError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process: it leaves when its input ends."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> LineProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def answer_lines(handlers: Mapping[str, Handler]) -> None:
    """Answer commands until the input ends: the other side's main loop.

    Libraries that print would break the lines, so file descriptor 1 is turned to stderr first.
    """
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        message = json.loads(line)
        try:
            answer = handlers[message.pop("command")](**message)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=out, flush=True)
