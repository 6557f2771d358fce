"""The settings of queues: which are worked on, for whom, and how an application's own jobs read as operations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct

DEFAULT_PREFIX = "bull"
"""Of the names in Redis: BullMQ's own default."""
DEFAULT_QUEUE = "phalanx"
"""What jobs of the API are put into where QUEUES names no queue."""
_QUEUE = re.compile(r"(?:(?P<prefix>[^:=,\s]{1,64}):)?(?P<name>[^:=,\s]{1,128})(?:=(?P<key_id>[^:=,\s]{1,64}))?")


class QueueSpec(NamedTuple):
    """A queue: its name, the prefix of its names in Redis, and the id of the key as which jobs without a token run."""

    name: str
    prefix: str = DEFAULT_PREFIX
    key_id: str = ""


class JobMapping(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How jobs of one name read: the operation, its fields by the names that the application gives them, and constants.

    Fields that are `dropped` are the application's own business.
    """

    operation: str
    fields: dict[str, str] = {}
    defaults: dict[str, msgspec.Raw] = {}
    dropped: tuple[str, ...] = ()


def queues(raw: str) -> tuple[QueueSpec, ...]:
    """Queues by comma, each `name`, `prefix:name` or `name=key-id`."""
    found: list[QueueSpec] = []
    for word in (part.strip() for part in raw.split(",")):
        if not word:
            continue
        match = _QUEUE.fullmatch(word)
        if match is None:
            raise ValueError(f"{word!r} is none of name, prefix:name, name=key-id")
        spec = QueueSpec(match["name"], match["prefix"] or DEFAULT_PREFIX, match["key_id"] or "")
        if any((spec.prefix, spec.name) == (other.prefix, other.name) for other in found):
            raise ValueError(f"the queue {spec.name!r} is named twice")
        found.append(spec)
    return tuple(found)


def chosen(words: Sequence[str], known: Sequence[QueueSpec]) -> tuple[QueueSpec, ...]:
    """The queues of `words`, or all that are `known` where there are none. One without a key has the key that is known of it."""
    places = {(spec.prefix, spec.name): spec for spec in known}
    named = queues(",".join(words))
    if not named:
        return tuple(known)
    return tuple(spec if spec.key_id else places.get((spec.prefix, spec.name), spec) for spec in named)


def job_map(raw: str) -> Mapping[str, JobMapping]:
    """A JSON object: by the name of a job an operation, or an object with `operation`, `fields`, `defaults`, `dropped`."""
    try:
        found = msgspec.json.decode(raw, type=dict[str, str | JobMapping])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"it is no JSON object of operations by names of jobs: {error}") from None
    return {name: JobMapping(operation=one) if isinstance(one, str) else one for name, one in found.items()}
