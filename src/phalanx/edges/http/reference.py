"""The reference page: one HTML document, rendered from OpenAPI, that loads nothing and runs no script."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from phalanx.errors import ERRORS

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#fff;--line:#d8dee4;--dim:#59636e;--mark:#0969da;--code:#f6f8fa;
--get:#0969da;--post:#1a7f37;--put:#9a6700;--delete:#cf222e}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--paper:#0d1117;--line:#30363d;--dim:#9198a1;--mark:#4493f8;--code:#161b22;
--get:#4493f8;--post:#3fb950;--put:#d29922;--delete:#f85149}}
*{box-sizing:border-box}html{scroll-padding-top:3.5rem}body{margin:0 auto;max-width:58rem;padding:2rem 1.25rem 4rem;
background:var(--paper);color:var(--ink);font:15px/1.55 system-ui,sans-serif}h1{margin:0 0 .25rem;font-size:1.9rem}
h2{margin:2.5rem 0 .25rem;font-size:1.15rem;border-bottom:1px solid var(--line);padding-bottom:.35rem}
h3{margin:1.5rem 0 .25rem;font:600 .92rem ui-monospace,monospace}p{margin:.4rem 0}a{color:var(--mark)}
td a,nav a{text-decoration:none}nav{display:flex;flex-wrap:wrap;gap:.15rem .9rem;margin:1rem 0}a:hover{text-decoration:underline}
details{border-bottom:1px solid var(--line)}details>div{padding:0 0 1rem 1.2rem}summary{cursor:pointer;padding:.5rem 0;
display:grid;grid-template-columns:.7rem 3.6rem 23rem 1fr;gap:.1rem .5rem;align-items:baseline;list-style:none}
summary::-webkit-details-marker{display:none}summary::before{content:"\\203a";color:var(--dim)}
[open]>summary::before{transform:rotate(90deg)}summary:hover .path{text-decoration:underline}
summary:focus-visible{outline:2px solid var(--mark)}.method{font:600 .78rem ui-monospace,monospace;color:var(--put)}
.get{color:var(--get)}.post{color:var(--post)}.delete{color:var(--delete)}
.path{font:600 .88rem ui-monospace,monospace;overflow-wrap:anywhere}.dim{color:var(--dim)}
pre{background:var(--code);border:1px solid var(--line);border-radius:6px;padding:.75rem;overflow:auto;
font:13px/1.45 ui-monospace,monospace}table{border-collapse:collapse;width:100%;margin:.5rem 0 1rem;font-size:.92rem;
table-layout:fixed}th:nth-child(1){width:24%}th:nth-child(2){width:30%}td,th{text-align:left;padding:.3rem .6rem .3rem 0;
border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}code{font:.88em ui-monospace,monospace}
@media(max-width:48rem){summary{grid-template-columns:.7rem 3.6rem 1fr}summary .dim{grid-column:2/-1}details>div{padding-left:0}
table,tbody{display:block}tr{display:grid;grid-template-columns:2fr 3fr;border-bottom:1px solid var(--line);padding:.3rem 0}
td,th,th:nth-child(n){border:0;padding:0;width:auto}td:nth-child(3){grid-column:1/-1}}
@media(min-width:76rem){body{max-width:73rem;padding-left:15rem}nav{position:fixed;top:2rem;bottom:1rem;margin:0 0 0 -13rem;
width:11rem;flex-direction:column;flex-wrap:nowrap;overflow:auto;gap:.1rem}}
"""

FIRST_CALL = """curl "$PHALANX_URL/v1/text/embed" -H "Authorization: Bearer $PHALANX_KEY" \\
  -H 'Content-Type: application/json' -d '{"texts": ["Hello world"]}'"""

LABELS = {"openai": "OpenAI", "tei": "Text Embeddings Inference", "smally": "smally", "aurum": "Face applications"}
"""Headings that are not their tag with a capital."""

REF = "#/components/schemas/"


def reference_page(document: dict[str, Any]) -> bytes:
    """Return the page of an OpenAPI document, as UTF-8."""
    title = escape(document["info"]["title"])
    groups: dict[str, list[str]] = {}
    asked: list[Any] = []
    answered: list[Any] = []
    for path, methods in document["paths"].items():
        for method, entry in methods.items():
            groups.setdefault(entry["tags"][0], []).append(_operation(document, path, method, entry))
            asked += [entry.get("parameters"), *_shown(entry.get("requestBody", {}), document)]
            answers = (one for status, one in entry["responses"].items() if status.startswith("2"))
            answered += [schema for answer in answers for schema in _shown(answer, document)]
    links = "".join(f'<a href="#{escape(tag)}">{_label(tag)}</a>' for tag in [*groups, "types", "errors"])
    body = "".join(f'<h2 id="{escape(tag)}">{_label(tag)}</h2>{"".join(parts)}' for tag, parts in groups.items())
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style><h1>{title}</h1>"
        f'<p class="dim">Version {escape(document["info"]["version"])} · <a href="/openapi.json">OpenAPI 3.1</a></p>'
        f"<nav>{links}</nav>{_introduction(document)}{body}{_types(asked, answered, document)}{_errors()}</html>"
    )
    return page.encode()


