"""`phalanx work`: take jobs from BullMQ's queues in Redis."""

from __future__ import annotations

import dataclasses

import typer

from phalanx.cli.worker import read_settings
from phalanx.settings import SettingsError
from phalanx.settings.queues import chosen


def work(
    queues: list[str] = typer.Argument(
        None,
        metavar="QUEUE",
        help="Queues to take jobs from, in place of all of QUEUES: name, prefix:name or name=key-id.",
    ),
    concurrency: str = typer.Option("", "--concurrency", metavar="N", help="In place of QUEUE_CONCURRENCY."),
) -> None:
    """Take jobs from BullMQ's queues in Redis until SIGTERM or Ctrl-C; a second signal gives back at once what runs.

    A job's name is an operation, its data the operation's request. A queue that
    QUEUES binds to a key keeps it.

    \b
    Examples:
      phalanx work jobs
      phalanx work faces=019a6f0e-5c1b-7000-8000-000000000001 --concurrency 50
    """
    settings = read_settings({"QUEUE_CONCURRENCY": concurrency} if concurrency else {})
    try:
        settings = dataclasses.replace(settings, queues=chosen(queues or (), settings.queues))
    except ValueError as error:
        raise SettingsError([f"QUEUE: {error}."]) from None
    # Here, since the parts of a worker take a second to read: help, and what is wrong with settings, are told before.
    from phalanx.cli import working

    working.work(settings)
