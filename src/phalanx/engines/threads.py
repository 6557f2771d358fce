"""How many processors this process may really use.

A container's CPU quota is no limit on the cores that it sees: an engine that starts a thread a core under a quota of
two spends its time throttled. So the count is the smallest of affinity mask and quotas.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cpus(*, cgroup_root: Path = CGROUP_ROOT, membership: Path = MEMBERSHIP, affinity: int | None = None) -> int:
    """Return how many threads can run at once, at least 1: a quota of 1.5 processors gives 2.

    Reads the quotas of every level of the process's cgroup, version 2 (`cpu.max`) and version 1 (`cpu.cfs_quota_us`).
    `affinity` is the number of cores of the process's mask, asked of the system when it is None.
    """
    cores = affinity if affinity is not None else visible_cores()
    quotas = [quota for folder in _folders(cgroup_root, membership) if (quota := _quota(folder)) is not None]
    return max(1, min(cores, *(math.ceil(quota) for quota in quotas))) if quotas else max(1, cores)


def share_of_cpus(processes: int) -> int:
    """Return how many threads each of several processes may run, so that all can run at once; at least 1."""
    return max(1, usable_cpus() // processes)


def visible_cores() -> int:
    """Return the number of cores of the process's affinity mask, whatever its quota."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def _folders(root: Path, membership: Path) -> Iterator[Path]:
    """Yield the folders of the process's cgroups and of all above them, the root's own too."""
    yield from (root, root / "cpu", root / "cpu,cpuacct")
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "cpu", "cpu,cpuacct"):
            continue
        top = root / controllers
        folder = top / path.lstrip("/")
        while folder != top and top in folder.parents:
            yield folder
            folder = folder.parent


def _quota(folder: Path) -> float | None:
    """Return a cgroup's quota in processors, None where there is no limit or no such file."""
    try:
        if (file := folder / "cpu.max").is_file():
            quota, period = file.read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return float(quota) / float(period) if quota != "max" and float(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
