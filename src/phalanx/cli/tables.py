"""Lists as tables that can be read in the width that there is."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

GAP = 2
"""Spaces between columns."""


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    spare: Sequence[str] = (),
    numbers: Collection[str] = (),
    total: Sequence[str] = (),
    none: str = "There are none.",
) -> None:
    """Print rows under their heads, the first column whole, and a last line `total`; `numbers` stand to the right.

    Where there is nothing to print, standard error says so in the words `none`.

    Where a terminal is too narrow, what of `spare` has no room, the first of them first, is left out, and standard
    error says so; what then is too long still is folded. What is piped is neither left out nor folded.
    """
    if not rows and not total:
        typer.echo(none, err=True)
        return
    given = [columns, *rows, *((total,) if total else ())]
    widths = {name: max(_width(row[place]) for row in given) for place, name in enumerate(columns)}
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_needed(widths, columns))
    shown = [name for name in columns if name not in spare]
    for name in reversed(spare):
        if _needed(widths, [*shown, name]) <= console.width:
            shown.append(name)
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold", show_footer=bool(total))
    places = [place for place, name in enumerate(columns) if name in shown]
    for place in places:
        name = columns[place]
        table.add_column(
            Text(name), Text(total[place], "bold") if total else "", justify="right" if name in numbers else "left",
            overflow="fold", no_wrap=not place or name in numbers,
        )  # fmt: skip
    for row in rows:
        table.add_row(*(Text(row[place]) for place in places))
    console.print(table)
    if left_out := [name for name in columns if name not in shown]:
        words = f"There is no room for: {', '.join(left_out)}. A wider terminal or --json shows all."
        typer.secho(words, dim=True, err=True)


def day(seconds: float) -> str:
    """Return the day, in UTC, of a time in epoch seconds."""
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _width(text: str) -> int:
    return max(map(cell_len, text.split("\n")))


def _needed(widths: dict[str, int], shown: Sequence[str]) -> int:
    return sum(widths[name] for name in shown) + GAP * (len(shown) - 1)
