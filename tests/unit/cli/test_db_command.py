"""`phalanx db` on each kind of database."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from phalanx.cli import main
from servers import PostgresServer

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run `phalanx db …` with a DATABASE_URL; returns the exit status and what was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))

    def run(url: str, *words: str, answer: str = "") -> tuple[int, str]:
        monkeypatch.setenv("DATABASE_URL", url)
        monkeypatch.setattr("sys.argv", ["phalanx", "db", *words])
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out + printed.err

    return run


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'records.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create_database()


def test_migrate_check_and_downgrade(run: Run, url: str) -> None:
    status, printed = run(url, "check")
    assert status == 1
    assert "phalanx db migrate" in printed
    assert run(url, "migrate") == (0, "The database has this version's schema.\n")
    assert run(url, "migrate")[0] == run(url, "check")[0] == 0
    assert run(url, "downgrade", "0001", answer="n\n")[0] == 1
    assert run(url, "check")[0] == 0
    assert run(url, "downgrade", "0001", answer="y\n")[0] == 0
    assert run(url, "check")[0] == 1
    assert run(url, "downgrade", "base", "--yes") == (0, "The database is at base.\n")


def test_a_revision_that_there_is_not_is_one_line(run: Run, url: str) -> None:
    run(url, "migrate")
    status, printed = run(url, "downgrade", "0009", "--yes")
    assert status == 1
    (line,) = printed.splitlines()
    assert line.startswith("there is no revision '0009'; there are base, 0001, 0002")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://ann:hunter2@127.0.0.1:1/phalanx", "Connection refused"),
        ("postgresql://ann:hunter2@db.invalid/phalanx", "host's name is not known"),
        ("postgresql://ann:hunter2@db.invalid/phalanx?sslmod=require", "sslmod"),
        ("postgresql://ann:hun/ter2@db.invalid/phalanx", "special in the password"),
        ("mysql://ann:hunter2@db.invalid/phalanx", "postgresql://"),
    ],
)
@pytest.mark.parametrize("words", [("migrate",), ("check",), ("downgrade", "base", "--yes")])
def test_a_database_that_cannot_be_is_one_line_that_shows_no_secret(
    run: Run, url: str, said: str, words: tuple[str, ...]
) -> None:
    status, printed = run(url, *words)
    assert status == 1
    assert said in printed
    assert len(printed.splitlines()) == 1
    for hidden in ("hunter2", "ter2", "127.0.0.1", "db.invalid", "Traceback"):
        assert hidden not in printed
