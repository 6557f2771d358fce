"""`phalanx usage`: reports, whether the books agree, and letting old events go."""

from __future__ import annotations

import enum
import time
from typing import TYPE_CHECKING

import msgspec
import typer

from phalanx.cli.options import AsJson
from phalanx.cli.requests import convert
from phalanx.cli.tables import print_table
from phalanx.cli.worker import call_here, with_app
from phalanx.contract.usage import UsageReportRequest, UsageReportResponse, UsageRow, UsageTotals
from phalanx.services.metering.periods import month_of
from phalanx.services.metering.tiers import tier_policies
from phalanx.services.metering.usage import Difference, compare_books, compare_counters, counted_organisations

if TYPE_CHECKING:
    from phalanx.app import App

SUMS = ("requests", "billed", "units", "tokens", "cached", "errors")
# A worker's journal reaches the ledger every five seconds.
PATIENCE_S = 8.0

app = typer.Typer()


class Grouping(enum.StrEnum):
    """What the lines of a report stand for."""

    DAY = "day"
    KEY = "key"
    OPERATION = "operation"
    MODEL = "model"


@app.command(epilog="Example: phalanx usage report --organisation ann@example.org --from 2026-11-01 --by operation")
def report(
    organisation: str | None = typer.Option(None, help="Show one organisation only."),
    since: str | None = typer.Option(None, "--from", help="The first day, in UTC; that of this month unless given."),
    until: str | None = typer.Option(None, "--to", help="The last day, in UTC; today unless given."),
    by: Grouping = typer.Option(Grouping.DAY, help="What to group by."),
    as_json: AsJson = False,
) -> None:
    """Sum up usage, exactly."""
    given = {"organisation": organisation, "from": since, "to": until, "by": by.value}
    request = convert({name: value for name, value in given.items() if value is not None}, UsageReportRequest)
    answer: UsageReportResponse = with_app(lambda app: call_here(app, app.operations["usage.report"], request))
    if as_json:
        typer.echo(msgspec.json.encode(answer).decode())
        return
    rows = [(row.group or "(none)", *_cells(row)) for row in answer.rows]
    spare = ("cached", "errors", "tokens", "billed")
    print_table((by.value, *SUMS), rows, spare=spare, numbers=SUMS, total=("total", *_cells(answer.total)))
    complete = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(answer.complete_until))
    typer.echo(f"{answer.since} to {answer.until}, complete for calls that began before {complete} UTC")


def _cells(row: UsageRow | UsageTotals) -> list[str]:
    return [f"{getattr(row, name):,}" for name in SUMS]


@app.command(epilog="Example: phalanx usage reconcile --repair")
def reconcile(
    repair: bool = typer.Option(False, "--repair", help="Make daily sums that are wrong anew from their events."),
) -> None:
    """Compare the events with the daily sums and with this month's quota counters; exit status 1 when they differ.

    A counter may differ for a moment while calls are under way; it is looked at
    for some seconds.
    """
    in_books, in_counters = with_app(lambda app: _compare(app, repair=repair))
    for difference in (*in_books, *in_counters):
        typer.echo(str(difference))
    if in_books and repair:
        typer.echo("The daily sums were made anew.", err=True)
    if in_counters or (in_books and not repair):
        raise typer.Exit(1)
    if not in_books:
        typer.echo("Events, daily sums and counters agree.", err=True)


async def _compare(app: App, *, repair: bool) -> tuple[list[Difference], list[Difference]]:
    in_books = [difference async for difference in compare_books(app.usage, repair=repair)]
    counted = await counted_organisations(app.stores.organisations, tier_policies(app.settings))
    period = month_of(time.time())
    return in_books, await compare_counters(app.usage, app.limiter.used, period, counted, patience_s=PATIENCE_S)


@app.command(epilog="Example: USAGE_RETENTION_DAYS=90 phalanx usage expire")
def expire() -> None:
    """Let go of events older than USAGE_RETENTION_DAYS; their daily sums stay. Workers do so by themselves every hour."""

    async def let_go(app: App) -> tuple[int, int]:
        days = app.settings.usage_retention_days
        return days, await app.usage.expire(days) if days else 0

    days, gone = with_app(let_go)
    if not days:
        typer.echo("USAGE_RETENTION_DAYS is 0: events are kept for good.")
    else:
        typer.echo(f"The events of {gone} {'day' if gone == 1 else 'days'} went; {days} days are kept.")
