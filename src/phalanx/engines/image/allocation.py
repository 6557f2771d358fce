"""Memory for pictures goes back to the system when a picture is done with."""

from __future__ import annotations

import ctypes
import sys

M_MMAP_THRESHOLD = -3
"""`mallopt`'s name for it in glibc's malloc.h."""

M_TRIM_THRESHOLD = -1

OWN_MAPPING_BYTES = 4 * 2**20
"""Blocks from this size on have a mapping of their own: pictures of 1.4 million pixels, which take longer to decode than to map."""

KEPT_BYTES = 16 * 2**20
"""What may lie free at the end of a heap before it goes back to the system."""


def give_back_large_blocks() -> None:
    """Let glibc unmap large blocks as soon as they are freed, whatever was freed before. Elsewhere nothing is done.

    By itself it raises the size from which it does so to that of each block freed, up to 32 MiB, and pictures of all
    sizes then leave heaps of every thread in pieces: a worker had 601 MiB after 4,000 mixed images, 497 with this.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(M_MMAP_THRESHOLD, OWN_MAPPING_BYTES)
    # glibc raises both together. Left at its 128 KiB, every call would map the end of the heap anew.
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
