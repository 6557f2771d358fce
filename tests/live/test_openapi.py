"""schemathesis over the whole OpenAPI document of a running worker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance"
SCOPES = ("text", "faces", "images", "vectors", "jobs", "usage", "keys", "admin")


def test_no_request_brings_a_server_error(live: Any, tmp_path: Path) -> None:
    """Examples, edge cases and random requests of every operation: no 5xx, and only documented statuses and types."""
    words = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{live.url}/openapi.json"]
    words += ["--header", f"Authorization: Bearer {live.key(scopes=SCOPES)}", "--checks", CHECKS]
    words += [
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        "10",
        "--generation-deterministic",
        "--no-color",
    ]
    environ = {**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(HERE)}
    done = subprocess.run(words, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-20_000:]
    assert "Tested:" in done.stdout
    assert live.get("/readyz")[0] == 200
