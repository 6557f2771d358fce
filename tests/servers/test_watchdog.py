"""What a killed test process has started does not outlive it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WAIT_S = 60.0
TESTS = str(Path(__file__).parent.parent)
PROGRAM = """
import json, subprocess, sys, threading
sys.path.insert(0, sys.argv[1])
from servers import PostgresServer, RedisServer
from servers.watchdog import watch

servers = [PostgresServer(), RedisServer()]
for server in servers:
    starting = threading.Thread(target=server.start)
    starting.start()
    starting.join()
ended = subprocess.Popen(["true"])
watch(ended.pid)
ended.wait()
ignoring = subprocess.Popen(["sh", "-c", "trap '' TERM INT HUP; echo; while :; do sleep 1; done"], stdout=subprocess.PIPE)
watch(ignoring.pid)
ignoring.stdout.readline()
pids = [server._process.pid for server in servers]
print(json.dumps([[*pids, ignoring.pid], [str(server.folder) for server in servers]]), flush=True)
sys.stdin.read()
"""


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_servers_end_with_the_process_that_started_them(number: signal.Signals) -> None:
    """Though a thread started them that has ended since, which harms nothing; their folders go too."""
    command = [sys.executable, "-c", PROGRAM, TESTS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids, folders = json.loads(process.stdout.readline())
        assert all(runs(pid) for pid in pids)
        assert all(Path(folder).is_dir() for folder in folders)
        process.send_signal(number)
    deadline = time.monotonic() + WAIT_S
    while any(runs(pid) for pid in pids) or any(Path(folder).exists() for folder in folders):
        assert time.monotonic() < deadline, (pids, folders)
        time.sleep(0.02)
