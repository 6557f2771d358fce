"""Ends what a killed test process has started and could not end itself: a process of its own, which reads a pipe.

Not PR_SET_PDEATHSIG: it is about the thread that started the child, and some are started by a thread that ends sooner.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import sys
from pathlib import Path


@functools.cache
def _pipe() -> int:
    """Start the watchdog; the pipe closes with this process, however it ends."""
    theirs, ours = os.pipe()
    words = [sys.executable, "-I", "-S", __file__]
    os.posix_spawn(
        sys.executable, words, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 0)], setsid=True
    )  # fmt: skip
    os.close(theirs)
    return ours


def watch(pid: int, folder: Path | None = None) -> None:
    """Have a child killed, and a folder deleted, when this process is gone. The child must not have been waited for yet."""
    os.write(_pipe(), f"{pid} {folder or ''}\n".encode())


def _main() -> None:
    processes: list[int] = []
    folders = set()
    for line in sys.stdin:
        pid, _, folder = line.rstrip("\n").partition(" ")
        folders.add(folder)
        for process in [process for process in processes if not _send(process, 0)]:
            processes.remove(process)
            os.close(process)
        with contextlib.suppress(ProcessLookupError):
            # It goes on meaning this process when another has got its number.
            processes.append(os.pidfd_open(int(pid)))
    for process in processes:
        _send(process, signal.SIGKILL)
    for folder in folders - {""}:
        shutil.rmtree(folder, ignore_errors=True)


def _send(process: int, number: int) -> bool:
    """Send a signal; returns whether there was anybody to have it."""
    try:
        signal.pidfd_send_signal(process, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    _main()
