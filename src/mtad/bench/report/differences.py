"""Every run against a reference, on the same items: better, worse, or no difference shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mtad.bench.report.metrics import END_TO_END_SPEED, ENERGY, PERPLEXITY, QUALITY, SPEED, Metric
from mtad.bench.report.summary import Summary
from mtad.bench.report.table import UNAVAILABLE, Table, change, scaled
from mtad.bench.statistics import Comparison, holm

_COSTS = (SPEED, END_TO_END_SPEED, ENERGY, PERPLEXITY)
_MARK = " †"


@dataclass(frozen=True)
class Question:
    """Something in which runs are compared.

    Attributes:
        title: of the column.
        name: in files.
        task: None for all tasks together.
        unit: of the shown difference, "" for ratios.
        compare: a run against a reference.
        digits, factor: how the difference is shown.
        num_all: items of the run that has most.
        is_ratio: whether runs are divided rather than subtracted.
        is_known: whether the run has been measured in it.
    """

    title: str
    name: str
    task: str | None
    unit: str
    compare: Callable[[str, str], Comparison]
    digits: int
    factor: float
    num_all: int
    is_ratio: bool
    is_known: Callable[[str], bool]


def quality_questions(summary: Summary) -> list[Question]:
    """The score of each task, and the mean of all."""
    tasks = summary.results.scored_tasks
    questions = [_question(summary, QUALITY, task) for task in tasks]
    if len(tasks) > 1:
        num_all = sum(summary.most_items(QUALITY, task) for task in tasks)
        mean = Question(
            "mean quality, points of 100",
            "mean_quality",
            None,
            "points of 100",
            summary.compare_mean_quality,
            1,
            1.0,
            num_all,
            False,
            lambda run: True,
        )
        questions.append(mean)
    return questions


def cost_questions(summary: Summary) -> list[Question]:
    """Speed, energy and perplexity of all tasks together, and the speed of each."""
    tasks = summary.tasks if len(summary.tasks) > 1 else []
    together = [_question(summary, metric, None) for metric in _COSTS]
    return [*together, *(_question(summary, SPEED, task) for task in tasks)]


def _question(summary: Summary, metric: Metric, task: str | None) -> Question:
    info = summary.results.tasks[task] if task else None
    factor, unit, digits = scaled(metric, info)
    is_ratio = metric.compare == "ratio"
    if not is_ratio:
        unit = "points" if unit == "%" else f"points on {unit}"
    title = info.metric if info and metric is QUALITY else metric.title
    return Question(
        ", ".join(part for part in (task, title, "ratio" if is_ratio else unit) if part),
        metric.name,
        task,
        "" if is_ratio else unit,
        lambda run, reference: summary.compare(run, reference, metric, task),
        max(2, digits) if is_ratio else digits,
        1.0 if is_ratio else factor,
        summary.most_items(metric, task),
        is_ratio,
        lambda run: not metric.needs_meter or summary.is_measured(run, metric, task),
    )


def difference_tables(summary: Summary) -> list[Table]:
    """Quality and cost against the reference, and cost against speculative sampling."""
    reference = summary.results.reference_run
    tables = []
    if questions := quality_questions(summary):
        tables.append(_table(summary, reference, questions, "Quality", "quality-vs"))
    costs = cost_questions(summary)
    tables.append(_table(summary, reference, costs, "Speed, energy, perplexity", "cost-vs"))
    other = summary.results.speed_reference
    if other is not None and other != reference:
        title = "Speed, energy, perplexity"
        tables.append(_table(summary, other, costs, title, "cost-vs-speculative"))
    return tables


def _table(
    summary: Summary, reference: str, questions: Sequence[Question], title: str, slug: str
) -> Table:
    others = [run for run in summary.runs if run != reference]
    columns = [_cells(question, others, reference) for question in questions]
    rows = [[run, *cells] for run, *cells in zip(others, *columns, strict=True)]
    note = (
        f"Paired: each figure compares a run with {reference} on the items that both have. "
        f'"Better" and "worse" mean that the whole 95 % interval is on that side; '
        f'"no difference shown" is not "no difference". Of runs that do not differ, one in twenty '
        f"is called better or worse by chance; verdicts with{_MARK} hold even if all of their "
        f"column count together (Holm)."
    )
    headers = ["run", *(question.title for question in questions)]
    return Table(f"{title}, against {reference}", headers, rows, note, slug=slug)


def _cells(question: Question, runs: Sequence[str], reference: str) -> list[str]:
    comparisons = [question.compare(run, reference) for run in runs]
    survives = holm([comparison.p_value for comparison in comparisons])
    return [
        _cell(question, question.is_known(run) and question.is_known(reference), comparison, holds)
        for run, comparison, holds in zip(runs, comparisons, survives, strict=True)
    ]


def _cell(question: Question, is_known: bool, comparison: Comparison, holds: bool) -> str:
    if not is_known:
        return UNAVAILABLE
    sign = "" if question.is_ratio else "+"
    mark = _MARK if holds and comparison.verdict in ("better", "worse") else ""
    shown = question.digits, question.factor
    return change(comparison, *shown, sign=sign, mark=mark, num_all=question.num_all)
