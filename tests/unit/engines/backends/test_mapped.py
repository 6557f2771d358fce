from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from phalanx.engines.backends.mapped import forget_pages

PAGES = 64


def resident(path: Path) -> int:
    """Bytes of a file's mappings that are in this process's memory, by the kernel's own count."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(maxsplit=1)[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_pages_of_a_read_only_mapping_are_dropped_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    content = bytes(range(256)) * 16 * PAGES
    path.write_bytes(content)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        assert view[:] == content
        assert resident(path) == len(content)
        assert forget_pages(tmp_path) == len(content)
        assert resident(path) == 0
        assert view[:] == content


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_a_mapping_that_may_have_been_written_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(4096))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as view:
        view[:3] = b"new"
        assert forget_pages(tmp_path) == 0
        assert view[:3] == b"new"


def test_without_a_list_of_mappings_nothing_happens(tmp_path: Path) -> None:
    assert forget_pages(tmp_path, tmp_path / "none") == 0
