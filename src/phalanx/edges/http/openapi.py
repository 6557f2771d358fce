"""OpenAPI 3.1 from the operations table, the dialects and the table of errors."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

import phalanx
from phalanx.contract.images import MAX_IMAGES
from phalanx.contract.models import Model
from phalanx.contract.status import Health
from phalanx.edges.http.codec import JSON, NDJSON, OCTETS, SSE, needs_no_body
from phalanx.edges.http.dialects import Dialect, DialectRoute
from phalanx.edges.http.problems import PROBLEM_JSON, Problem
from phalanx.edges.http.system import Info, ProbeAnswer
from phalanx.errors import ERRORS
from phalanx.operations import Body, Kind, Operation

Document = dict[str, Any]

SYSTEM: tuple[tuple[str, str, Any, tuple[int, ...]], ...] = (
    ("/health", "Show versions, stores and models; 503 when the worker cannot serve.", Health, (200, 503)),
    ("/api/health", "The same as /health.", Health, (200, 503)),
    ("/livez", "Tell whether the event loop turns.", ProbeAnswer, (200, 503)),
    ("/readyz", "Tell whether the worker can serve now.", ProbeAnswer, (200, 503)),
    ("/readiness", "The same as /readyz.", ProbeAnswer, (200, 503)),
    ("/startupz", "Tell whether every model has answered once.", ProbeAnswer, (200, 503)),
    ("/info", "Show the default model and the worker's limits (TEI).", Info, (200,)),
)

_SECURITY_SCHEMES: Document = {
    "bearer": {
        "type": "http", "scheme": "bearer", "bearerFormat": "API key or JWT",
        "description": "An API key, or the access token of a session.",
    },
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
}  # fmt: skip

_SECONDS: Document = {"type": "integer", "minimum": 0}
_HEADERS: Document = {
    "Retry-After": {"description": "Seconds after which the call may succeed.", "schema": _SECONDS},
    "WWW-Authenticate": {"description": "The scheme to authenticate by.", "schema": {"type": "string"}},
    "RateLimit-Policy": {
        "description": "The caller's windows: `q` requests in `w` seconds.", "schema": {"type": "string"},
        "example": '"requests";q=60;w=60, "month";q=10000;w=2592000',
    },
    "RateLimit": {
        "description": "Of each window, what remains and the seconds until it is whole.", "schema": {"type": "string"},
        "example": '"requests";r=19;t=1, "month";r=9993;t=864000',
    },
}  # fmt: skip
_HEADERS_OF: dict[int, tuple[str, ...]] = {
    401: ("WWW-Authenticate",),
    429: ("Retry-After", "RateLimit-Policy", "RateLimit"),
    503: ("Retry-After",),
}

BODYLESS_ERRORS = (400, 401, 403, 404, 408, 409, 429, 500, 503, 504)
BODY_ERRORS = (400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503, 504)


def openapi(
    operations: Mapping[str, Operation], dialects: Iterable[Dialect], *, title: str, public_url: str = ""
) -> Document:
    """Return the document of all routes."""
    dialects = tuple(dialects)
    types: list[Any] = [Problem, Model, Health, ProbeAnswer, Info]
    types += [t for row in operations.values() for t in (row.request, row.response)]
    types += [t for dialect in dialects for route in dialect.routes for t in (route.wire, route.answer)]
    types += [dialect.error for dialect in dialects]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    refs = {_key(t): schema for t, schema in zip(types, schemas, strict=True)}
    paths: dict[str, Document] = {}
    adopted = {name: dialect.error for dialect in dialects for name in dialect.adopts}
    for row in operations.values():
        error = refs[_key(adopted.get(row.name, Problem))]
        _put(paths, row.method, row.path, _of_row(row, refs, components, error, is_problem=row.name not in adopted))
    for dialect in dialects:
        for route in dialect.routes:
            entry = _of_dialect(dialect, route, refs, operations[route.operation])
            _put(paths, route.method, route.path, entry)
    _leave_out_path_fields(operations.values(), refs, components)
    for component in components.values():
        if "description" in component:
            component["description"] = inspect.cleandoc(component["description"])
    for path, summary, answer, statuses in SYSTEM:
        _put(paths, "GET", path, _of_system(path, summary, refs[_key(answer)], statuses, refs[_key(Problem)]))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": phalanx.__version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": public_url or "/"}],
        "security": [{"bearer": []}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "headers": _HEADERS,
            "securitySchemes": _SECURITY_SCHEMES,
        },
    }


def _leave_out_path_fields(rows: Iterable[Operation], refs: Document, components: Document) -> None:
    """Have requests that come as bodies leave out what their routes have in the path."""
    in_paths: dict[str, list[set[str]]] = {}
    for row in rows:
        if row.bodies != (Body.NONE,):
            in_paths.setdefault(_key(row.request), []).append(set(re.findall(r"\{(\w+)", row.path)))
    for key, several in in_paths.items():
        component = components[refs[key]["$ref"].rpartition("/")[2]]
        for name in set.intersection(*several) & component.get("properties", {}).keys():
            del component["properties"][name]
            component["required"] = [one for one in component.get("required", ()) if one != name]


def _key(kind: Any) -> str:
    return str(kind)


def _put(paths: dict[str, Document], method: str, path: str, entry: Document) -> None:
    paths.setdefault(re.sub(r":\w+\}", "}", path), {})[method.lower()] = entry


def _of_row(row: Operation, refs: Document, components: Document, error: Any, *, is_problem: bool) -> Document:
    in_path = re.findall(r"\{(\w+)", row.path)
    # By its reference: where rows from outside bring a struct of the same name, both have longer ones.
    schema = components[refs[_key(row.request)]["$ref"].rpartition("/")[2]]
    fields: Document = schema.get("properties", {})
    known = row.examples[0] if row.examples else {}
    parameters: list[Document] = [
        {"name": n, "in": "path", "required": True, "schema": _plain(fields[n])}
        | ({"example": known[n]} if n in known else {})
        for n in in_path
    ]
    if Body.JSON not in row.bodies:
        required = schema.get("required", [])
        parameters += [
            {"name": n, "in": "query", "required": n in required, "schema": _plain(field)}
            for n, field in fields.items()
            if n not in in_path and not (n == "image" and Body.IMAGE in row.bodies) and Body.VECTORS not in row.bodies
        ]
    if Body.VECTORS in row.bodies:
        # What is nothing unless it is given belongs to other forms of the request than two matrices.
        parameters += [
            {"name": n, "in": "query", "description": f"With a body of `{OCTETS}`.", "schema": _plain(field)}
            for n, field in fields.items()
            if field.get("default") is not None
        ]
    if row.method == "POST":
        parameters.append(_IDEMPOTENCY)
    entry: Document = {
        "operationId": row.name, "summary": row.summary, "description": _terms(row), "tags": [row.noun],
        "parameters": parameters,
        "responses": _responses(
            _answers(row, refs[_key(row.response)]), error, PROBLEM_JSON if is_problem else JSON,
            BODYLESS_ERRORS if row.bodies == (Body.NONE,) else (*BODY_ERRORS, *_fetch_errors(row)), row.status,
        ),
    }  # fmt: skip
    if row.scope == "open":
        entry["security"] = []
    if row.cache == "revalidate":
        entry["responses"]["304"] = {"description": "The client's copy is current."}
    if row.bodies != (Body.NONE,):
        content = _contents(row, refs[_key(row.request)])
        entry["requestBody"] = {"required": not needs_no_body(row), "content": content}
    return entry


def _terms(row: Operation) -> str:
    """Say who may call a row, what it is billed by, and whether it may be a job."""
    words = {None: "Any credential will do.", "open": "No credential is needed."}.get(
        row.scope, f"Scope `{row.scope}`."
    )
    if row.metered:
        words += f" Billed by the {row.unit}."
    if row.job:
        words += f" As a job: `{row.name}`."
    return words


def _fetch_errors(row: Operation) -> tuple[int, ...]:
    """An image may be a URL, whose host may fail."""
    return (502,) if Body.IMAGE in row.bodies and Body.JSON in row.bodies else ()


_IDEMPOTENCY: Document = {
    "name": "Idempotency-Key", "in": "header", "required": False,
    "description": "Sent again with the same request, it brings the first answer back, unbilled, for a day.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}  # fmt: skip


def _plain(field: Document) -> Document:
    """A parameter cannot be null in a path or a query, so that half of a union is left out."""
    if "anyOf" in field:
        kept = [part for part in field["anyOf"] if part.get("type") != "null"]
        return kept[0] if len(kept) == 1 else {"anyOf": kept}
    return {name: value for name, value in field.items() if name != "default" or value is not None}


def _contents(row: Operation, schema: Any) -> Document:
    contents: Document = {}
    for body in row.bodies:
        if body is Body.JSON:
            media = NDJSON if row.kind is Kind.CLIENT_STREAM else JSON
            in_path = re.findall(r"\{(\w+)", row.path)
            examples = tuple({n: value for n, value in one.items() if n not in in_path} for one in row.examples)
            contents[media] = {"schema": schema, "examples": _examples(examples)}
        elif body is Body.IMAGE:
            # Other fields come in the query or as parts of the form, those that are lists or objects as JSON.
            binary = {"type": "string", "contentMediaType": "image/*"}
            several = {"type": "array", "items": binary, "maxItems": MAX_IMAGES}
            takes = {"image": binary, "images": several}
            files = {name: takes[name] for name in takes if name in row.request.__struct_encode_fields__}
            if "image" in files:
                contents["image/*"] = {"schema": binary}
            contents["multipart/form-data"] = {"schema": {"type": "object", "properties": files, "minProperties": 1}}
        elif body is Body.VECTORS:
            contents[OCTETS] = {"schema": {"type": "string", "contentMediaType": OCTETS}}
    return contents


def _answers(row: Operation, schema: Any) -> Document:
    if row.kind is Kind.SERVER_STREAM:
        return {SSE: {"schema": schema}, NDJSON: {"schema": schema}}
    if row.kind is Kind.CLIENT_STREAM:
        return {NDJSON: {"schema": schema}, SSE: {"schema": schema}}
    answers: Document = {JSON: {"schema": schema}}
    if Body.IMAGE in row.answers:
        answers["image/*"] = {"schema": {"type": "string", "contentMediaType": "image/*"}}
    if Body.VECTORS in row.bodies:
        answers[OCTETS] = {"schema": {"type": "string", "contentMediaType": OCTETS}}
    return answers


def _of_dialect(dialect: Dialect, route: DialectRoute, refs: Document, row: Operation) -> Document:
    return {
        "operationId": f"{dialect.name}:{route.path}", "summary": route.summary, "tags": [dialect.name],
        "parameters": [_IDEMPOTENCY],
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": refs[_key(route.wire)], "examples": _examples(route.examples)}},
        },
        "responses": _responses({JSON: {"schema": refs[_key(route.answer)]}}, refs[_key(dialect.error)], JSON, (*BODY_ERRORS, *_fetch_errors(row))),
    }  # fmt: skip


def _of_system(path: str, summary: str, schema: Any, statuses: tuple[int, ...], problem: Any) -> Document:
    responses: Document = {
        str(status): {"description": "Yes." if status == 200 else "No.", "content": {JSON: {"schema": schema}}}
        for status in statuses
    }
    if 503 not in statuses:
        responses["503"] = {"description": _meaning(503), "content": {PROBLEM_JSON: {"schema": problem}}}
    return {
        "operationId": f"system:{path}",
        "summary": summary,
        "tags": ["system"],
        "security": [],
        "responses": responses,
    }


def _responses(
    answers: Document, error: Any, error_media: str, statuses: Iterable[int], status_of_answer: int = 200
) -> Document:
    out: Document = {str(status_of_answer): {"description": "The answer.", "content": answers}}
    for status in statuses:
        out[str(status)] = {"description": _meaning(status), "content": {error_media: {"schema": error}}}
        if status in _HEADERS_OF:
            out[str(status)]["headers"] = {
                name: {"$ref": f"#/components/headers/{name}"} for name in _HEADERS_OF[status]
            }
    return out


def _meaning(status: int) -> str:
    return " ".join(f"`{code}`: {kind.row.meaning}" for code, kind in ERRORS.items() if kind.row.http == status)


def _examples(examples: tuple[Document, ...]) -> Document:
    return {f"example {number}": {"value": value} for number, value in enumerate(examples, 1)}