def _label(tag: str) -> str:
    return escape(LABELS.get(tag, tag.capitalize()))


def _introduction(document: dict[str, Any]) -> str:
    """Say how any call is made: where, as whom, and what comes back when it fails."""
    first = f"<pre>{escape(FIRST_CALL)}</pre>" if "/v1/text/embed" in document["paths"] else ""
    return (
        "<p>Send a key, or the access token of a session, as <code>Authorization: Bearer</code>; a key also as "
        "<code>X-API-Key</code>. In the examples <code>PHALANX_URL</code> is the address of this page and "
        f"<code>PHALANX_KEY</code> the key.</p>{first}"
        '<p>A call that fails answers with the status and the code of <a href="#errors">errors</a> and a sentence, as '
        "<code>application/problem+json</code>; routes of other systems use those systems' own envelopes. "
        "<code>X-Request-Id</code> leads to the worker's log, <code>Retry-After</code> says when to come back, "
        "<code>RateLimit</code> what is left of your limits.</p>"
    )


def _operation(document: dict[str, Any], path: str, method: str, entry: dict[str, Any]) -> str:
    name = escape(entry["operationId"])
    # The id is within, since a browser opens what it is led into.
    parts = [f'<details><summary><span class="method {method}">{method.upper()}</span>']
    parts.append(
        f'<span class="path">{escape(path)}</span><span class="dim">{escape(entry["summary"])}</span></summary>'
    )
    parts.append(f'<div id="{name}">')
    parts.append(_prose(entry.get("description", "")))
    contents: dict[str, dict[str, Any]] = entry.get("requestBody", {}).get("content", {})
    media = next(iter(contents), "")
    content = contents.get(media, {})
    request = _resolved(content.get("schema", {}), document)
    parts.append(_prose(request.get("description", "")))
    filled = path
    for one in entry.get("parameters", ()):
        if one["in"] == "path" and "example" in one:
            filled = filled.replace(f"{{{one['name']}}}", str(one["example"]))
    curl = _curl(method, filled, contents, request.get("required", ()), secured=entry.get("security") != [])
    parts.append(f"<pre>{escape(curl)}</pre>")
    parameters = {
        one["name"]: {"description": one.get("description", ""), **one["schema"]} for one in entry.get("parameters", ())
    }
    required = {one["name"] for one in entry.get("parameters", ()) if one.get("required")}
    parts.append(_fields("Parameters", parameters, required))
    parts.append(_fields("Request", _properties(request), {*request.get("required", ())}))
    if others := [escape(kind) for kind in contents if kind != media]:
        parts.append(f'<p class="dim">The body may be <code>{"</code> or <code>".join(others)}</code> instead.</p>')
    status, done = next(pair for pair in entry["responses"].items() if pair[0].startswith("2"))
    answer: dict[str, Any] = next(iter(_shown(done, document)), {})
    kinds = "</code>, <code>".join(escape(kind) for kind in done.get("content", {}))
    parts.append(f"<p>Answers {status}: <code>{kinds}</code></p>{_prose(answer.get('description', ''))}")
    parts.append(_fields("Answer", _properties(answer), None))
    return "".join(parts) + "</div></details>"


def _curl(method: str, path: str, contents: dict[str, Any], required: Iterable[str], *, secured: bool) -> str:
    """Return a call by the first example, else with a picture, if the route takes one."""
    options: list[str] = []
    if method not in ("get", "post") or (method == "post" and not contents):
        options.append(f"-X {method.upper()} ")
    media = next(iter(contents), "")
    example = next(iter(contents.get(media, {}).get("examples", {}).values()), None)
    sent: list[str] = [f"-H 'Content-Type: {media}'", "--data-binary @file"] if media else []
    if example and "image" in example["value"] and "multipart/form-data" in contents:
        # A picture of the reader's own in place of the example's, and without the flags that speak of that one.
        rest = {name: value for name, value in example["value"].items() if name != "image" and value is not True}
        sent = ["-F image=@photo.jpg", *(f"-F '{name}={json.dumps(value)}'" for name, value in rest.items())]
    elif example:
        sent[1] = "-d '" + json.dumps(example["value"], ensure_ascii=False) + "'"
    elif "image/*" in contents:
        path += "".join(f"{'&' if at else '?'}{name}={name.upper()}" for at, name in enumerate(required))
        sent = ["-H 'Content-Type: image/jpeg'", "--data-binary @photo.jpg"]
    elif "multipart/form-data" in contents:
        sent = ["-F images=@one.jpg", "-F images=@two.jpg"]
    words = [f'curl {"".join(options)}"$PHALANX_URL{path}"']
    if secured:
        words.append('-H "Authorization: Bearer $PHALANX_KEY"')
    return " \\\n  ".join([*words, *sent])


