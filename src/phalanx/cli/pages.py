"""Options of commands that print long lists."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import typer

PAGE = 1000

AFTER = typer.Option(None, help="Begin after the one with this id.")
LIMIT = typer.Option(None, min=1, help="Show so many at most; all unless given.")

T = TypeVar("T")


async def read_pages(
    ask: Callable[[dict[str, Any]], Awaitable[tuple[list[T], str]]], *, after: str | None, limit: int | None
) -> list[T]:
    """Return what a list operation has after an id, `limit` of it or all, page by page.

    `ask` is given the fields `after` and `limit` of a request, and returns a page and the id to go on after, if any.
    """
    found: list[T] = []
    while limit is None or len(found) < limit:
        size = PAGE if limit is None else min(PAGE, limit - len(found))
        page, following = await ask({"after": after, "limit": size})
        found += page
        if not following:
            break
        after = following
    return found
