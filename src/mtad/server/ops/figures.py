"""The figures of several replicas as those of one server.

Counters and histograms are added up, those of replicas that are gone too, so that a counter never
falls. Knows no Ray and no replica: texts in Prometheus' format go in, and one comes out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

SHARE = "_perc"
"""The end of a gauge's name that is a share: of several, the mean is told."""
REMEMBERED = 16
"""Replicas that are gone and may yet turn out to be slow; earlier ones are one sum."""


@dataclass(frozen=True, eq=False)
class _Families(Collector):
    """Families as they are, for Prometheus' own writer."""

    families: Collection[Metric]

    def collect(self) -> Iterator[Metric]:
        yield from self.families


def added(texts: Iterable[str]) -> bytes:
    """One text of figures that are the sums of the same figures in all texts; means of shares."""
    return _written(_summed(texts))


def _written(families: Collection[Metric]) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families))
    return generate_latest(registry)


def _summed(texts: Iterable[str]) -> list[Metric]:
    sums: dict[str, tuple[Metric, dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            _, found = sums.setdefault(family.name, (family, {}))
            for sample in family.samples:
                key = (sample.name, tuple(sample.labels.items()))
                found.setdefault(key, []).append(sample.value)
    return [_family(family, found) for family, found in sums.values()]


def _family(
    like: Metric, found: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]
) -> Metric:
    family = Metric(like.name, like.documentation, like.type)
    for (name, labels), values in found.items():
        count = len(values) if like.name.endswith(SHARE) else 1
        family.add_sample(name, dict(labels), sum(values) / count)
    return family


def lasting(text: str) -> str:
    """What stays true of a replica that is gone: its counters and histograms."""
    kept = [f for f in text_string_to_metric_families(text) if f.type in ("counter", "histogram")]
    return _written(kept).decode()


@dataclass
class Board:
    """What the replicas last said of themselves.

    Attributes:
        silence_s: a replica that says nothing for as long is gone.
        texts: the figures of each, and when they came.
        past: the lasting figures of those that are gone, the latest ones.
        older: the sum of those that went before them.
        is_closing: whether the replicas are to finish.
    """

    silence_s: float
    texts: dict[str, tuple[str, float]] = field(default_factory=dict)
    past: dict[str, str] = field(default_factory=dict)
    older: str = ""
    is_closing: bool = False

    def post(self, replica: str, text: str, now: float) -> bool:
        """Note what a replica says; whether it is to finish."""
        self.texts[replica] = (text, now)
        self.past.pop(replica, None)  # it was only slow
        return self.is_closing

    def total(self, now: float) -> bytes:
        """The figures of all, and how many replicas there are."""
        for replica, (text, said_at) in list(self.texts.items()):
            if now - said_at > self.silence_s:
                del self.texts[replica]
                self.past[replica] = lasting(text)
        while len(self.past) > REMEMBERED:
            self.older = added([self.older, self.past.pop(next(iter(self.past)))]).decode()
        parts = [*(text for text, _ in self.texts.values()), *self.past.values(), self.older]
        count = GaugeMetricFamily("mtad:replicas", "Replicas that serve.", value=len(self.texts))
        return _written([*_summed(parts), count])
