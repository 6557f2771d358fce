"""Hundreds of damaged images over HTTP: each is answered, none costs a 5xx, and memory stays. `make fuzz` sends thousands."""

from __future__ import annotations

import gc
import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from mutations import MUTATIONS, mended, mutants, split
from pictures import astronaut, samples, saved

COUNT, SEED = 500, 20_261
STEPS = quote(
    json.dumps(
        [{"metadata": {}}, {"quality": {}}, {"resize": {"width": 200, "height": 200}}, {"rotate": {"angle": 10}}]
    )
)
PATHS = (
    f"/v1/images/process?operations={STEPS}",
    "/v1/faces/detect",
    "/v1/faces/embed",
    "/v1/faces/embed?aligned=true",
)
GROWTH_MIB = 48
CODES = {"ok", "unreadable_input", "unsupported_media_type", "too_large", "no_face", "invalid_request"}


def files() -> list[bytes]:
    return [*samples().values(), saved(astronaut()[60:200, 140:300], "JPEG")]


def rss_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def sent(worker: Any, images: list[bytes]) -> Counter[str]:
    """Send each to the next row; returns how many answers had each code."""
    codes: Counter[str] = Counter()
    for number, data in enumerate(images):
        path = PATHS[number % len(PATHS)]
        answer = worker.post(path, body=data, headers={"content-type": "image/png"})
        assert answer.status == 200 or 400 <= answer.status < 500, (number, path, answer.body)
        codes["ok" if answer.status == 200 else answer.json["code"]] += 1
    return codes


def test_damaged_images_are_results_or_the_callers_fault(worker: Any) -> None:
    """The same ones a second time cost no memory, and a good one is then answered as ever."""
    images = list(itertools.islice(mutants(files(), SEED), COUNT))
    codes = sent(worker, images)
    assert set(codes) <= CODES
    # A fuzz whose files are all refused at the door, or all harmless, tries nothing.
    assert codes["ok"] > COUNT / 10
    assert codes["unreadable_input"] > COUNT / 10
    gc.collect()
    before = rss_mib()
    assert sent(worker, images) == codes
    gc.collect()
    assert rss_mib() - before < GROWTH_MIB
    answer = worker.post(PATHS[1], body=saved(astronaut(), "JPEG"), headers={"content-type": "image/jpeg"})
    assert len(answer.json["faces"]) == 1


@pytest.mark.parametrize("name", samples())
def test_a_file_taken_apart_is_whole_again(name: str) -> None:
    """And has nothing to mend."""
    data = samples()[name]
    assert b"".join(split(data)) == data
    assert mended(data) == data


def test_a_seed_is_a_run() -> None:
    """Every mutation occurs in it, and changes something nearly always."""
    one, other = (list(itertools.islice(mutants(files(), 7), 200)) for _ in range(2))
    assert one == other
    assert sum(data in files() for data in one) < 20
    for mutation in MUTATIONS:
        draw = random.Random(1)
        assert any(mutation(data, draw) != data for data in files()), mutation.__name__
