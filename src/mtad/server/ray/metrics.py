"""The metrics of several replicas as one page for Prometheus, distinguished by a label.

Knows no Ray.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


@dataclass(frozen=True, eq=False)
class _Families(Collector):
    """Families as they are, for Prometheus' own writer."""

    families: Collection[Metric]

    def collect(self) -> Iterator[Metric]:
        yield from self.families


def labelled(texts: Mapping[str, str]) -> bytes:
    """One page with the series of every replica, each with the label `replica`.

    Args:
        texts: the page of each replica, in Prometheus' text format, by the replica's name.
    """
    found: dict[str, Metric] = {}
    for replica, text in texts.items():
        for family in text_string_to_metric_families(text):
            kept = found.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            for sample in family.samples:
                kept.add_sample(sample.name, sample.labels | {"replica": replica}, sample.value)
    count = GaugeMetricFamily("mtad:replicas", "Replicas that answered.", value=len(texts))
    return generate_latest(_Families([*found.values(), count]))
