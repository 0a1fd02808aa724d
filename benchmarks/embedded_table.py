"""Every method on the embedded pair: accuracy, perplexity, acceptance and relative speed.

    python benchmarks/embedded_table.py --output benchmarks/results/NAME

writes `rows.jsonl` (one row per method, test set and seed), `speed.jsonl` (one per method and
prompt) and `table.md`. Quality is measured in batches; speed at batch size 1, the methods taking
turns on every prompt, after a warm-up, so that the ratio to `autoregressive` is one of neighbours.
Perplexity is that of the output under the raw target, token-weighted, up to EOS.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

import mtad
from mtad import demo
from mtad.demo.scoring import score
from mtad.stats import Stats, total

TASKS = ("sql", "python", "chat")
STOCHASTIC = {"temperature": 1.0, "top_k": 10, "top_p": 0.9}
GREEDY = {"temperature": 0.0}

RUNS: dict[str, tuple[mtad.Method, dict[str, Any]]] = {
    "autoregressive": (mtad.Autoregressive(), STOCHASTIC),
    "autoregressive, greedy": (mtad.Autoregressive(), GREEDY),
    "beam_search, 4 beams": (mtad.BeamSearch(num_beams=4), GREEDY),
    "mtjd, beam(4), 4 tokens": (mtad.MTJD(num_block_tokens=4), STOCHASTIC),
    "mtjd, beam(4), 4 tokens, search": (mtad.MTJD(num_block_tokens=4), GREEDY),
    "speculative_sampling": (mtad.SpeculativeSampling(), STOCHASTIC),
    "speculative_sampling, greedy": (mtad.SpeculativeSampling(), GREEDY),
    "block_verification": (mtad.BlockVerification(), STOCHASTIC),
    "spectr, 2 x 4": (mtad.SpecTr(), STOCHASTIC),
    "specinfer, 4,2,2": (mtad.SpecInfer(), STOCHASTIC),
    "mcss, 4,2,2": (mtad.MCSS(), STOCHASTIC),
    "prompt_lookup": (mtad.PromptLookup(), STOCHASTIC),
    "bild": (mtad.BiLD(), STOCHASTIC),
    "typical_acceptance": (mtad.TypicalAcceptance(), STOCHASTIC),
    "mtad, tau 0.1": (mtad.MTAD(accept_threshold=0.1), STOCHASTIC),
    "mtad, tau 0.5": (mtad.MTAD(), STOCHASTIC),
    "mtad, tau 0.9": (mtad.MTAD(accept_threshold=0.9), STOCHASTIC),
    "mtad, tau 0.5, greedy endpoint": (mtad.MTAD(endpoint="greedy"), STOCHASTIC),
    "mtad, tau 0.5, width 1": (mtad.MTAD(beam_width=1), STOCHASTIC),
    "mmtad, tau 0.5": (mtad.MMTAD(), STOCHASTIC),
    "mmtad, tau 0.5, greedy endpoint": (mtad.MMTAD(endpoint="greedy"), STOCHASTIC),
}


def main() -> None:
    """Run, write the rows and print the table."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    pair = mtad.load_pair("demo", dtype="float32")
    draft_alone = mtad.ModelPair(pair.models.draft, None, pair.tokenizer)
    pairs = dict.fromkeys(RUNS, pair)
    runs = dict(RUNS)
    for name in ("autoregressive", "autoregressive, greedy"):
        runs[f"draft alone, {name}"], pairs[f"draft alone, {name}"] = RUNS[name], draft_alone
    args.output.mkdir(parents=True, exist_ok=True)
    rows = [
        row
        for name, (method, sampling) in track(runs.items(), "quality")
        for row in quality(pair, pairs[name], name, method, sampling, args)
    ]
    timings = speed(pairs, runs, args)
    _write(args.output / "rows.jsonl", rows)
    _write(args.output / "speed.jsonl", timings)
    table = render(rows, timings)
    conditions = json.dumps(_conditions(args), indent=2)
    (args.output / "conditions.json").write_text(conditions + "\n")
    (args.output / "table.md").write_text(table + "\n")
    print(table)
    print(json.dumps(_conditions(args)))


def quality(
    judge: mtad.ModelPair,
    pair: mtad.ModelPair,
    name: str,
    method: mtad.Method,
    sampling: dict[str, Any],
    args: argparse.Namespace,
) -> list[dict[str, Any]]:
    """One row per test set and seed; greedy settings need one seed only."""
    is_sampled = sampling["temperature"] > 0
    return [
        _quality_row(judge, pair, name, method, sampling, task, seed, args)
        for task in TASKS
        for seed in range(args.seeds if is_sampled else 1)
    ]


