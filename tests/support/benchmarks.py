"""A small recipe, rows of results written by hand, and the programs that read such rows."""

from __future__ import annotations

import importlib
import sys
from functools import cache
from pathlib import Path
from typing import Any

from mtad.bench.report import TaskInfo
from mtad.bench.sample import Sample, Scored

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
BUDGET = 8
BASE: dict[str, Any] = {
    "name": "tiny",
    "pair": {"dtype": "float32"},
    "run": {"seeds": 2, "num_test": 3, "max_new_tokens": BUDGET, "untimed_batch_size": 2},
    "sampling": {"temperature": 1.0, "top_k": 10, "top_p": 0.9},
    "tasks": {"spider": {}},
    "runs": [
        {"method": "autoregressive"},
        {"method": "mtad"},
        {"name": "greedy", "method": "autoregressive", "sampling": {"temperature": 0.0}},
    ],
}
TASKS = {
    "spider": TaskInfo("execution accuracy"),
    "mt_bench": TaskInfo("judge score", (1.0, 10.0)),
    "perplexity": TaskInfo("no score", None),
}
JOULES = {"joules": {"gpu": 6.0, "cpu": 2.0}, "source": "recorded"}


def sample(run: str = "base", item: str = "a", seed: int = 0, **fields: Any) -> Sample:
    """A row of 10 tokens in 2 s; `steps`, `drafted`, `accepted` make its counts."""
    counts = {name: fields.pop(name, 0) for name in ("steps", "drafted", "accepted")}
    tokens = fields.pop("tokens", 10)
    histogram = fields.pop("histogram", {str(counts["accepted"]): 1})
    stats = {
        "num_spec_steps": counts["steps"] or tokens,
        "num_draft_tokens": counts["drafted"],
        "num_accepted_draft_tokens": counts["accepted"],
        "num_spec_tokens": fields.pop("deepest", counts["drafted"]),
        "num_output_tokens": tokens,
        "prefill_s": 0.5,
        "decode_s": 2.0,
        "acceptance_histogram": histogram,
    }
    plain = {
        "stage": "test",
        "task": "spider",
        "method": {"name": "autoregressive", "options": {}, "lossless": True},
        "sampling": {"temperature": 1.0},
        "models": "pair",
        "answers": ["text"],
        "token_ids": [list(range(tokens))],
        "finish_reasons": ["stop"],
        "num_prompt_tokens": [5],
        "stats": [stats],
        "nll": None,
        "batch_size": 1,
        "is_timed": True,
        "prefill_s": 0.5,
        "decode_s": 2.0,
        "wall_s": 3.0,
        "energy": None,
        "phases_s": None,
        "phases_j": None,
        "conditions": "c1",
    }
    return Sample(run=run, item=item, seed=seed, **(plain | fields))


def score(row: Sample, value: float | None, **fields: Any) -> Scored:
    plain: dict[str, Any] = {"detail": {}, "num_4grams": 7, "num_repeated_4grams": 0}
    return Scored(*row.key, score=value, **(plain | fields))


@cache
def program(name: str) -> Any:
    """A module of the folder benchmarks, whose modules find each other."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.insert(0, str(BENCHMARKS))
    return importlib.import_module(name)
