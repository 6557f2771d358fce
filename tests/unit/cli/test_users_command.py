"""`phalanx users` and `phalanx keys rotate` on a database of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from phalanx.cli.root import app
from phalanx.errors import Conflict, InvalidRequest, NotFound

PASSWORD = "three blind mice"


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("LOG_LEVEL", "error")


def phalanx(*words: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, list(words), input=typed)


def test_a_user_is_made_listed_disabled_enabled_and_given_a_password() -> None:
    made = phalanx("users", "create", "Ann@example.org", "--staff", "--password-stdin", typed=f"{PASSWORD}\n")
    assert made.exit_code == 0, made.output
    assert made.stdout.startswith("ann@example.org can log in.")
    for command, disabled in (("disable", True), ("enable", False)):
        assert phalanx("users", command, "ann@example.org").exit_code == 0
        listed = json.loads(phalanx("users", "list", "--json").stdout)
        assert [(user["email"], user["staff"]) for user in listed] == [("ann@example.org", True)]
        assert (listed[0]["disabled_at"] is not None) == disabled
    assert phalanx("users", "password", "ANN@example.org", typed="four blind mice\nfour blind mice\n").exit_code == 0
    table = phalanx("users", "list").stdout
    assert "staff" in table
    assert PASSWORD not in table + made.output


def test_what_cannot_be_done_is_said() -> None:
    assert phalanx("users", "create", "nobody", "--password-stdin", typed="x\n").exit_code == 2
    weak = phalanx("users", "create", "ann@example.org", "--password-stdin", typed="short\n")
    assert isinstance(weak.exception, InvalidRequest)
    assert phalanx("users", "create", "ann@example.org", "--password-stdin", typed=PASSWORD).exit_code == 0
    again = phalanx("users", "create", "ann@example.org", "--password-stdin", typed=PASSWORD)
    assert isinstance(again.exception, Conflict)
    assert isinstance(phalanx("users", "disable", "bob@example.org").exception, NotFound)


def test_a_key_is_rotated() -> None:
    """The new one is printed, the old one ends after its grace; a key's tier is its organisation's unless given."""
    made = json.loads(phalanx("keys", "create", "ann@example.org", "--tier", "pro", "--json").stdout)
    rotated = phalanx("keys", "rotate", made["record"]["id"], "--grace-seconds", "60")
    assert rotated.exit_code == 0, rotated.output
    assert rotated.stdout.startswith("fe_")
    assert rotated.stdout.strip() != made["key"]
    old, new = json.loads(phalanx("keys", "list", "--json").stdout)
    assert 0 < old["expires_at"] - new["created_at"] <= 60
    assert (new["tier"], new["name"]) == ("pro", "default")
    third = json.loads(phalanx("keys", "create", "ann@example.org", "--json").stdout)
    assert third["record"]["tier"] == "pro"
    assert isinstance(phalanx("keys", "rotate", "none").exception, NotFound)
    unknown = phalanx("keys", "create", "ann@example.org", "--organisation", "none")
    assert isinstance(unknown.exception, NotFound)


def test_lists_come_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """All unless told otherwise, whatever a page holds."""
    monkeypatch.setattr("phalanx.cli.pages.PAGE", 2)
    for number in range(5):
        assert phalanx("keys", "create", f"{number}@example.org").exit_code == 0
        words = ("users", "create", f"{number}@example.org", "--password-stdin")
        assert phalanx(*words, typed=PASSWORD).exit_code == 0
    for noun in ("keys", "users"):
        every = [one["id"] for one in json.loads(phalanx(noun, "list", "--json").stdout)]
        assert len(set(every)) == 5
        some = json.loads(phalanx(noun, "list", "--json", "--after", every[0], "--limit", "3").stdout)
        assert [one["id"] for one in some] == every[1:4]
        assert json.loads(phalanx(noun, "list", "--json", "--after", "none-such").stdout) == []
