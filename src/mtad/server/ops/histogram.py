"""Counts by size, as Prometheus takes them.

Not safe for several threads by itself.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

from prometheus_client.core import HistogramMetricFamily


class Histogram:
    """How often a value fell under each of some bounds.

    Args:
        name: of the metric.
        help_text: what people read about it.
        bounds: upper ends of the buckets, growing; a last one for all the rest is added.
    """

    def __init__(self, name: str, help_text: str, bounds: Sequence[float]) -> None:
        self.name, self.help_text, self.bounds = name, help_text, (*bounds, math.inf)
        self.counts = [0] * len(self.bounds)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def family(self) -> HistogramMetricFamily:
        """What Prometheus reads: each bucket holds those below it too."""
        buckets, below = [], 0
        for bound, count in zip(self.bounds, self.counts, strict=True):
            below += count
            buckets.append(("+Inf" if bound == math.inf else str(float(bound)), below))
        return HistogramMetricFamily(
            self.name, self.help_text, buckets=buckets, sum_value=self.total
        )
