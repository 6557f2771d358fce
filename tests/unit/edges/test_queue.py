"""What the queue edge is made of: the turnstile, ids of events, and the settings of queues."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from phalanx.edges.queue.app import event_id
from phalanx.edges.queue.readable import readable
from phalanx.edges.queue.retrying import backoff_s
from phalanx.edges.queue.turnstile import Turnstile
from phalanx.settings import SettingsError, load
from phalanx.settings.queues import QueueSpec

MADE_MS = 1_795_275_924_123


def test_a_job_that_runs_alone_runs_beside_nobody() -> None:
    async def scenario() -> int:
        turnstile, running, most_beside = Turnstile(), 0, 0

        async def job(*, alone: bool) -> None:
            nonlocal running, most_beside
            async with turnstile.alone() if alone else turnstile.among():
                running += 1
                if alone:
                    assert running == 1
                most_beside = max(most_beside, running)
                for _ in range(3):
                    await asyncio.sleep(0)
                    assert not alone or running == 1
                running -= 1

        await asyncio.gather(*(job(alone=number % 7 == 3) for number in range(100)))
        return most_beside

    assert asyncio.run(scenario()) > 1


def test_who_leaves_while_waiting_keeps_nobody_waiting() -> None:
    async def scenario() -> None:
        turnstile = Turnstile()

        async def alone() -> None:
            async with turnstile.alone():
                raise AssertionError("somebody else runs")

        async with turnstile.among():
            waiting = asyncio.create_task(alone())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(1), turnstile.among():
            pass
        async with asyncio.timeout(1), turnstile.alone():
            pass

    asyncio.run(scenario())


def test_the_id_of_an_event_is_a_uuid_of_the_job_and_its_instant() -> None:
    made = event_id("bull:jobs", "1", MADE_MS)
    parsed = uuid.UUID(made)
    assert str(parsed) == made
    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122
    assert parsed.int >> 80 == MADE_MS
    assert made == event_id("bull:jobs", "1", MADE_MS)
    others = {
        event_id("bull:other", "1", MADE_MS), event_id("bull:jobs", "2", MADE_MS),
        event_id("bull:jobs", "1", MADE_MS + 1),
    }  # fmt: skip
    assert len(others | {made}) == 4


def test_queues_are_read(tmp_path: Any) -> None:
    settings = load({"QUEUES": "jobs, app:faces=key-1"}, folder=tmp_path).settings
    assert settings.queues == (QueueSpec("jobs"), QueueSpec("faces", "app", "key-1"))


@pytest.mark.parametrize("wrong", ["a:b:c", "jobs,bull:jobs", "=key", "two words", "x" * 200])
def test_queues_that_cannot_be_are_refused(wrong: str, tmp_path: Any) -> None:
    with pytest.raises(SettingsError, match="QUEUES"):
        load({"QUEUES": wrong}, folder=tmp_path)


def test_a_job_map_is_read(tmp_path: Any) -> None:
    raw = '{"embed": "text.embed", "faces": {"operation": "faces.embed", "fields": {"photo": "image"}, "defaults": {"a": 1}}}'
    mappings = load({"QUEUE_JOB_MAP": raw}, folder=tmp_path).settings.queue_job_map
    assert mappings["embed"].operation == "text.embed"
    assert mappings["faces"].fields == {"photo": "image"}
    assert bytes(mappings["faces"].defaults["a"]) == b"1"


@pytest.mark.parametrize(
    "wrong", ["[]", "{", '{"a": 1}', '{"a": {"fields": {}}}', '{"a": {"operation": "b", "typo": 1}}']
)
def test_a_job_map_that_cannot_be_is_refused(wrong: str, tmp_path: Any) -> None:
    with pytest.raises(SettingsError, match="QUEUE_JOB_MAP"):
        load({"QUEUE_JOB_MAP": wrong}, folder=tmp_path)


SOUND = {
    "name": "text.embed",
    "data": '{"texts": []}',
    "opts": '{"attempts": 3}',
    "timestamp": "1795275924123",
    "atm": "1",
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"opts": '{"backoff": 500}'},
        {"opts": '{"backoff": {"type": "exponential", "delay": 500}}'},
        {"opts": '{"delay": -1, "removeOnComplete": true, "removeOnFail": {"age": 60, "count": null}}'},
        {"delay": "1500.5", "priority": "-1"},
        {"progress": "{", "stacktrace": "[", "returnvalue": "{"},
        {"parent": '{"id": "1", "queueKey": "bull:other"}', "parentKey": "bull:other:1"},
        {"parentKey": "bull:other:1", "ats": "-1"},
    ],
)
def test_a_job_of_any_producer_is_read(changes: dict[str, str]) -> None:
    found = readable({**SOUND, **changes}, ("phx:at",))
    assert (found.problem, found.broken) == ("", ())
    assert found.fields["opts"] == {**SOUND, **changes}["opts"]
    for name in ("timestamp", "delay", "priority", "atm"):
        int(found.fields.get(name, "0"))


@pytest.mark.parametrize(
    ("changes", "said", "broken"),
    [
        ({"opts": "["}, "options", ()),
        ({"opts": "[]"}, "options", ()),
        ({"opts": "[" * 100_000}, "options", ()),
        ({"opts": '{"attempts": "three"}'}, "attempts", ()),
        ({"opts": '{"attempts": 1e300}'}, "attempts", ()),
        ({"opts": '{"attempts": NaN}'}, "attempts", ()),
        ({"opts": '{"attempts": true}'}, "attempts", ()),
        ({"opts": '{"delay": {}}'}, "delay", ()),
        ({"opts": '{"backoff": "x"}'}, "backoff", ()),
        ({"opts": '{"backoff": {"delay": "x"}}'}, "backoff", ()),
        ({"opts": '{"removeOnFail": "yes"}'}, "removeOnFail", ()),
        ({"opts": '{"removeOnComplete": {"age": "x"}}'}, "removeOnComplete", ()),
        ({"timestamp": "x"}, "timestamp", ("timestamp",)),
        ({"timestamp": "9" * 400, "atm": ""}, "timestamp", ("timestamp", "atm")),
        ({"stc": "inf"}, "stc", ("stc",)),
        ({"phx:at": "\udcff"}, "phx:at", ("phx:at",)),
        ({"parent": "{"}, "parent", ("parent",)),
        ({"parent": "{}", "parentKey": "bull:other:1"}, "parent", ("parent", "parentKey")),
        ({"parentKey": "x"}, "parent", ("parentKey",)),
        ({"ats": "x"}, "ats", ("ats",)),
        ({"ats": "1.5", "atm": "1e3"}, "ats", ("ats", "atm")),
    ],
)
def test_a_job_that_cannot_be_read_says_why(changes: dict[str, str], said: str, broken: tuple[str, ...]) -> None:
    found = readable({**SOUND, **changes}, ("phx:at",))
    assert said in found.problem
    assert found.broken == broken
    assert found.fields["opts"] == "{}"
    assert not set(broken) & set(found.fields)


def test_data_that_do_not_decode_are_for_the_row() -> None:
    found = readable({**SOUND, "data": "{"})
    assert (found.problem, found.fields["data"], found.data) == ("", "null", b"{")


def test_data_that_are_no_text_are_not_run() -> None:
    found = readable({**SOUND, "data": '"\udcff"'})
    assert (found.problem, found.data) == ("the job's data is not UTF-8", b"")


def test_attempts_are_spaced_as_their_producer_says() -> None:
    assert [backoff_s(failures) for failures in (0, 1, 2, 9, 99)] == [1, 2, 4, 60, 60]
    assert [backoff_s(failures, {"type": "exponential", "delay": 100}) for failures in (0, 1, 3)] == [0.1, 0.2, 0.8]
    assert [backoff_s(failures, {"type": "fixed", "delay": 100}) for failures in (0, 3)] == [0.1, 0.1]
    assert backoff_s(3, 250) == 0.25
    assert backoff_s(0, {"type": "fixed"}) == 1
