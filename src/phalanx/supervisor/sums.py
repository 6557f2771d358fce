"""The metrics of several workers as those of one: counters and histograms never go down when a worker ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from phalanx.supervisor.messages import Family, Sample
from phalanx.telemetry import MERGES, Merge

COUNTED = frozenset({"counter", "histogram", "summary"})
"""Kinds whose values only grow, so that those of a worker that has ended still count."""

_Series = tuple[str, tuple[tuple[str, str], ...]]
_Totals = dict[str, tuple[Family, dict[_Series, float]]]


class Member(Protocol):
    """One process whose metrics are summed."""

    @property
    def families(self) -> list[Family]:
        """Its latest metrics."""

    @property
    def accepting(self) -> bool:
        """Whether it accepts connections."""


def snapshot(registry: CollectorRegistry) -> list[Family]:
    """Return all values of a registry now, without exemplars."""
    return [
        Family(
            metric.name,
            metric.type,
            metric.documentation,
            [Sample(s.name, dict(s.labels), float(s.value)) for s in metric.samples],
        )
        for metric in registry.collect()
    ]


class SummedMetrics(Collector):
    """What `/metrics` shows for all processes together: `members` are those that live.

    Counters and histograms are summed over the living and the departed, their `_created` is the earliest; gauges are
    merged over the living as `merges` says, by name, else summed.
    """

    def __init__(self, members: Callable[[], Iterable[Member]], merges: Mapping[str, Merge] = MERGES) -> None:
        self._members = members
        self._merges = merges
        self._departed: _Totals = {}

    def depart(self, families: list[Family]) -> None:
        """Keep what a process that has ended had counted."""
        for family in families:
            if family.kind in COUNTED:
                self._add(self._departed, family)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, merged."""
        totals: _Totals = {name: (family, dict(series)) for name, (family, series) in self._departed.items()}
        members = list(self._members())
        serving = [member for member in members if member.accepting] or members
        for member in members:
            for family in member.families:
                if self._rule(family) != "min_accepting" or member in serving:
                    self._add(totals, family)
        for family, series in totals.values():
            metric = Metric(family.name, family.meaning, family.kind)
            for (name, labels), value in series.items():
                metric.add_sample(name, dict(labels), value)
            yield metric

    def _rule(self, family: Family) -> Merge:
        return "sum" if family.kind in COUNTED else self._merges.get(family.name, "sum")

    def _add(self, totals: _Totals, family: Family) -> None:
        _, series = totals.setdefault(family.name, (family, {}))
        rule = self._rule(family)
        for sample in family.samples:
            key = (sample.name, tuple(sample.labels.items()))
            known = series.get(key)
            series[key] = sample.value if known is None else _merged(rule, sample, known)


def _merged(rule: Merge, sample: Sample, known: float) -> float:
    if rule in ("min", "min_accepting") or sample.name.endswith("_created"):
        return min(known, sample.value)
    return max(known, sample.value) if rule == "max" else known + sample.value
