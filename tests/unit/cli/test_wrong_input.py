"""Commands about callers, usage and the database, given wrong input: said in a line or a box, and no traceback."""

from __future__ import annotations

import inspect
import io
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phalanx.cli import main
from phalanx.cli.root import COMMANDS, imported
from servers.worker import PHALANX

LONG = "x" * 300
WRONG: list[tuple[str, int]] = [
    ("keys create", 2),
    ("keys create nobody", 2),
    ("keys create a@b.c --tier gold", 2),
    ("keys create a@b.c --scope nothing", 2),
    ("keys create a@b.c --days 0", 2),
    ("keys create a@b.c --name=", 2),
    ("keys create a@b.c --organisation none-such", 1),
    ("keys list --limit 0", 2),
    ("keys list --limit many", 2),
    ("keys list --after=", 2),
    ("keys list --organisation=", 2),
    ("keys revoke", 2),
    ("keys revoke none-such", 1),
    (f"keys revoke {LONG}", 2),
    ("keys rotate none-such", 1),
    ("keys rotate x --grace-seconds -1", 2),
    (f"keys rotate {LONG}", 2),
    ("users create", 2),
    ("users create nobody --password-stdin", 2),
    ("users create a@b.c --password-stdin", 2),
    ("users create a@b.c --tier gold --password-stdin", 2),
    ("users list --limit 0", 2),
    ("users disable nobody", 2),
    ("users disable nobody@example.org", 1),
    ("users enable nobody@example.org", 1),
    ("users password nobody@example.org --password-stdin", 2),
    ("usage report --from yesterday", 2),
    ("usage report --from 2026-13-01", 1),
    ("usage report --from=", 2),
    ("usage report --from 2026-11-20 --to 2026-11-01", 1),
    ("usage report --from 1990-01-01", 1),
    ("usage report --by colour", 2),
    ("usage reconcile extra", 2),
    ("usage expire --nothing", 2),
    ("db downgrade", 2),
    ("db downgrade 9999 --yes", 1),
    ("db check", 1),
    ("db migrate now", 2),
]
"""Words of a command, and its exit status: 2 for what no one could mean, 1 for what is not there."""


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the command as a shell would, with nothing on standard input."""
    monkeypatch.setattr("sys.argv", ["phalanx", *words])
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(("words", "status"), WRONG)
def test_wrong_input_is_said(
    words: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr; nothing is made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert run(words.split(), monkeypatch) == status
    out, err = capsys.readouterr()
    assert err.strip()
    assert "Traceback" not in out + err
    if status == 1:
        assert len(err.strip().splitlines()) == 1, err


@pytest.mark.parametrize(
    "words", ["keys list", "users list", "usage report", "usage reconcile", "db check", "db migrate"]
)
@pytest.mark.parametrize("url", ["mysql://127.0.0.1/x", "postgresql://127.0.0.1:1/x", "nonsense"])
def test_a_database_that_cannot_be_used_is_said(
    words: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a line that names the setting."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", url)
    assert run(words.split(), monkeypatch) == 1
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1, err
    assert "DATABASE_URL" in err


@pytest.mark.parametrize("words", ["keys list", "usage reconcile"])
def test_a_redis_that_cannot_be_reached_is_no_traceback(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keys are in the database; what needs the counters says so."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    run(words.split(), monkeypatch)
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err


def test_a_port_that_is_taken_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A queue worker beside a worker meets its metrics' port."""
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = {
            "DATA_DIR": str(tmp_path), "SERVICES": "vectors", "QUEUE_REDIS_URL": "redis://127.0.0.1:1/0",
            "PROMETHEUS_BIND": f"127.0.0.1:{taken.getsockname()[1]}",
        }  # fmt: skip
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        assert run(["work", "jobs"], monkeypatch) == 1
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    assert "set PROMETHEUS_BIND" in err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("keys create nobody", "'nobody' is no email address, such as ann@example.org"),
        ("keys create a@b.c --scope nothing", "scopes are text, faces, images"),
        ("keys create a@b.c --name=", "name is empty"),
        (f"keys create a@b.c --name {LONG}", "name has 300 characters; it may have 100 at most"),
        ("usage report --from yesterday", "'yesterday' is no day, such as 2026-11-30"),
        (
            "collections create Bad.Name texts --organisation a@b.c",
            "'Bad.Name' is no name for a collection: lower-case",
        ),
    ],
)
def test_what_has_a_form_is_told_in_words(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No regular expression, no path into a request, nothing of a log."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr("sys.argv", ["phalanx", *words.split()])
    with pytest.raises(SystemExit):
        main()
    told = capsys.readouterr()
    assert said in told.err
    assert not any(odd in told.out + told.err for odd in ("regex", "$.", '"event"'))


def test_work_that_has_no_queue_says_so_and_nothing_else(tmp_path: Path) -> None:
    """Nothing has begun, so nothing is drained."""
    environ = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path), "PROMETHEUS_BIND": "127.0.0.1:0"}
    ended = subprocess.run([PHALANX, "work"], env=environ, cwd=tmp_path, capture_output=True, check=False, text=True)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert [line.partition(":")[0] for line in ended.stderr.splitlines()] == ["QUEUE_REDIS_URL", "QUEUES"]


def test_a_full_disk_behind_standard_output_is_a_line(tmp_path: Path) -> None:
    """As `cat` says it."""
    environ = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path)}
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run([PHALANX, "settings"], env=environ, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (1, b"nothing more can be written: No space left on device\n")


def test_what_the_terminals_encoding_lacks_is_shown_by_its_number(tmp_path: Path) -> None:
    """The list of settings has an ellipsis."""
    environ = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path), "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run([PHALANX, "settings"], env=environ, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert rb"\u2026" in ended.stdout


def test_bytes_that_are_no_text_are_a_line(tmp_path: Path) -> None:
    """In a word of the command."""
    environ = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path)}
    words = [os.fsencode(PHALANX), b"call", b"vectors.similarity", b'{"a": "\xff"}']
    ended = subprocess.run(words, env=environ, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert ended.stderr.startswith(b"the request of vectors.similarity cannot be read: ")


def test_a_password_without_a_terminal_is_refused_with_the_option(tmp_path: Path) -> None:
    """Python's own way reads it with a warning, in sight."""
    environ = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path)}
    words = [PHALANX, "users", "create", "ann@example.org"]
    ended = subprocess.run(
        words,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
        start_new_session=True,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "--password-stdin" in ended.stderr.splitlines()[-1]
    assert "Warning" not in ended.stderr


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", {})
    if not below:
        yield " ".join(path), command
    for name, one in below.items():
        yield from _commands(one, (*path, name))


ALL = {path: command for name in COMMANDS for path, command in _commands(imported(name), ("phalanx", name))}


@pytest.mark.parametrize("name", ALL)
def test_help_has_an_example_and_fits_eighty_columns(name: str) -> None:
    """Lines of a paragraph are not joined anew, so a long one would be broken in its midst."""
    command = ALL[name]
    text = inspect.cleandoc(command.help)
    assert "xample" in text + (command.epilog or "")
    assert not [line for paragraph in text.split("\n\n")[1:] for line in paragraph.split("\n") if len(line) > 78]
