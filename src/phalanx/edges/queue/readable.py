"""What Redis has of a job, made so that BullMQ can read it: whoever writes to Redis may have written anything."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

NUMBERS = ("timestamp", "delay", "priority", "processedOn", "finishedOn", "attemptsMade")
"""Fields of BullMQ's that it takes for whole numbers; another worker's way to back off may have left a fraction."""
COUNTERS = ("ats", "atm", "stc")
"""Fields that its scripts count up: whole numbers as Redis writes them. `ats` is one before the job is handed out."""
UNUSED = ("progress", "stacktrace", "parent", "returnvalue")
"""Fields that BullMQ decodes and nobody here looks at."""
LARGEST = 2**53
KEEPS = ("removeOnComplete", "removeOnFail")


class Readable(NamedTuple):
    """The fields of a job, and its data apart. `problem` says what is wrong with it, if anything; `broken` are fields that Redis must lose.

    BullMQ's scripts add to numbers and decode the parent: a job could not be told as failed while they cannot.
    """

    fields: dict[str, Any]
    problem: str = ""
    broken: tuple[str, ...] = ()
    data: bytes = b""


def readable(raw: Mapping[str, Any], ours: tuple[str, ...] = ()) -> Readable:
    """Return what can be read of a job's hash. `ours` are counters beside BullMQ's own."""
    fields = {name: value for name, value in raw.items() if name not in UNUSED}
    numbers = {name: _whole(fields.pop(name)) for name in NUMBERS if name in fields}
    numbers |= {name: _count(fields.pop(name)) for name in (*COUNTERS, *ours) if name in fields}
    fields |= {name: str(number) for name, number in numbers.items() if number is not None}
    broken = tuple(name for name, number in numbers.items() if number is None)
    problem = f"the job's {broken[0]} is no number" if broken else _problem(fields.get("opts", "{}"))
    if not _names_parent(raw):
        broken += tuple(name for name in ("parent", "parentKey") if name in raw)
        problem = "the job's parent cannot be read"
        fields.pop("parentKey", None)
    try:
        data = str(raw.get("data", "")).encode()
    except UnicodeEncodeError:
        data, problem = b"", problem or "the job's data is not UTF-8"
    if problem:
        fields["opts"] = "{}"
    # The data are for the row; those of a repeated job go on to its next.
    if "rjk" not in fields or not _is_json(fields.get("data", "")):
        fields["data"] = "null"
    return Readable(fields, problem, broken, data)


def _problem(options: str) -> str:
    """Return what is wrong with a job's options, or nothing."""
    if not _is_json(options, dict):
        return "the job's options are not JSON"
    known = json.loads(options)
    for name in ("attempts", "delay"):
        if name in known and not _is_number(known[name]):
            return f"the job's option {name} is no number"
    backoff = known.get("backoff")
    if not (
        backoff is None or _is_number(backoff) or (isinstance(backoff, dict) and _is_number(backoff.get("delay", 0)))
    ):
        return "the job's option backoff is neither a number nor {type, delay}"
    for name in KEEPS:
        if not _is_keep(known.get(name)):
            return f"the job's option {name} is none of true, false, a number and {{age, count}}"
    return ""


def _names_parent(raw: Mapping[str, Any]) -> bool:
    """Whether a job has no parent, or one that BullMQ's scripts can name: `{id, queueKey}`, or by its key alone."""
    if "parent" not in raw:
        return ":" in raw.get("parentKey", ":")
    if not _is_json(raw["parent"], dict):
        return False
    parent = json.loads(raw["parent"])
    return isinstance(parent.get("id"), str | int) and isinstance(parent.get("queueKey"), str)


def _is_keep(wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return all(_is_number(wanted[name]) for name in ("age", "count", "limit") if wanted.get(name) is not None)
    return wanted is None or isinstance(wanted, bool) or _is_number(wanted)


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and abs(value) <= LARGEST
    )


def _whole(text: str) -> int | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if _is_number(number) else None


def _count(text: str) -> int | None:
    number = _whole(text)
    return number if str(number) == text else None


def _is_json(text: str, kind: type = object) -> bool:
    try:
        return isinstance(json.loads(text), kind)
    except (ValueError, RecursionError):
        return False