def _shown(body: dict[str, Any], document: dict[str, Any]) -> list[Any]:
    """Return the schemas of a request or an answer, whose fields stand beside the route."""
    return [_resolved(content.get("schema", {}), document) for content in body.get("content", {}).values()]


def _resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """Return what a schema refers to, or itself."""
    if str(schema.get("$ref", "")).startswith(REF):
        found: dict[str, Any] = document["components"]["schemas"][schema["$ref"].removeprefix(REF)]
        return found
    return schema


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = schema.get("properties", {})
    return found or (
        {"": schema} if schema.keys() - {"description", "title"} and schema.get("type") != "object" else {}
    )


def _fields(title: str, fields: dict[str, Any], required: set[str] | None) -> str:
    """Return a table of fields; of those that are sent, with what is `required`."""
    if not fields:
        return ""
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td><code>{_type(schema)}</code></td>"
        f'<td class="dim">{_note(schema, None if required is None else name in required)}</td></tr>'
        for name, schema in fields.items()
    )
    return f"<table><tr><th>{title}</th><th>type</th><th></th></tr>{rows}</table>"


def _type(schema: dict[str, Any]) -> str:
    """Return the name of a type as HTML, each that has a name of its own leading to what it is."""
    if "$ref" in schema:
        name = escape(str(schema["$ref"].rsplit("/", 1)[1]))
        return f'<a href="#type-{name}">{name}</a>'
    if "enum" in schema:
        return " | ".join(escape(json.dumps(value)) for value in schema["enum"])
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        kinds = [kind for option in options for kind in _type(option).split(" | ")]
        return " | ".join(dict.fromkeys(kinds))
    if schema.get("type") == "array":
        places = schema.get("prefixItems") or [schema.get("items", {})]
        return f"[{', '.join(map(_type, places))}]"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"{{string: {_type(schema['additionalProperties'])}}}"
    return escape(str(schema.get("type", "any")))


def _note(schema: dict[str, Any], is_required: bool | None) -> str:
    parts = [schema, *schema.get("anyOf", ())]
    words = [_inline(said) for said in dict.fromkeys(part.get("description", "") for part in parts)]
    if is_required:
        words.append("required")
    elif is_required is False and schema.get("default") is not None:
        words.append(f"default <code>{escape(json.dumps(schema['default'], ensure_ascii=False))}</code>")
    words += [said for part in parts for said in _bounds(part)]
    return " · ".join(word for word in words if word)


def _bounds(schema: dict[str, Any]) -> Iterator[str]:
    for least, most, unit in (
        ("minimum", "maximum", ""), ("minLength", "maxLength", " characters"), ("minItems", "maxItems", " items"),
    ):  # fmt: skip
        low, high = schema.get(least), schema.get(most)
        if low is not None and high is not None:
            yield f"{low:,}{unit}" if low == high else f"{low:,} to {high:,}{unit}"
        elif low is not None:
            yield f"at least {low:,}{unit}"
        elif high is not None:
            yield f"at most {high:,}{unit}"


def _prose(text: str) -> str:
    """Return paragraphs, with what is in backticks as code."""
    return "".join(f"<p>{_inline(part)}</p>" for part in re.split(r"\n\s*\n", text.strip()) if part)


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))


def _types(asked: list[Any], answered: list[Any], document: dict[str, Any]) -> str:
    """Return all types that the tables lead to, by name; of those that are sent, with what is required."""
    schemas = document["components"]["schemas"]
    sent = _reached(asked, schemas)
    parts = []
    for name in sorted(sent | _reached(answered, schemas)):
        schema = schemas[name]
        required = {*schema.get("required", ())} if name in sent else None
        table = _fields("Field", _properties(schema), required) or _fields("Value", {"": schema}, None)
        parts.append(f'<h3 id="type-{escape(name)}">{escape(name)}</h3>{_prose(schema.get("description", ""))}{table}')
    return f'<h2 id="types">Types</h2>{"".join(parts)}'


def _reached(roots: list[Any], schemas: dict[str, Any]) -> set[str]:
    """Return the names of the types that requests or answers are made of."""
    left = list(roots)
    found: set[str] = set()
    while left:
        for name in _references(left.pop()):
            if name not in found:
                found.add(name)
                left.append(schemas[name])
    return found


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for name, value in schema.items():
            if name == "$ref" and str(value).startswith(REF):
                yield value.removeprefix(REF)
            else:
                yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _errors() -> str:
    rows = "".join(
        f'<tr id="{code}"><td><code>{code}</code></td><td>{kind.row.http}</td><td class="dim">{escape(kind.row.meaning)}</td></tr>'
        for code, kind in ERRORS.items()
    )
    return f'<h2 id="errors">Errors</h2><table><tr><th>code</th><th>status</th><th></th></tr>{rows}</table>'
