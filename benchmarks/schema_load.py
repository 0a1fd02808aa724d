"""What schemas cost a server: the same requests with and without them, in turns.

    python benchmarks/schema_load.py --clients 32 --pair smollm2 --rounds 5

A round is all requests without schemas and all with them, and the next one begins with the other
kind, so that what else the machine does falls on both. All texts have the most tokens: ends are
ignored without schemas, and those that there are, in turn, only end later. Tokens forced by a
schema are those that the answers count. Schemas also change how many drafts are accepted, so that
iterations are compared, too. The intervals are Student's, of the logarithms of the rounds' ratios.
"""

from __future__ import annotations

import asyncio
import json
import math
import statistics
from pathlib import Path
from typing import Annotated, Any

import typer
from forms import LONG, held
from rich.console import Console
from scipy.stats import t as student
from serve_load import Answer, Level, _model, bodies, level, mtad_server

from mtad.pairs import DEMO, PairName

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
screen = Console(stderr=True, highlight=False)
PLAIN, SCHEMA = "without", "with schemas"


def interval(ratios: list[float], share: float = 0.95) -> tuple[float, float, float]:
    """The geometric mean of ratios and its interval."""
    logs = [math.log(ratio) for ratio in ratios]
    middle, count = statistics.fmean(logs), len(logs)
    half = student.ppf((1 + share) / 2, count - 1) * statistics.stdev(logs) / math.sqrt(count)
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def turns(
    url: str, work: dict[str, list[dict[str, Any]]], clients: int, rounds: int
) -> list[dict[str, tuple[Level, list[Answer]]]]:
    """The figures of each kind in each round."""
    found = []
    for number in range(rounds):
        order = [*work][:: 1 if number % 2 == 0 else -1]
        found.append({kind: asyncio.run(level(url, work[kind], clients, kind)) for kind in order})
    return found


def _steps_per_s(figures: Level, answers: list[Answer]) -> float:
    return sum(answer.num_steps for answer in answers) / figures.wall_s


def _compared(what: str, values: dict[str, list[float]]) -> str:
    """Means and the ratio of the kinds."""
    ratios = [b / a for a, b in zip(values[PLAIN], values[SCHEMA], strict=True)]
    middle, low, high = interval(ratios)
    means = [statistics.fmean(values[kind]) for kind in (PLAIN, SCHEMA)]
    return (
        f"{what}: {means[0]:.0f} without and {means[1]:.0f} with schemas, ratio {middle:.2f} "
        f"[{low:.2f}, {high:.2f}]"
    )


@app.command()
def main(
    clients: Annotated[int, typer.Option(min=1)] = 32,
    requests: Annotated[int, typer.Option(min=1, help="Of each kind in each round.")] = 64,
    pair: Annotated[PairName, typer.Option(help="Whose models.")] = DEMO,
    max_tokens: Annotated[int, typer.Option(min=1)] = 64,
    method: Annotated[str, typer.Option(help="mtad's method.")] = "mtad",
    rounds: Annotated[int, typer.Option(min=2)] = 5,
    output: Annotated[Path | None, typer.Option(help="File for a line of each round.")] = None,
) -> None:
    """Tokens/s with and without schemas, and their ratio."""
    with mtad_server("--pair", pair) as (url, _):
        own = {"method": method, "top_k": 10, "top_p": 0.9}
        plain = bodies(requests, max_tokens, _model(url), own, pair)
        work = {
            PLAIN: [body | {"ignore_eos": True} for body in plain],
            SCHEMA: held(plain, LONG),
        }
        for kind in work:  # by then the iterations are recorded and the schemas compiled
            asyncio.run(level(url, work[kind], clients, f"{kind}, warm-up"))
        found = turns(url, work, clients, rounds)
    speeds = {kind: [one[kind][0].tokens_per_s for one in found] for kind in work}
    steps = {kind: [_steps_per_s(*one[kind]) for one in found] for kind in work}
    tokens = sum(one[SCHEMA][0].output_tokens for one in found)
    forced = sum(answer.num_forced for one in found for answer in one[SCHEMA][1])
    short = sum(a.num_tokens < max_tokens for one in found for k in work for a in one[k][1])
    print(
        f"{clients} clients, {method}, {rounds} rounds of {requests} requests of {max_tokens} "
        f"tokens ({short} shorter)\n{_compared('tokens/s', speeds)}\n"
        f"{_compared('iterations of a text/s', steps)}\n{forced} of {tokens} tokens were forced"
    )
    if output:
        lines = [json.dumps({kind: speeds[kind][i] for kind in work}) for i in range(rounds)]
        output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app()
