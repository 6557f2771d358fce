"""The metrics of several processes as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from phalanx.supervisor.messages import Family
from phalanx.supervisor.sums import SummedMetrics, snapshot
from phalanx.telemetry import MERGES, METRICS


@dataclass
class Process:
    """A registry as another process has it, and what the supervisor last heard of it."""

    registry: CollectorRegistry
    accepting: bool = True

    @property
    def families(self) -> list[Family]:
        return snapshot(self.registry)


def process(*, calls: int = 0, seconds: tuple[float, ...] = (), size: float = 0.0, accepting: bool = True) -> Process:
    registry = CollectorRegistry()
    Counter("calls", "Calls.", ("kind",), registry=registry).labels("a").inc(calls)
    histogram = Histogram("seconds", "Time.", buckets=(0.1, 1.0), registry=registry)
    for value in seconds:
        histogram.observe(value)
    for name in ("total_size", "largest", "least", "weakest"):
        Gauge(name, "Size.", registry=registry).set(size)
    return Process(registry, accepting)


class Summed:
    """The sums of processes that come and go."""

    def __init__(self, *processes: Process) -> None:
        self.processes = list(processes)
        self.sums = SummedMetrics(
            lambda: self.processes, {"largest": "max", "least": "min", "weakest": "min_accepting"}
        )
        self.registry = CollectorRegistry()
        self.registry.register(self.sums)

    def depart(self, gone: Process) -> None:
        self.processes.remove(gone)
        self.sums.depart(gone.families)

    def __getitem__(self, series: str) -> float | None:
        name, _, label = series.partition("|")
        key, _, value = label.partition("=")
        return self.registry.get_sample_value(name, {key: value} if key else {})


def test_counters_and_histograms_are_added() -> None:
    summed = Summed(process(calls=3, seconds=(0.05, 5.0)), process(calls=4, seconds=(0.5,)))
    assert summed["calls_total|kind=a"] == 7
    assert summed["seconds_count"] == 3
    assert summed["seconds_sum"] == 5.55
    assert [summed[f"seconds_bucket|le={le}"] for le in ("0.1", "1.0", "+Inf")] == [1, 2, 3]


def test_what_the_departed_counted_stays() -> None:
    """Series never go down when a process is replaced, and its gauges go with it."""
    dead, other = process(calls=3, seconds=(0.05,), size=8), process(calls=4, size=1)
    summed = Summed(dead, other)
    created = summed["calls_created|kind=a"]
    summed.depart(dead)
    assert summed["calls_total|kind=a"] == 7
    summed.processes.append(process(calls=1, size=2))
    assert summed["calls_total|kind=a"] == 8
    assert summed["seconds_count"] == 1
    assert summed["total_size"] == 3
    assert summed["calls_created|kind=a"] == created
    summed.depart(other)
    assert summed["calls_total|kind=a"] == 8


def test_gauges_merge_as_their_rows_say() -> None:
    summed = Summed(process(size=2), process(size=3), process(size=1, accepting=False))
    assert (summed["total_size"], summed["largest"], summed["least"], summed["weakest"]) == (6, 3, 1, 2)
    for member in summed.processes:
        member.accepting = False
    assert summed["weakest"] == 1


@pytest.mark.parametrize("encode", [generate_latest, openmetrics.generate_latest])
def test_both_expositions_have_the_sums(encode: Callable[[CollectorRegistry], bytes]) -> None:
    text = encode(Summed(process(calls=3), process(calls=4)).registry).decode()
    assert 'calls_total{kind="a"} 7.0' in text
    assert text.count("# TYPE seconds histogram") == 1


def test_one_process_reads_as_itself() -> None:
    alone = process(calls=3, seconds=(0.2, 3.0), size=5)
    assert generate_latest(Summed(alone).registry) == generate_latest(alone.registry)


def test_every_gauge_has_a_rule() -> None:
    assert {row.name for row in METRICS} <= set(MERGES)
    assert MERGES["phalanx_ready"] == "min_accepting"
    assert MERGES["phalanx_model_info"] == "max"
