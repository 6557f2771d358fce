"""The reference page: one HTML document, rendered from OpenAPI, that loads nothing and runs no script."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from phalanx.errors import ERRORS

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#fff;--line:#d8dee4;--dim:#59636e;--mark:#0969da;--code:#f6f8fa}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--paper:#0d1117;--line:#30363d;--dim:#9198a1;--mark:#4493f8;--code:#161b22}}
*{box-sizing:border-box}body{margin:0 auto;max-width:64rem;padding:2rem 1.25rem 4rem;background:var(--paper);color:var(--ink);
font:15px/1.55 system-ui,sans-serif}h1{margin:0 0 .25rem;font-size:1.9rem}h2{margin:2.25rem 0 .5rem;font-size:1.1rem;
text-transform:capitalize;border-bottom:1px solid var(--line);padding-bottom:.35rem}p{margin:.4rem 0}a{color:var(--mark)}
nav a{margin-right:.9rem}details{border-bottom:1px solid var(--line)}summary{cursor:pointer;padding:.5rem 0;display:flex;
gap:.75rem;align-items:baseline;flex-wrap:wrap}summary:focus-visible{outline:2px solid var(--mark)}
.method{font:600 .8rem ui-monospace,monospace;color:var(--mark);min-width:3.6rem}.path{font:600 .92rem ui-monospace,monospace}
.dim{color:var(--dim)}pre{background:var(--code);border:1px solid var(--line);border-radius:6px;padding:.75rem;overflow:auto;
font:13px/1.45 ui-monospace,monospace}table{border-collapse:collapse;width:100%;margin:.5rem 0 1rem;font-size:.92rem}
td,th{text-align:left;padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}code{font:.88em ui-monospace,monospace}
"""


def reference_page(document: dict[str, Any]) -> bytes:
    """Return the page of an OpenAPI document, as UTF-8."""
    title = escape(document["info"]["title"])
    groups: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, entry in methods.items():
            groups.setdefault(entry["tags"][0], []).append(_operation(document, path, method, entry))
    links = "".join(f'<a href="#{escape(tag)}">{escape(tag)}</a>' for tag in [*groups, "errors"])
    body = "".join(f'<h2 id="{escape(tag)}">{escape(tag)}</h2>{"".join(parts)}' for tag, parts in groups.items())
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style><h1>{title}</h1>"
        f'<p class="dim">Version {escape(document["info"]["version"])} · <a href="/openapi.json">OpenAPI</a> · '
        "send your key as <code>Authorization: Bearer</code> or <code>X-API-Key</code></p>"
        f"<nav>{links}</nav>{body}{_errors()}</html>"
    )
    return page.encode()


def _operation(document: dict[str, Any], path: str, method: str, entry: dict[str, Any]) -> str:
    parts = [f'<details><summary><span class="method">{method.upper()}</span><span class="path">{escape(path)}</span>']
    parts.append(f'<span class="dim">{escape(entry["summary"])}</span></summary>')
    contents: dict[str, dict[str, Any]] = entry.get("requestBody", {}).get("content", {})
    media = next(iter(contents), "")
    content = contents.get(media, {})
    parts.append(f"<pre>{escape(_curl(method, path, media, content, secured=entry.get('security') != []))}</pre>")
    if entry.get("parameters"):
        parts.append(_fields("Parameters", {p["name"]: p["schema"] for p in entry["parameters"]}, document))
    if "schema" in content:
        parts.append(_fields("Request", _properties(content["schema"], document), document))
    done = next(response for status, response in entry["responses"].items() if status.startswith("2"))
    answer: dict[str, Any] = next(iter(done["content"].values()), {})
    parts.append(_fields("Answer", _properties(answer.get("schema", {}), document), document))
    return "".join(parts) + "</details>"


def _curl(method: str, path: str, media: str, content: dict[str, Any], *, secured: bool) -> str:
    words = ["curl"]
    if method not in ("get", "post"):
        words.append(f"-X {method.upper()}")
    words.append(f'"$PHALANX_URL{path}"')
    if secured:
        words.append('-H "Authorization: Bearer $PHALANX_KEY"')
    example = next(iter(content.get("examples", {}).values()), None)
    if media:
        words.append(f"-H 'Content-Type: {media}'")
        words.append(
            "-d '" + json.dumps(example["value"], ensure_ascii=False) + "'" if example else "--data-binary @file"
        )
    return " \\\n  ".join(words)


def _properties(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    found: dict[str, Any] = schema.get("properties", {})
    return found or ({"": schema} if schema else {})


def _fields(title: str, fields: dict[str, Any], document: dict[str, Any]) -> str:
    if not fields:
        return ""
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td><code>{escape(_type(schema))}</code></td>"
        f'<td class="dim">{escape(_note(schema))}</td></tr>'
        for name, schema in fields.items()
    )
    return f"<table><tr><th>{title}</th><th>type</th><th></th></tr>{rows}</table>"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[1])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return " | ".join(dict.fromkeys(_type(option) for option in options))
    if schema.get("type") == "array":
        return f"[{_type(schema.get('items', {}))}]"
    return str(schema.get("type", "any"))


def _note(schema: dict[str, Any]) -> str:
    words = [schema.get("description", "")]
    if "default" in schema:
        words.append(f"default {json.dumps(schema['default'], ensure_ascii=False)}")
    bounds = {"minimum": "at least", "maximum": "at most", "maxLength": "characters at most"}
    words += [f"{meaning} {schema[name]}" for name, meaning in bounds.items() if name in schema]
    return " · ".join(word for word in words if word)


def _errors() -> str:
    rows = "".join(
        f'<tr id="{code}"><td><code>{code}</code></td><td>{kind.row.http}</td><td class="dim">{escape(kind.row.meaning)}</td></tr>'
        for code, kind in ERRORS.items()
    )
    return f'<h2 id="errors">errors</h2><table><tr><th>code</th><th>status</th><th></th></tr>{rows}</table>'
