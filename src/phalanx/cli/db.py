"""`phalanx db`: the database's schema."""

from __future__ import annotations

import typer

from phalanx.cli.worker import read_settings
from phalanx.stores.sql.database import check as check_schema
from phalanx.stores.sql.database import downgrade as downgrade_schema
from phalanx.stores.sql.database import migrate as migrate_schema

app = typer.Typer()


@app.command(epilog="Example: DATABASE_URL=postgresql://… phalanx db migrate")
def migrate() -> None:
    """Bring the database to this version's schema; one that is there already is left alone."""
    migrate_schema(read_settings().database)
    typer.echo("The database has this version's schema.")


@app.command(epilog="Example: phalanx db check || phalanx db migrate")
def check() -> None:
    """Say whether the database has this version's schema; exit status 1 when it has not."""
    if not check_schema(read_settings().database):
        typer.secho("The database has another schema; run: phalanx db migrate", fg="red", err=True)
        raise typer.Exit(1)
    typer.echo("The database has this version's schema.")


@app.command(epilog="Example: phalanx db downgrade 0001")
def downgrade(
    revision: str = typer.Argument(help="The revision to go back to; `base` empties the database."),
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
) -> None:
    """Take the schema back to an earlier revision."""
    if not yes:
        typer.confirm(f"Going back to {revision} may drop data. Go on?", abort=True)
    downgrade_schema(read_settings().database, revision)
    typer.echo(f"The database is at {revision}.")
