"""A server as a child process that can be stopped, killed and started again on the same data and port."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from servers.watchdog import watch

START_S = 30.0


def free_port() -> int:
    """Return a port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """See the module. Subclasses say how the command looks and when the server answers."""

    account: str | None = None
    """The system user that runs the server when the tests run as root."""

    end = signal.SIGKILL
    """The quickest signal after which nothing is left behind."""

    def __init__(self) -> None:
        self.port = free_port()
        # Not under pytest's own folder, which another user may not enter.
        self.folder = Path(tempfile.mkdtemp(prefix=f"phalanx-{type(self).__name__.lower()}-"))
        if self.user is not None:
            entry = pwd.getpwnam(self.user)
            os.chown(self.folder, entry.pw_uid, entry.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def user(self) -> str | None:
        """Whom to become; None to stay who we are."""
        return self.account if os.geteuid() == 0 else None

    def command(self) -> list[str]:
        """Return the command that serves in the foreground."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether the server serves."""
        raise NotImplementedError

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it serves."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), user=self.user, group=self.user, extra_groups=[] if self.user else None,
                cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        watch(self._process.pid, self.folder)
        deadline = time.monotonic() + START_S
        while not self.answers():
            if not self.is_running or time.monotonic() > deadline:
                raise RuntimeError(f"{self.command()[0]} did not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGINT) -> None:
        """End the server and wait for its end; SIGKILL takes the children along."""
        if self._process is None:
            return
        if self.is_running:
            if number == signal.SIGKILL:
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)
        self._process.wait(START_S)
        self._process = None

    def kill(self) -> None:
        """End the server at once, without a chance to write anything."""
        self.stop(signal.SIGKILL)

    def remove(self) -> None:
        """End the server and delete its data."""
        try:
            self.stop(self.end)
        except subprocess.TimeoutExpired:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def program(name: str, *folders: Path) -> str:
    """Return a program's path. Raises RuntimeError that says how to get it."""
    found = shutil.which(name) or next((str(f / name) for f in folders if (f / name).is_file()), None)
    if found is None:
        raise RuntimeError(f"{name} is not installed; run: make servers")
    return found


def run_as(user: str | None, *command: str, cwd: Path) -> None:
    """Run a command to its end as another user."""
    subprocess.run(
        command, check=True, capture_output=True, cwd=cwd, user=user, group=user, extra_groups=[] if user else None
    )
