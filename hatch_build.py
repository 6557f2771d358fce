"""Writes the build's facts into a wheel: `phalanx/build.json`, which /health shows."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BuildFactsHook(BuildHookInterface[Any]):
    """Runs for wheels; an editable install asks git itself."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the facts and have them packed."""
        if version == "editable":
            return
        facts = {
            "git_hash": self._git("rev-parse", "HEAD") or os.environ.get("GIT_SHA", ""),
            "git_branch": self._git("rev-parse", "--abbrev-ref", "HEAD"),
            "git_date": self._git("show", "-s", "--format=%cI", "HEAD"),
            "git_dirty": bool(self._git("status", "--porcelain", "--untracked-files=no")),
            "build_timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(_now())),
            "python_version": platform.python_version(),
            "profile": "release",
        }
        path = Path(self.directory) / "build.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(facts))
        build_data["force_include"][str(path)] = "phalanx/build.json"

    def _git(self, *words: str) -> str:
        try:
            done = subprocess.run(["git", "-C", self.root, *words], capture_output=True, text=True, check=False)
        except OSError:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""


def _now() -> float:
    """SOURCE_DATE_EPOCH, where set, makes builds repeatable."""
    return float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
