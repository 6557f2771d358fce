"""What becomes of workers when their supervisor is killed, or stopped for a while."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from unit.supervisor.fake_supervisor import SILENCE_S
from unit.supervisor.fakes import WAIT_S, is_alive

SCRIPT = Path(__file__).with_name("fake_supervisor.py")


class Running(NamedTuple):
    """A supervisor in a process, with its port and its workers' ids."""

    process: subprocess.Popen[str]
    port: int
    pids: list[int]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    command = [sys.executable, str(SCRIPT), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        port, *pids = map(int, process.stdout.readline().split())
        yield Running(process, port, pids)
        process.kill()
    wait_for_end(pids)


def wait_for_end(pids: list[int]) -> None:
    deadline = time.monotonic() + WAIT_S
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "workers outlive their supervisor"
        time.sleep(0.02)


def test_workers_drain_when_their_supervisor_is_gone(running: Running, tmp_path: Path) -> None:
    """At once, so that another can have the port."""
    running.process.kill()
    wait_for_end(running.pids)
    assert {(tmp_path / f"drained-{pid}").read_text() for pid in running.pids} == {"at once"}
    with socket.create_server(("127.0.0.1", running.port)):
        pass


def test_a_supervisor_that_was_stopped_itself_kills_nobody(running: Running) -> None:
    """A suspended machine wakes up with all its workers."""
    running.process.send_signal(signal.SIGSTOP)
    time.sleep(2 * SILENCE_S)
    running.process.send_signal(signal.SIGCONT)
    time.sleep(SILENCE_S)
    assert all(is_alive(pid) for pid in running.pids)
    running.process.terminate()
    assert running.process.wait(WAIT_S) == 0


def test_a_terminal_reaches_the_supervisor_only(running: Running, tmp_path: Path) -> None:
    """Hanging up ends no worker unasked, and Ctrl-C is heard once."""
    os.killpg(running.process.pid, signal.SIGHUP)
    wait_for_end(running.pids)
    assert {(tmp_path / f"drained-{pid}").read_text() for pid in running.pids} == {"at once"}
    os.killpg(running.process.pid, signal.SIGINT)
    assert running.process.wait(WAIT_S) == 0
