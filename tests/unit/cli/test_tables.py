"""Lists on terminals of all widths, and in pipes."""

from __future__ import annotations

from typing import Any

import pytest
from rich.text import Text

from phalanx.cli.tables import print_table
from phalanx.cli.variables import settings
from phalanx.settings import reference

HEAD = ("id", "email", "name", "tier", "billed")
ID = "01a2000c-8948-769b-a057-1191c116ebc1"
ROWS = [(ID, "ann@example.org", "[bold]laptop", "scale", "1,234"), (ID, "bob@example.org", "", "free", "7")]


def on_terminal(monkeypatch: Any, width: int | None) -> None:
    """Take standard output for a terminal, by Rich's own variable for it; for a pipe without a width."""
    monkeypatch.setenv("TTY_COMPATIBLE", "0" if width is None else "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width or 40))


def shown(capsys: Any, monkeypatch: Any, width: int | None, rows: Any = ROWS, **rest: Any) -> tuple[list[str], str]:
    on_terminal(monkeypatch, width)
    print_table(HEAD, rows, spare=("tier", "name"), numbers=("billed",), **rest)
    said = capsys.readouterr()
    return Text.from_ansi(said.out).plain.splitlines(), said.err


@pytest.mark.parametrize("width", [None, 120])
def test_all_is_shown_where_there_is_room(capsys: Any, monkeypatch: Any, width: int | None) -> None:
    """Also in a pipe, whatever it would be on a terminal, a row a line; what looks like markup is shown."""
    lines, said = shown(capsys, monkeypatch, width, total=("total", "", "", "", "1,241"))
    assert [line.split() for line in lines] == [
        list(HEAD), [ID, "ann@example.org", "[bold]laptop", "scale", "1,234"], [ID, "bob@example.org", "free", "7"],
        ["total", "1,241"],
    ]  # fmt: skip
    assert lines[1].endswith(" 1,234")
    assert lines[2].endswith("     7")
    assert said == ""


def test_a_pipe_cuts_nothing(capsys: Any, monkeypatch: Any) -> None:
    """Not even far beyond the 80 columns that a terminal is taken to have."""
    long = "x" * 300
    lines, said = shown(capsys, monkeypatch, None, rows=[(ID, long, "n", "free", "1")])
    assert (len(lines), lines[1].split(), said) == (2, [ID, long, "n", "free", "1"], "")


@pytest.mark.parametrize(
    ("width", "kept"),
    [(76, {"name"}), (70, {"tier"}), (62, set())],
)
def test_what_matters_least_makes_room(capsys: Any, monkeypatch: Any, width: int, kept: set[str]) -> None:
    """First `tier`, then `name`; what is small enough for the room that is left comes back; standard error says which."""
    lines, said = shown(capsys, monkeypatch, width)
    assert lines[0].split() == [name for name in HEAD if name not in {"name", "tier"} - kept]
    assert all(len(line) <= width for line in lines)
    assert all(name in said for name in {"name", "tier"} - kept)
    assert "--json" in said


def test_what_is_too_long_still_is_folded_but_not_the_id(capsys: Any, monkeypatch: Any) -> None:
    """An id is there to be copied."""
    lines, _ = shown(capsys, monkeypatch, 54)
    assert lines[1].startswith(f"{ID}  ann@e")
    assert all(len(line) <= 54 for line in lines)
    folded = "".join(line[38:46].strip() for line in lines[1:3])
    assert folded == "ann@example.org"


@pytest.mark.parametrize("width", [60, 80])
def test_settings_are_whole_and_fit(capsys: Any, monkeypatch: Any, width: int) -> None:
    """A name is there to be copied."""
    on_terminal(monkeypatch, width)
    settings()
    lines = Text.from_ansi(capsys.readouterr().out).plain.splitlines()
    assert {name for name, _, _ in reference()} < {line.partition(" ")[0] for line in lines}
    assert all(len(line) <= width for line in lines)


def test_where_there_is_nothing_it_is_said_beside_the_data(capsys: Any) -> None:
    """A script reads nothing, a reader a sentence."""
    print_table(HEAD, [], none="There are no keys.")
    assert tuple(capsys.readouterr()) == ("", "There are no keys.\n")
