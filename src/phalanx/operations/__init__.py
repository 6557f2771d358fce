"""The table: one row per API call, and `call()`, the only way in.

REST routes, OpenAPI, the command line, the docs and the edges' tests are read off `OPERATIONS`. A new capability is
contract structs, an engine, a service, and a row in the module of its noun; others add rows through the entry-point
group `phalanx.operations`.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import entry_points

from phalanx.operations.audit import AUDIT
from phalanx.operations.callers import CALLERS
from phalanx.operations.calling import Entrance, Read, Stream, call
from phalanx.operations.collections import COLLECTIONS
from phalanx.operations.faces import FACES
from phalanx.operations.gallery import GALLERY
from phalanx.operations.images import IMAGES
from phalanx.operations.jobs import JOBS
from phalanx.operations.keys import KEYS
from phalanx.operations.models import MODELS
from phalanx.operations.row import Body, Kind, Operation, Services
from phalanx.operations.system import SYSTEM
from phalanx.operations.text import TEXT
from phalanx.operations.usage import USAGE
from phalanx.operations.vectors import VECTORS

__all__ = [
    "OPERATIONS",
    "Body",
    "Entrance",
    "Kind",
    "Operation",
    "Read",
    "Services",
    "Stream",
    "call",
    "index",
    "table",
]

PLUGIN_GROUP = "phalanx.operations"

OPERATIONS: tuple[Operation, ...] = (
    *TEXT, *IMAGES, *FACES, *VECTORS, *COLLECTIONS, *GALLERY, *JOBS, *MODELS, *CALLERS, *KEYS, *USAGE, *AUDIT, *SYSTEM,
)  # fmt: skip


def table(*, plugins: bool = True) -> dict[str, Operation]:
    """Return all rows by name, those of installed plug-ins too.

    A plug-in's entry point in the group `phalanx.operations` is a row or an iterable of rows. Raises `ValueError` when
    two rows share a name or a route.
    """
    rows = list(OPERATIONS)
    if plugins:
        for point in sorted(entry_points(group=PLUGIN_GROUP), key=lambda point: point.name):
            found = point.load()
            rows += [found] if isinstance(found, Operation) else list(found)
    return index(rows)


def index(rows: Iterable[Operation]) -> dict[str, Operation]:
    """Return rows by name. Raises `ValueError` when two share a name or a route."""
    by_name: dict[str, Operation] = {}
    routes: dict[str, str] = {}
    for row in rows:
        if row.name in by_name:
            raise ValueError(f"two operations are called {row.name!r}")
        if row.http in routes:
            raise ValueError(f"the operations {routes[row.http]!r} and {row.name!r} share the route {row.http!r}")
        by_name[row.name], routes[row.http] = row, row.name
    return by_name
