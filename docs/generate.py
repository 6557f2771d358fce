"""Write the documents that are read off the code: `make docs`. With --check, fail when one is out of date.

docs/operations.md has tables from the settings and the ports, docs/errors.md from the table of errors, docs/api.md from the table of
operations and the dialects, docs/metrics.md from the table of metrics, docs/openapi.json from all of them.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from phalanx import ports
from phalanx.edges.http.app import DIALECTS
from phalanx.edges.http.openapi import openapi
from phalanx.errors import ERRORS
from phalanx.operations import table
from phalanx.settings import Settings, reference
from phalanx.telemetry import METRICS, SUPERVISOR_METRICS

FOLDER = Path(__file__).parent
NOTE = "<!-- Written by `make docs`; edit the code instead. -->\n\n"


def operations_guide() -> str:
    """The guide with its two tables: what each seam does when it is down, and every environment variable."""
    settings = "".join(
        f"| `{name}` | {f'`{default}`' if default else ''} | {meaning} |\n" for name, default, meaning in reference()
    )
    failures = "".join(f"| `{name}` | {policy} |\n" for name, policy in failure_policies())
    text = (FOLDER / "operations.md").read_text()
    text = filled(text, "failures", f"| Seam | Without what stands behind it |\n|---|---|\n{failures}")
    return filled(text, "settings", f"| Variable | Default | Meaning |\n|---|---|---|\n{settings}")


def failure_policies() -> list[tuple[str, str]]:
    """Return each port's name with the sentences after `Down:` of its documentation."""
    documented = [(name, inspect.getdoc(getattr(ports, name)) or "") for name in ports.__all__]
    found = [(name, re.search(r"Down: (.+?)(?:\n\n|$)", text, re.DOTALL)) for name, text in documented]
    return [(name, " ".join(match[1].split())) for name, match in found if match]


def filled(text: str, block: str, content: str) -> str:
    """Return a text with what stands between a block's marks replaced."""
    begin, end = f"<!-- begin: {block} -->\n", f"<!-- end: {block} -->"
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}\n{content}\n{end}{tail}"


def errors_page() -> str:
    """Every error."""
    retry = {"no": "no", "after": "after `Retry-After`", "yes": "yes"}
    rows = "".join(
        f"| `{code}` | {kind.row.http} | {kind.row.grpc} | {retry[kind.row.retry]} | {kind.row.meaning} |\n"
        for code, kind in ERRORS.items()
    )
    return (
        f"# Errors\n\n{NOTE}The same table holds for HTTP, gRPC and jobs. Canonical routes answer with RFC 9457 "
        "`application/problem+json`; dialects put the same code and sentence into their own envelope.\n\n"
        f"| Code | HTTP | gRPC | Retry | Meaning |\n|---|---|---|---|---|\n{rows}"
    )


def operations_page() -> str:
    """Every row and every dialect route."""
    rows = "".join(
        f"| `{row.name}` | `{row.http}` | `{row.grpc}` | {row.scope or 'any key'} | {row.unit} | {row.kind.value} | {row.cache} | {row.summary} |\n"
        for row in table(plugins=False).values()
    )
    routes = "".join(
        f"| {dialect.name} | `{route.method} {route.path}` | `{route.operation}` |\n"
        for dialect in DIALECTS
        for route in dialect.routes
    )
    return (
        f"# Operations\n\n{NOTE}Each operation is one row of the table in `src/phalanx/operations/`. `phalanx call NAME` runs any of "
        "them without a server.\n\n| Operation | Route | gRPC | Scope | Unit | Kind | Cache | |\n|---|---|---|---|---|---|---|---|\n"
        f"{rows}\n## Dialects\n\nRoutes in the formats of other systems, for the same operations.\n\n| Dialect | Route | Operation |\n|---|---|---|\n{routes}"
    )


def metrics_page() -> str:
    """Every metric."""
    rows = "".join(
        f"| `{row.name}{'_total' if row.kind.__name__ == 'Counter' else ''}` | {row.kind.__name__.lower()} | "
        f"{', '.join(row.labels)} | {row.meaning} |\n"
        for row in (*METRICS, *SUPERVISOR_METRICS)
    )
    return f"# Metrics\n\n{NOTE}Served on `PROMETHEUS_BIND`. With several workers their supervisor serves the sums, and adds the last two metrics.\n\n| Metric | Kind | Labels | Meaning |\n|---|---|---|---|\n{rows}"


def openapi_document() -> str:
    """The OpenAPI document of the worker without plug-ins."""
    document = openapi(table(plugins=False), DIALECTS, title=Settings().app_name)
    return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "operations.md": operations_guide,
    "errors.md": errors_page,
    "api.md": operations_page,
    "metrics.md": metrics_page,
    "openapi.json": openapi_document,
}


def main() -> int:
    """Write or check every page; returns the exit status."""
    stale = [
        name for name, page in PAGES.items() if not (FOLDER / name).is_file() or (FOLDER / name).read_text() != page()
    ]
    if "--check" in sys.argv:
        for name in stale:
            print(f"docs/{name} is out of date; run: make docs", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (FOLDER / name).write_text(PAGES[name]())
        print(f"wrote docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
