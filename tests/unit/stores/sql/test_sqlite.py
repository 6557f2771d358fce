"""SQLite's own: the URL, the file, what a connection is set up for, what may be wrong with it."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from callers import in_database, make_key
from phalanx.errors import Unavailable
from phalanx.settings import SettingsError
from phalanx.stores.sql.database import Database, check, migrate, open_database
from phalanx.stores.sql.sqlite import open_engine, sqlite_path

ODD_NAME = "ä ü%20?cache=shared#1.db"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "phalanx.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


def modes(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


@pytest.mark.parametrize("scheme", ["sqlite:///", "sqlite+aiosqlite:///"])
def test_a_url_names_a_file(scheme: str) -> None:
    assert sqlite_path(f"{scheme}records.db") == Path("records.db")
    assert sqlite_path(f"{scheme}/srv/{ODD_NAME}") == Path(f"/srv/{ODD_NAME}")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://ann:secret@db/phalanx", "'mysql'"),
        ("sqlite://records.db", "'sqlite'"),
        ("secret", "is no URL"),
        ("", "is no URL"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_another_url_is_refused_without_being_shown(url: str, said: str) -> None:
    for use in (sqlite_path, open_database, migrate, check):
        with pytest.raises(SettingsError, match=said) as refused:
            use(url)
        assert "secret" not in str(refused.value)
        assert "sqlite:///path" in str(refused.value)


def test_migrating_makes_a_private_file_in_a_private_folder(url: str, path: Path) -> None:
    migrate(url)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.anyio
async def test_what_sqlite_puts_beside_the_file_is_private_too(url: str, path: Path) -> None:
    migrate(url)
    database = open_database(url)
    await database.ping()
    assert modes(path.parent) == {"phalanx.db": 0o600, "phalanx.db-wal": 0o600, "phalanx.db-shm": 0o600}
    await database.close()


@pytest.mark.anyio
async def test_connections_are_set_up_for_durable_commits(url: str) -> None:
    migrate(url)
    database = open_database(url, busy_timeout_s=1.5)
    async with database.transaction() as connection:
        found = {
            name: (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "busy_timeout": 1500, "foreign_keys": 1}
    await database.close()


@pytest.mark.anyio
async def test_a_name_with_odd_characters_is_that_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / ODD_NAME}"
    migrate(url)
    database = open_database(url)
    await database.ping()
    await database.close()
    assert list(modes(tmp_path)) == [ODD_NAME]


@pytest.mark.parametrize("breakage", ["directory", "garbage", "file for a folder"])
def test_a_database_that_cannot_be_is_unavailable(url: str, path: Path, breakage: str) -> None:
    if breakage == "file for a folder":
        path.parent.write_text("in the way")
    elif breakage == "directory":
        path.mkdir(parents=True)
    else:
        path.parent.mkdir()
        path.write_bytes(b"this is no database, but it is longer than a header of one" * 50)
    with pytest.raises(Unavailable) as refused:
        migrate(url)
    assert str(path.parent) not in refused.value.detail


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("pragma", "said"), [("query_only = ON", "readonly database"), ("max_page_count = 1", "disk is full")]
)
async def test_a_database_that_is_read_only_or_full_is_read_from_still(url: str, pragma: str, said: str) -> None:
    migrate(url)
    engine = open_engine(sqlite_path(url), busy_timeout_s=1.0)

    @event.listens_for(engine.sync_engine, "connect")
    def limit(connection: Any, _record: object) -> None:
        connection.cursor().execute(f"PRAGMA {pragma}")

    database = Database(engine, connections=1, patience_s=1.0)
    callers = in_database(database)

    async def fill() -> None:
        for n in range(100):
            await callers.keys.add(make_key(n, name="x" * 4_000))

    with pytest.raises(Unavailable, match=said) as refused:
        await fill()
    assert "INSERT" not in refused.value.detail
    assert len(await callers.keys.list()) < 100
    await database.close()
