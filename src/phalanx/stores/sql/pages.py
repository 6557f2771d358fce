"""Long lists, a page at a time."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, Table, and_, or_, select


def page(query: Select[Any], table: Table, *, after: str | None, limit: int | None) -> Select[Any]:
    """Return a query for what comes after a row of `table`, by age, at most `limit` rows. Nothing comes after no row.

    A place in the order is told by what stands there, not counted: rows that are added meanwhile move no page.
    """
    columns = table.c
    query = query.order_by(columns.created_at, columns.id).limit(limit)
    if after is None:
        return query
    made_at = select(columns.created_at).where(columns.id == after).scalar_subquery()
    return query.where(or_(columns.created_at > made_at, and_(columns.created_at == made_at, columns.id > after)))
