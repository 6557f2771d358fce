"""Resolve the dependencies anew and pin them with hashes: `make lock`.

`requirements.lock` is what `make run` installs; `requirements-dev.lock` adds what tests, checks and docs need. Both are
universal (every platform and Python from 3.11) and name no index.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEADER = "# Pinned by `make lock` from pyproject.toml; do not edit.\n"


def compile_lock(requirements: list[str], into: Path, *, constraints: Path | None = None) -> None:
    """Pin `requirements` and what they need, with hashes."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "requirements.in"
        wanted.write_text("\n".join(requirements) + "\n")
        words = ["uv", "pip", "compile", "--universal", "--generate-hashes", "--no-annotate", "--no-header", "--quiet"]
        words += [
            "--no-emit-index-url",
            "--python-version",
            "3.11",
            str(wanted),
            "--output-file",
            str(wanted.with_suffix(".out")),
        ]
        if constraints is not None:
            words += ["--constraints", str(constraints)]
        subprocess.run([str(Path(sys.executable).parent / words[0]), *words[1:]], check=True)
        into.write_text(HEADER + wanted.with_suffix(".out").read_text())


def main() -> None:
    """Write both lock files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    runtime = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["bulk"]
    runtime += project["build-system"]["requires"]
    compile_lock(runtime, ROOT / "requirements.lock")
    groups = project["dependency-groups"]
    compile_lock(
        runtime + groups["dev"] + groups["lock"], ROOT / "requirements-dev.lock", constraints=ROOT / "requirements.lock"
    )


if __name__ == "__main__":
    main()
