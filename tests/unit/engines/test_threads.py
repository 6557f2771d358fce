from __future__ import annotations

from pathlib import Path

import pytest

from phalanx.engines.threads import share_of_cpus, usable_cpus


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def count(tmp_path: Path, *, member: str = "0::/\n", affinity: int = 8) -> int:
    write(tmp_path / "membership", member)
    return usable_cpus(cgroup_root=tmp_path / "cgroup", membership=tmp_path / "membership", affinity=affinity)


def test_without_quota_the_mask_counts(tmp_path: Path) -> None:
    assert count(tmp_path, affinity=3) == 3


def test_no_limit_is_written_max(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/cpu.max", "max 100000\n")
    assert count(tmp_path) == 8


@pytest.mark.parametrize(("quota", "cpus"), [("200000", 2), ("150000", 2), ("50000", 1), ("1000", 1), ("1600000", 8)])
def test_a_version_2_quota_is_rounded_up(tmp_path: Path, quota: str, cpus: int) -> None:
    write(tmp_path / "cgroup/cpu.max", f"{quota} 100000\n")
    assert count(tmp_path) == cpus


def test_the_tightest_level_counts(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/pod/cpu.max", "300000 100000\n")
    write(tmp_path / "cgroup/pod/container/cpu.max", "max 100000\n")
    assert count(tmp_path, member="0::/pod/container\n") == 3


def test_a_version_1_quota_is_read(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "250000\n")
    write(tmp_path / "cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n")
    assert count(tmp_path, member="5:memory:/other\n4:cpu,cpuacct:/box\n") == 3


def test_a_version_1_quota_of_minus_one_is_none(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    write(tmp_path / "cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert count(tmp_path) == 8


@pytest.mark.parametrize("content", ["", "nonsense", "1 2 3", "100000 0"])
def test_a_file_that_cannot_be_read_is_no_limit(tmp_path: Path, content: str) -> None:
    write(tmp_path / "cgroup/cpu.max", content)
    assert count(tmp_path, affinity=4) == 4


def test_without_a_membership_file_the_root_counts(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/cpu.max", "200000 100000\n")
    assert usable_cpus(cgroup_root=tmp_path / "cgroup", membership=tmp_path / "none", affinity=6) == 2


def test_on_this_machine_it_is_at_least_one() -> None:
    assert usable_cpus() >= 1


@pytest.mark.parametrize("processes", [1, 2, 3, 1000])
def test_processes_share_the_processors(processes: int) -> None:
    """Together they run no more threads than can run at once, but each runs one."""
    share = share_of_cpus(processes)
    assert share == 1 or share * processes <= usable_cpus()
