"""Tells schemathesis how to write what it does not know: lines of JSON."""

from __future__ import annotations

import json
from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines_of_json(context: Any, value: Any) -> bytes:
    """Write one message, as a stream of one line."""
    return json.dumps(value).encode() + b"\n"