def _quality_row(
    judge: mtad.ModelPair,
    pair: mtad.ModelPair,
    name: str,
    method: mtad.Method,
    sampling: dict[str, Any],
    task: str,
    seed: int,
    args: argparse.Namespace,
) -> dict[str, Any]:
    items = demo.heldout(task)[: args.items]
    prompts = [item.get("prompt") or item["messages"] for item in items]
    seeds = [seed * 1_000_003 + i for i in range(len(items))]
    done = pair.generate(
        prompts,
        method,
        seed=seeds,
        max_batch_size=50,
        max_new_tokens=args.max_new_tokens,
        **sampling,
    )
    right = [score(item, out.text) for item, out in zip(items, done, strict=True)]
    nll, count = _nll(judge, prompts, done)
    stats = total(out.stats for out in done)
    return {
        "run": name,
        "method": method.name,
        "options": asdict(method),
        "sampling": sampling,
        "task": task,
        "seed": seed,
        "num_items": len(items),
        "num_right": sum(right),
        "nll_sum": nll,
        "num_tokens": count,
        "stats": stats.as_dict(),
    }


@torch.inference_mode()
def _nll(
    pair: mtad.ModelPair, prompts: list[Any], done: list[mtad.Completion]
) -> tuple[float, int]:
    """Sum of -log p over all output tokens under the raw target, and their number."""
    from mtad.text import encode

    total_nll, count = 0.0, 0
    for prompt, out in zip(prompts, done, strict=True):
        ids = encode(pair.tokenizer, prompt)
        text = torch.tensor([[*ids, *out.token_ids]])
        laws = pair.models.target(text).logits[0, len(ids) - 1 : -1].float().log_softmax(-1)
        total_nll -= laws.gather(1, text[0, len(ids) :, None]).sum().item()
        count += len(out.token_ids)
    return total_nll, count


def speed(
    pairs: dict[str, mtad.ModelPair],
    runs: dict[str, tuple[mtad.Method, dict[str, Any]]],
    args: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Decode times at batch size 1; all methods take turns on every prompt."""
    items = [item for task in TASKS for item in demo.heldout(task)[-args.speed_items :]]
    rows = []
    for number, item in enumerate(track([items[0], *items], "speed")):
        prompt = item.get("prompt") or item["messages"]
        for name, (method, sampling) in runs.items():
            out = pairs[name].generate(
                [prompt], method, seed=number, max_new_tokens=args.max_new_tokens, **sampling
            )[0]
            if number > 0:  # the first round is the warm-up
                rows.append({"run": name, "item": item["task_id"], **out.stats.as_dict()})
    return rows


def render(rows: list[dict[str, Any]], timings: list[dict[str, Any]]) -> str:
    """The Markdown table: accuracy in per cent as mean ± standard deviation over seeds."""
    base = _tokens_per_second(timings, "autoregressive")
    head = [
        "run",
        *TASKS,
        "perplexity",
        "mean acceptance length",
        "draft acceptance rate",
        "tokens/s, relative",
    ]
    lines = [_line(head), _line(["---"] + ["---:"] * (len(head) - 1))]
    for name in dict.fromkeys(row["run"] for row in rows):
        own = [row for row in rows if row["run"] == name]
        stats = _sum_stats(own)
        perplexity = math.exp(sum(r["nll_sum"] for r in own) / sum(r["num_tokens"] for r in own))
        length, rate = stats.mean_acceptance_length, stats.draft_acceptance_rate
        lines.append(
            _line(
                [
                    name,
                    *(_accuracy([r for r in own if r["task"] == task]) for task in TASKS),
                    f"{perplexity:.3f}",
                    "–" if rate is None else f"{length:.2f}",
                    "–" if rate is None else f"{rate:.2f}",
                    f"{_tokens_per_second(timings, name) / base:.2f}",
                ]
            )
        )
    return "\n".join(lines)


def _accuracy(rows: list[dict[str, Any]]) -> str:
    shares = [100 * row["num_right"] / row["num_items"] for row in rows]
    spread = f" ± {statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{statistics.mean(shares):.1f}{spread}"


def _sum_stats(rows: list[dict[str, Any]]) -> Stats:
    names = ("num_spec_steps", "num_draft_tokens", "num_accepted_draft_tokens")
    return Stats(**{name: sum(row["stats"][name] for row in rows) for name in names})


def _tokens_per_second(timings: list[dict[str, Any]], run: str) -> float:
    own = [row for row in timings if row["run"] == run]
    return sum(r["num_output_tokens"] for r in own) / sum(r["decode_s"] for r in own)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _conditions(args: argparse.Namespace) -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return {
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": args.threads,
        "dtype": "float32",
        "items": args.items,
        "seeds": args.seeds,
        "speed_items": args.speed_items,
        "max_new_tokens": args.max_new_tokens,
        "stochastic": STOCHASTIC,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--items", type=int, default=200, help="items per test set")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--speed-items", type=int, default=10, help="prompts per test set")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
