"""The bias–rejection front: what each lossy run pays for acceptance, and the least there is to pay.

Reads front.json alone, see `mtad.bench.front`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtad.bench.report.canvas import Plot, draw_cross, label_axes, new_figure, plot_of
from mtad.bench.report.table import Table, formatted, table_of
from mtad.bench.statistics import Estimate

_LOSSLESS, _DRAFT = "any lossless rule of one draft token, at best", "the draft alone"


def front_table(front: Mapping[str, Any]) -> Table:
    """One row per lossy run, between the ends of the front; no rows where nothing was measured."""
    if not front:
        return table_of("Bias and rejection", [])
    least, nothing = Estimate(**front["optimum"]), Estimate(0.0)
    ends = {_LOSSLESS: (nothing, least, nothing), _DRAFT: (least, nothing, nothing)}
    placed = {
        run: tuple(Estimate(**row[name]) for name in ("bias", "rejection", "distance"))
        for run, row in front["runs"].items()
    }
    titles = ("bias, TV per token", "draft tokens rejected", "above the front")
    rows = [
        {"run": run, **{t: formatted(e, 3) for t, e in zip(titles, row, strict=True)}}
        for run, row in {**ends, **placed}.items()
    ]
    left = ", ".join(f"{run} ({why})" for run, why in front["left_out"].items())
    note = (
        f"One token drawn from the draft is judged at each of {front['num_positions']} positions "
        f"in {front['num_texts']} texts of the target. Bias is the total variation between the "
        "law of the token and the target's. Bias and rejection together are at least the total "
        "variation between draft and target, for every rule of one draft token per position; what "
        "is above it is lost. Rules of whole blocks and beams may do otherwise with longer "
        f"drafts. Laws are cut to their {front['num_tokens_kept']} most likely tokens. Brackets: "
        f"95 % intervals over texts. Left out: {left or 'nothing'}."
    )
    return table_of("Bias and rejection", rows, note, slug="front")


def front_plot(front: Mapping[str, Any]) -> Plot | None:
    """Rejection against bias, with the line below which no rule can be; None without a run."""
    if not front or not front["runs"]:
        return None
    figure = new_figure(8.0, 4.8)
    axes, least = figure.subplots(), front["optimum"]["value"]
    axes.plot([0, least], [least, 0], color="#888888", linewidth=1, label="the front")
    axes.fill_between([0, least], [least, 0], color="#eeeeee")
    for index, (run, row) in enumerate(front["runs"].items()):
        draw_cross(axes, index, run, Estimate(**row["bias"]), Estimate(**row["rejection"]))
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    label_axes(axes, "bias (total variation per token)", "share of draft tokens rejected")
    figure.legend(loc="outside right center", fontsize=8)
    caption = "What lossy rules pay for acceptance; no rule of one draft token is below the line"
    return plot_of(figure, "front", caption)
