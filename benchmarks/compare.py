"""What changed between two runs: each row in units of its yardstick, so that the machine's speed drops out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.table import Table

from measuring.report import Row, console, shown

RESULTS = Path(__file__).parent / "results"
BASELINE = RESULTS / "baseline.json"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run of some or all scripts: the rows by script, and where and when it was."""

    at: str
    version: str
    machine: str
    cores: int
    load: float
    rows: dict[str, list[Row]]


class Change(NamedTuple):
    """A row of both runs. `ratio` is new ÷ old, each in units of its own yardstick."""

    script: str
    old: Row
    new: Row
    ratio: float

    @property
    def is_worse(self) -> bool:
        """Whether it got worse by more than its noise."""
        return self.ratio < 1 - self.new.noise if self.new.better == "higher" else self.ratio > 1 + self.new.noise

    @property
    def is_better(self) -> bool:
        """Whether it got better by more than its noise."""
        return self.ratio > 1 + self.new.noise if self.new.better == "higher" else self.ratio < 1 - self.new.noise


def read(path: Path) -> Run:
    """Read a run. Raises `OSError` and `msgspec.DecodeError`."""
    return msgspec.json.decode(path.read_bytes(), type=Run)


def write(path: Path, run: Run) -> None:
    """Write a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")


def changes(old: Run, new: Run) -> list[Change]:
    """Return the claims that both runs measured, those with a value of nought left out: they have no ratio."""
    found = []
    for script, rows in new.rows.items():
        before = {row.claim: row for row in old.rows.get(script, [])}
        for row in rows:
            was = before.get(row.claim)
            if was is not None and was.relative and row.relative:
                found.append(Change(script, was, row, row.relative / was.relative))
    return found


def table(changed: Sequence[Change], title: str) -> Table:
    """Return the table of changes: both values, and the change that counts."""
    made = Table("script", "claim", "before", "now", "change, machine's speed apart", title=title, title_justify="left")
    for change in changed:
        colour = "red" if change.is_worse else "green" if change.is_better else "default"
        values = [shown(row.measured, row.unit) for row in (change.old, change.new)]
        made.add_row(change.script, change.new.claim, *values, f"[{colour}]{change.ratio - 1:+.0%}[/]")
    return made


def _newest() -> Path | None:
    runs = [path for path in RESULTS.glob("*.json") if path != BASELINE]
    return max(runs, default=None, key=lambda path: path.stat().st_mtime)


def main() -> int:
    """Compare two files of results; returns 1 when something got worse."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path, nargs="?", default=BASELINE, help="[the kept baseline]")
    parser.add_argument("new", type=Path, nargs="?", help="[the newest run]")
    arguments = parser.parse_args()
    new: Path | None = arguments.new or _newest()
    if new is None:
        parser.error("there is no run yet; run: make bench")
    found = changes(read(arguments.old), read(new))
    console().print(table(found, f"{arguments.old.name} → {new.name}"))
    return int(any(change.is_worse for change in found))


if __name__ == "__main__":
    sys.exit(main())
