"""The database's URL, file and schema."""

from __future__ import annotations

import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from phalanx.errors import InvalidRequest, Unavailable
from phalanx.stores.sql.database import check, downgrade, migrate, open_database
from phalanx.stores.sql.sqlite import sqlite_path
from phalanx.stores.sql.tables import metadata

ODD_NAME = "ä ü%20?cache=shared#1.db"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "phalanx.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def modes(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


def execute(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


@pytest.mark.parametrize("scheme", ["sqlite:///", "sqlite+aiosqlite:///"])
def test_a_url_names_a_file(scheme: str) -> None:
    assert sqlite_path(f"{scheme}records.db") == Path("records.db")
    assert sqlite_path(f"{scheme}/srv/{ODD_NAME}") == Path(f"/srv/{ODD_NAME}")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://ann:secret@db/phalanx", "'postgresql'"),
        ("sqlite://records.db", "'sqlite'"),
        ("secret", "is no URL"),
        ("", "is no URL"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_another_url_is_refused_without_being_shown(url: str, said: str) -> None:
    for use in (sqlite_path, open_database, migrate, check):
        with pytest.raises(ValueError, match=said) as refused:
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


def test_migrations_build_exactly_the_tables_of_this_version(url: str, path: Path) -> None:
    migrate(url)
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata) == []
    engine.dispose()


def test_up_down_and_up_again(url: str, path: Path) -> None:
    assert not check(url)
    assert not path.exists()
    migrate(url)
    assert check(url)
    assert {"api_keys", "usage_events"} <= tables(path)
    downgrade(url, "base")
    assert not check(url)
    assert tables(path) == {"alembic_version"}
    migrate(url)
    assert check(url)
    assert {"api_keys", "usage_events"} <= tables(path)


def test_migrating_again_keeps_what_is_there(url: str, path: Path) -> None:
    migrate(url)
    execute(path, "INSERT INTO api_keys VALUES ('1', 'd', 'h', 'e', 'o', 'n', 'free', '[]', 1.0, NULL, NULL)")
    migrate(url)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM api_keys").fetchone() == (1,)


def test_processes_that_start_at_once_migrate_once(url: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(migrate, [url] * 8))
    assert check(url)


def test_a_migration_that_fails_leaves_nothing_behind(url: str, path: Path) -> None:
    path.parent.mkdir()
    execute(path, "CREATE TABLE usage_events (mine TEXT)")
    with pytest.raises(Unavailable, match="already exists"):
        migrate(url)
    assert tables(path) == {"usage_events"}
    assert not check(url)


def test_the_schema_of_a_newer_version_is_refused_by_both_names(url: str, path: Path) -> None:
    migrate(url)
    execute(path, "UPDATE alembic_version SET version_num = '9999'")
    assert not check(url)
    with pytest.raises(Unavailable, match=r"'9999'.*'0001'"):
        migrate(url)
    with pytest.raises(Unavailable, match=r"'9999'.*'0001'"):
        downgrade(url, "base")
    assert {"api_keys", "usage_events"} <= tables(path)


def test_an_unknown_revision_is_refused_with_those_there_are(url: str) -> None:
    migrate(url)
    with pytest.raises(InvalidRequest, match=r"'nope'.*base, 0001"):
        downgrade(url, "nope")
    assert check(url)


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
