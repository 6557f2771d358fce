"""The peers' environment: sentence-transformers, transformers and torch, in a folder of their own.

`PHALANX_PEERS_PYTHON` names the interpreter of an environment that has them already.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from measuring.lines import LineProcess
from measuring.model import BUILD
from measuring.report import say

REQUIREMENTS = Path(__file__).parents[1] / "peers.txt"
PROCESS = Path(__file__).with_name("peer_process.py")
FOLDER = BUILD / "peers"


class PeersUnavailable(Exception):
    """There is no environment of the peers, and the text says why."""


def open_peers(threads: int) -> LineProcess:
    """Start a process in the peers' environment, which is made first if need be. Raises `PeersUnavailable`."""
    python = os.environ.get("PHALANX_PEERS_PYTHON") or str(_environment())
    environ = {
        **os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": str(threads),
    }  # fmt: skip
    process = LineProcess([python, PROCESS], environ)
    try:
        versions = process.ask("versions")
    except (RuntimeError, OSError) as error:
        process.close()
        raise PeersUnavailable(f"{python} has not what is in {REQUIREMENTS.name}: {error}") from error
    say("peers: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    return process


def _environment() -> Path:
    """Make the environment unless it has what the requirements say."""
    python = FOLDER / "bin" / "python"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    stamp = FOLDER / ".requirements"
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    say(f"making the peers' environment in {FOLDER.relative_to(BUILD.parent)}; this takes some minutes and 1.5 GB")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(REQUIREMENTS)]
    try:
        subprocess.run([sys.executable, "-m", "venv", FOLDER], check=True, stdout=sys.stderr)
        subprocess.run(pip, check=True, stdout=sys.stderr)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PeersUnavailable(f"the peers' environment cannot be made: {error}") from error
    stamp.write_text(wanted)
    return python
