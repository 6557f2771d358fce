"""The table of commands: only what is called is read, and Ctrl-C meanwhile ends quietly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phalanx.cli.root import COMMANDS, app

HEAVY = ("cv2", "openvino", "phalanx.app", "phalanx.operations", "sqlalchemy")

READ = """
import atexit, sys
sys.argv = ["phalanx", *sys.argv[1:]]
atexit.register(lambda: print(*(name for name in {heavy!r} if name in sys.modules), file=sys.stderr))
from phalanx.cli import main
main()
"""

INTERRUPTED = """
import sys

class CtrlC:
    def find_spec(self, name, *_):
        if name == "{module}":
            raise KeyboardInterrupt

sys.meta_path.insert(0, CtrlC())
sys.argv = ["phalanx", "serve"]
from phalanx.cli import main
main()
"""


def python(code: str, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environ = {"DATA_DIR": str(folder), "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, "-c", code, *words], env=environ, cwd=folder, capture_output=True, check=False, text=True
    )


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("--help", 0),
        ("--version", 0),
        ("serve --help", 0),
        ("embed --help", 0),
        ("keys list --help", 0),
        ("collections search --help", 0),
        ("settings", 0),
        ("models list", 0),
        ("serve nonsense", 1),
        ("keys create nobody", 2),
    ],
)
def test_what_needs_no_worker_reads_none_of_its_parts(words: str, status: int, tmp_path: Path) -> None:
    """They take a second, on a busy machine several."""
    ended = python(READ.format(heavy=HEAVY), *words.split(), folder=tmp_path)
    assert ended.returncode == status, ended.stderr
    assert ended.stderr.splitlines()[-1] == ""


@pytest.mark.parametrize("module", ["phalanx.cli.root", "phalanx.cli.serve", "phalanx.cli.serving", "phalanx.app"])
def test_ctrl_c_while_modules_are_read_is_no_traceback(module: str, tmp_path: Path) -> None:
    """As while anything else runs: 130 and not a word."""
    ended = python(INTERRUPTED.format(module=module), folder=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_the_list_has_a_line_for_each_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """On 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    lines = CliRunner().invoke(app, ["--help"]).output.splitlines()
    for name, place in COMMANDS.items():
        assert any(name in line and place.summary in line for line in lines), name


def test_a_command_that_is_misspelt_is_guessed() -> None:
    """Among all of the table."""
    ended = CliRunner().invoke(app, ["colections", "list"])
    assert ended.exit_code == 2
    assert "collections" in ended.output
