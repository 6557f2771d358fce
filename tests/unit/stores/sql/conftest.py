"""Databases of each kind, without tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from servers import PostgresServer


@pytest.fixture(params=["sqlite", "postgres"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database that is empty, or of a file that is not there yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'phalanx.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create_database()
