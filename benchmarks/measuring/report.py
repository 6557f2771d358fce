"""Rows of measurements: their verdicts, their table, and the two ways a script prints them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
from rich.console import Console
from rich.table import Table

Better = Literal["higher", "lower"]
Verdict = Literal["pass", "FAIL", "info", "not measured"]
COLOURS: dict[Verdict, str] = {"pass": "green", "FAIL": "bold red", "info": "default", "not measured": "yellow"}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One claim and what was measured.

    `measured` is None where it could not be, and `note` then says why. `yardstick` is what a fixed piece of work
    measured on the same machine in the same minute, in the same unit: runs on different machines, or at different
    hours of a shared one, are compared by measured / yardstick. None: the value does not depend on the machine's
    speed. `noise` is the relative change that means nothing.
    """

    claim: str
    measured: float | None
    unit: str
    better: Better
    bar: float | None = None
    yardstick: float | None = None
    noise: float = 0.10
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """Whether the bar is met."""
        if self.measured is None:
            return "not measured"
        if self.bar is None:
            return "info"
        met = self.measured >= self.bar if self.better == "higher" else self.measured <= self.bar
        return "pass" if met else "FAIL"

    @property
    def relative(self) -> float | None:
        """The value in units of the yardstick."""
        if self.measured is None:
            return None
        return self.measured / self.yardstick if self.yardstick else self.measured


def shown(value: float | None, unit: str) -> str:
    """Write a value with as many digits as it deserves."""
    if value is None:
        return "–"
    if unit == "cosine":
        return f"{value:.7f}"
    digits = 0 if abs(value) >= 100 or value == int(value) else 2 if abs(value) >= 1 else 3
    number = f"{value:,.{digits}f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"
    return f"{number} {unit}".strip()


def table(rows: Sequence[Row], title: str = "") -> Table:
    """Return the table: claim, measured, bar, verdict."""
    made = Table("claim", "measured", "bar", "verdict", "note", title=title or None, title_justify="left")
    for row in rows:
        sign = "≥" if row.better == "higher" else "≤"
        bar = f"{sign} {shown(row.bar, row.unit)}" if row.bar is not None else ""
        verdict = f"[{COLOURS[row.verdict]}]{row.verdict}[/]"
        made.add_row(row.claim, shown(row.measured, row.unit), bar, verdict, row.note)
    return made


def not_measured(claims: Sequence[tuple[str, str, Better, float | None]], reason: str) -> list[Row]:
    """Return rows of `(claim, unit, better, bar)` that say why there is no value."""
    return [
        Row(claim=claim, measured=None, unit=unit, better=better, bar=bar, note=reason)
        for claim, unit, better, bar in claims
    ]


def say(text: str) -> None:
    """Tell how far a measurement is, on stderr, so that stdout holds the rows alone."""
    print(text, file=sys.stderr, flush=True)


def console(*, error: bool = False) -> Console:
    """Return a console that does not fold its tables when the output is no terminal."""
    width = None if (sys.stderr if error else sys.stdout).isatty() else 160
    return Console(stderr=error, width=width, highlight=False)


def main(measure: Callable[[], list[Row]], description: str | None) -> int:
    """Run one script: its rows as a table, or with `--json` as JSON. Returns 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    arguments = parser.parse_args()
    rows = measure()
    if arguments.json:
        print(msgspec.json.encode(rows).decode())
    else:
        console().print(table(rows))
    return int(any(row.verdict == "FAIL" for row in rows))
