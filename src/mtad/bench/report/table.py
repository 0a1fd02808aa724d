"""A table as a value, and how numbers are written in its cells. Knows no file format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mtad.bench.report.metrics import QUALITY, Metric
from mtad.bench.report.results import TaskInfo
from mtad.bench.statistics import Comparison, Estimate

NONE: Final = "–"
UNAVAILABLE: Final = "unavailable"


@dataclass(frozen=True)
class Table:
    """Rows of text under headers; every format of a report is made of these.

    Attributes:
        title: of the section.
        headers: of the columns.
        rows: cells, as many as headers.
        note: an explanation below the title.
        num_labels: leading columns that hold text and are left-aligned.
        slug: of the section, for links.
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    num_labels: int = 1
    slug: str = ""


def formatted(estimate: Estimate, digits: int, factor: float = 1.0) -> str:
    """A cell: the value with its interval, or a dash."""
    if estimate.value is None:
        return NONE
    value = number(estimate.value * factor, digits)
    return value + _interval(estimate, digits, factor, sign="")


def number(value: float, digits: int, sign: str = "") -> str:
    """The value with that many decimals; a small one without sign keeps two significant digits.

    Args:
        value: what to write.
        digits: decimals.
        sign: "+" to write the sign of a positive number, too.
    """
    text = f"{value:{sign}.{digits}f}"
    if value and not sign and abs(value) < 10**-digits:
        text = f"{value:.2g}"
    return text.replace("-", "−")


def change(
    comparison: Comparison,
    digits: int,
    factor: float = 1.0,
    *,
    sign: str = "",
    mark: str = "",
    num_all: int = 0,
) -> str:
    """A difference or ratio with its interval, its verdict and the number of items if not all.

    Args:
        comparison: what to write.
        digits: decimals.
        factor: by which it is multiplied.
        sign: "+" for differences.
        mark: stands behind the verdict.
        num_all: items that there are.
    """
    estimate = comparison.estimate
    if estimate.value is None:
        return NONE
    text = number(estimate.value * factor, digits, sign)
    text += _interval(estimate, digits, factor, sign)
    if comparison.verdict != NONE:
        text += f" {comparison.verdict}{mark}"
    if num_all > estimate.num_items:
        text += f" (on {estimate.num_items} of {num_all} items)"
    return text


def _interval(estimate: Estimate, digits: int, factor: float, sign: str) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    low, high = (number(end * factor, digits, sign) for end in (estimate.low, estimate.high))
    return f" [{low}, {high}]"


def all_digits(estimate: Estimate, factor: float, is_known: bool = True) -> list[str]:
    """The value and the ends of its interval for a CSV file."""
    if not is_known or estimate.value is None:
        return [NONE if is_known else UNAVAILABLE, "", ""]
    ends = (estimate.value, estimate.low, estimate.high)
    return ["" if end is None else f"{end * factor:.6g}" for end in ends]


def scaled(metric: Metric, task: TaskInfo | None) -> tuple[float, str, int]:
    """By what a metric is multiplied to be shown, its unit then, and the decimals.

    Args:
        metric: what is shown.
        task: whose scores, if it is `QUALITY`.
    """
    if metric is QUALITY and task is not None:
        return (100.0, "%", 1) if task.is_percent else (1.0, task.unit, 2)
    return 1.0, metric.unit, metric.digits
