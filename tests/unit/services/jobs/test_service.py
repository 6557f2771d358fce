"""Jobs as their caller sees them, whatever another worker of the queue has written."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from phalanx.contract.jobs import JobRequest, JobView
from phalanx.ports.jobs import JobRecord
from phalanx.services.jobs.service import JobService

ENDED = JobRecord("job-1", "org-1", "text.embed", "jobs", "failed", b"{}", 1.0)


def seen(record: JobRecord) -> JobView:
    async def find(_organisation: str, _job_id: str) -> JobRecord:
        return record

    service = JobService(cast("Any", SimpleNamespace(find=find)), ["jobs"], *cast("Any", (None,) * 5))
    ticket = cast("Any", SimpleNamespace(caller=SimpleNamespace(organisation="org-1")))
    return asyncio.run(service.get(ticket, JobRequest(id="job-1")))


@pytest.mark.parametrize(
    ("reason", "code", "detail"),
    [
        ('{"code": "no_face", "detail": "there is none"}', "no_face", "there is none"),
        ("a stack trace", "internal", "a stack trace"),
        ("x" * 2000, "internal", "x" * 1000),
        ('{"code": 7}', "internal", '{"code": 7}'),
    ],
)
def test_a_failure_is_told_in_whoevers_words(reason: str, code: str, detail: str) -> None:
    error = seen(ENDED._replace(reason=reason)).error
    assert error is not None
    assert (error.code, error.detail) == (code, detail)


def test_a_result_or_progress_that_is_no_json_is_none() -> None:
    view = seen(ENDED._replace(state="completed", result=b"{", progress=b"\xff"))
    assert (view.state, view.result, view.progress) == ("completed", None, None)
    assert seen(ENDED._replace(state="completed", result=b'{"a": [1]}')).result == {"a": [1]}
