"""A worker that kills itself at a named point: `python killing.py POINT PASS serve`.

The product knows nothing of this: its functions are wrapped, and its statements watched, from outside, before it starts.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

GATE = "phalanx.services.gate:Gate"
LEDGER = "phalanx.stores.sql.usage:SqlUsageLog"
SEGMENT = "phalanx.stores.files.segment:Segment"
KEYS = "phalanx.stores.sql.keys:SqlKeyStore"
SESSIONS = "phalanx.stores.sql.sessions:SqlSessionStore"

Pass = Callable[[], None]
_inside: ContextVar[bool] = ContextVar("inside", default=False)


def before(target: str) -> Callable[[Pass], None]:
    """Pass just before a function runs."""
    return lambda note: _wrap(target, first=note)


def after(target: str) -> Callable[[Pass], None]:
    """Pass once a function has returned, not when it raises."""
    return lambda note: _wrap(target, last=note)


def before_statement(*words: str) -> Callable[[Pass], None]:
    """Pass before a statement with all these words is sent to the database: what came before it is not committed yet."""

    def install(note: Pass) -> None:
        def look(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if all(word in statement for word in words):
                note()

        event.listen(Engine, "before_cursor_execute", look)

    return install


def before_commit_of(target: str) -> Callable[[Pass], None]:
    """Pass when a function has said all it has to say to the database, but not that it shall stay."""

    def install(note: Pass) -> None:
        _wrap(target, around=_mark)
        event.listen(Engine, "commit", lambda _connection: note() if _inside.get() else None)

    return install


POINTS: dict[str, Callable[[Pass], None]] = {
    "after-admit": after(f"{GATE}.admit"),
    "after-reserve": after(f"{GATE}.reserve"),
    "before-journal": before(f"{SEGMENT}.append"),
    "after-journal": after(f"{SEGMENT}.append"),
    "after-settle": after(f"{GATE}.settle"),
    "before-flush": before(f"{LEDGER}.record"),
    "between-events-and-sums": before_statement("INSERT INTO usage_daily (day"),
    "before-ledger-commit": before_commit_of(f"{LEDGER}.record"),
    "after-ledger-commit": before(f"{SEGMENT}.remove"),
    "before-rotation-commit": before_commit_of(f"{KEYS}.rotate"),
    "after-rotation-commit": after(f"{KEYS}.rotate"),
    "before-refresh-commit": before_commit_of(f"{SESSIONS}.advance"),
    "after-refresh-commit": after(f"{SESSIONS}.advance"),
}
"""Where a worker can be told to end."""


def arm(point: str, passes: int) -> None:
    """End this process by SIGKILL when it passes a point for the given time."""
    left = passes

    def note() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    POINTS[point](note)


def command(point: str, passes: int) -> list[str]:
    """Return the command of a worker that ends itself."""
    return [sys.executable, str(Path(__file__).resolve()), point, str(passes), "serve"]


def _nothing() -> None:
    pass


@contextmanager
def _mark() -> Iterator[None]:
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)


@contextmanager
def _plain() -> Iterator[None]:
    yield


def _wrap(target: str, *, first: Pass = _nothing, last: Pass = _nothing, around: Callable[[], Any] = _plain) -> None:
    """Wrap a method, named as `module:Class.method`."""
    module, _, path = target.partition(":")
    owner = getattr(importlib.import_module(module), path.split(".")[0])
    name = path.split(".")[1]
    function = getattr(owner, name)

    @functools.wraps(function)
    async def waited(*arguments: Any, **named: Any) -> Any:
        first()
        with around():
            result = await function(*arguments, **named)
        last()
        return result

    @functools.wraps(function)
    def called(*arguments: Any, **named: Any) -> Any:
        first()
        with around():
            result = function(*arguments, **named)
        last()
        return result

    setattr(owner, name, waited if inspect.iscoroutinefunction(function) else called)


if __name__ == "__main__":
    from phalanx.cli import main

    arm(sys.argv[1], int(sys.argv[2]))
    sys.argv = ["phalanx", *sys.argv[3:]]
    main()
