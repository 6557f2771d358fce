"""Pages of files that a library has mapped into this process."""

from __future__ import annotations

import ctypes
from pathlib import Path

MADV_DONTNEED = 4
"""From Linux's `asm-generic/mman-common.h`: drop the pages; those of an unwritten mapping are read again when touched."""


def forget_pages(folder: Path, maps: Path = Path("/proc/self/maps")) -> int:
    """Take the read-only mappings of a folder's files out of this process's memory; return how many bytes they span.

    A backend reads all weights once, to pack them in its own form, and after that only the rows of the embeddings that
    texts need: what it never looks at again should not count as this process's memory. The pages stay in the system's
    file cache. Where there is no `maps` (not Linux), nothing happens.
    """
    try:
        lines = maps.read_text().splitlines()
    except OSError:
        return 0
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    total = 0
    for line in lines:
        # address range, permissions, offset, device, inode, path
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and Path(fields[5]).parent == folder and "w" not in fields[1]:
            start, stop = (int(end, 16) for end in fields[0].split("-"))
            if madvise(start, stop - start, MADV_DONTNEED) == 0:
                total += stop - start
    return total
