"""Makes what a build adds: the gRPC schema out of `proto/`, and in a wheel `phalanx/build.json`, which /health shows.

`python hatch_build.py` makes the schema alone.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SCHEMA = Path("src/phalanx/edges/grpc/schema.binpb")


def compile_schema(root: Path, into: Path) -> None:
    """Compile `proto/` into descriptors, of which the edge makes its messages. Raises `RuntimeError` with what is wrong."""
    from grpc_tools import protoc

    known = files("grpc_tools") / "_proto"
    sources = sorted(str(path) for path in (root / "proto").rglob("*.proto"))
    # A worker that starts meanwhile reads the old file or the new one.
    unfinished = into.with_name(f".{into.name}.{os.getpid()}")
    words = [
        "protoc",
        f"-I{root / 'proto'}",
        f"-I{known}",
        "--include_imports",
        f"--descriptor_set_out={unfinished}",
        *sources,
    ]
    if protoc.main(words) != 0:
        raise RuntimeError("proto/ does not compile; protoc has said why")
    unfinished.replace(into)


class BuildFactsHook(BuildHookInterface[Any]):
    """Writes the schema beside the code, and for wheels the facts; an editable install asks git itself."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write both and have them packed."""
        schema = Path(self.root) / SCHEMA
        compile_schema(Path(self.root), schema)
        build_data["artifacts"].append(f"/{SCHEMA}")
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


if __name__ == "__main__":
    compile_schema(Path(__file__).parent, Path(__file__).parent / SCHEMA)
