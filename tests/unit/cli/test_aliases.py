"""The console scripts by their old names, as scripts call them: processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


def run(folder: Path, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": "/usr/bin:/bin", "DATA_DIR": str(folder / "data"), "HOME": str(folder)}
    return subprocess.run(
        [BIN / name, *words], env=environ, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def test_create_api_key_takes_its_old_arguments(tmp_path: Path) -> None:
    """Email, tier, name, by place; the key alone is on stdout."""
    made = run(tmp_path, "create_api_key", "ann@example.org", "pro", "laptop")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("fe_")
    listed = run(tmp_path, "phalanx", "keys", "list", "--json").stdout
    assert '"tier":"pro"' in listed
    assert '"name":"laptop"' in listed


def test_init_db_makes_the_database_and_a_key(tmp_path: Path) -> None:
    """With the tier that was asked for."""
    made = run(tmp_path, "init_db", "ann@example.org", "scale")
    assert made.returncode == 0, made.stderr
    assert "schema" in made.stdout
    assert "fe_" in made.stdout
    assert run(tmp_path, "phalanx", "db", "check").returncode == 0


@pytest.mark.parametrize("words", [(), ("--help",), ("a", "b", "c", "d")])
def test_wrong_arguments_get_the_usage(tmp_path: Path, words: tuple[str, ...]) -> None:
    """And no database is made."""
    made = run(tmp_path, "create_api_key", *words)
    assert made.returncode == 1
    assert "usage: create_api_key EMAIL TIER [NAME]" in made.stderr
    assert not (tmp_path / "data").exists()


def test_an_unknown_tier_is_said(tmp_path: Path) -> None:
    """As `phalanx keys create` says it."""
    made = run(tmp_path, "create_api_key", "ann@example.org", "gold")
    assert made.returncode == 2
    assert "gold" in made.stderr
