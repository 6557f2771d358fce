"""What was built: facts written into the wheel by the build hook, or read from git in a checkout."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib import resources
from pathlib import Path

import msgspec

from phalanx.contract.status import BuildFacts


@functools.cache
def build_facts(git_sha: str = "") -> BuildFacts:
    """Return the build's facts; `git_sha` stands in where neither the wheel nor a checkout knows a commit."""
    written = resources.files("phalanx").joinpath("build.json")
    if written.is_file():
        return msgspec.json.decode(written.read_bytes(), type=BuildFacts)
    return checkout_facts(Path(__file__).parent, git_sha)


def checkout_facts(folder: Path, git_sha: str = "") -> BuildFacts:
    """Ask git about the checkout that holds `folder`."""

    def git(*words: str) -> str:
        try:
            command = ["git", "-C", str(folder), *words]
            done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    return BuildFacts(
        git_hash=git("rev-parse", "HEAD") or git_sha,
        git_branch=git("rev-parse", "--abbrev-ref", "HEAD"),
        git_date=git("show", "-s", "--format=%cI", "HEAD"),
        git_dirty=bool(git("status", "--porcelain", "--untracked-files=no")),
        build_timestamp="",
        python_version=platform.python_version(),
        profile="development",
    )
