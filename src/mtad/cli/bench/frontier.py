"""Every flag of `mtad bench frontier`, as the fields of one frozen dataclass.

Imports nothing heavy: it is read for `mtad --help`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mtad.bench.plan import Recipe


def _models(*names: str, **options: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Models", **options)


def _tasks(*names: str, **options: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Task", **options)


def _swept(*names: str, **options: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Sweep", **options)


def _sampling(*names: str, **options: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Sampling", **options)


@dataclass(frozen=True)
class Flags:
    """What the user asked for; the help texts say what each field means."""

    target_model: Annotated[
        str | None, _models(help="Folder or hub name; without it the embedded pair is used.")
    ] = None
    draft_model: Annotated[str | None, _models(help="Folder or hub name.")] = None
    dtype: Annotated[str | None, _models(help="Of the weights.")] = None
    device: Annotated[str | None, _models(help="auto, cpu, cuda, cuda:1, …")] = None

    task: Annotated[str | None, _tasks(help="spider (the default), human_eval or mt_bench.")] = None
    prompts: Annotated[
        Path | None,
        _tasks(
            exists=True,
            dir_okay=False,
            help='Your own, without right answers; JSON lines: {"prompt": "…"} or {"turns": […]}.',
        ),
    ] = None
    data: Annotated[str | None, _tasks(help="Folder of data sets, or: bundled (the default).")] = (
        None
    )
    chat: Annotated[
        bool, _tasks("--chat", help="Ask through the chat template; mt_bench always does.")
    ] = False
    items: Annotated[int, _tasks(help="How many are used; 0 is all.", min=0)] = 0
    allow_code_execution: Annotated[
        bool, _tasks("--allow-code-execution", help="Let model-written Python run in isolation.")
    ] = False
    allow_weak_isolation: Annotated[
        bool, _tasks("--allow-weak-isolation", help="… even where it cannot be isolated well.")
    ] = False
    judge_model: Annotated[
        str | None, _tasks(help="Model that judges MT-Bench, or: reference.")
    ] = None
    judge_base_url: Annotated[
        str | None, _tasks(help="OpenAI-compatible endpoint of the judge.")
    ] = None
    spider_match: Annotated[
        str | None, _tasks(help="Rule for Spider: official, or authors (laxer).")
    ] = None

    method: Annotated[
        list[str] | None, _swept(help="Lossy method; may be repeated. Default: mtad.")
    ] = None
    option: Annotated[
        list[str] | None,
        _swept(
            "--option",
            "-o",
            metavar="NAME=VALUE",
            help="A fixed option of the methods that have it; may be repeated.",
        ),
    ] = None
    thresholds: Annotated[
        str | None, _swept(metavar="FLOAT,…", help="For every method, instead of its own.")
    ] = None
    seeds: Annotated[int, _swept(min=1, help="Samples per item; the first one is timed.")] = 3
    max_loss: Annotated[
        float,
        _swept(metavar="PERCENT", help="Points of 100 of quality, or % of perplexity."),
    ] = 2.0
    output: Annotated[
        Path | None, _swept(file_okay=False, help="Folder; default: results/frontier-TASK.")
    ] = None

    temperature: Annotated[float, _sampling(help="0 is greedy.")] = 1.0
    top_k: Annotated[int, _sampling(help="0 is off.")] = 0
    top_p: Annotated[float, _sampling(help="1 is off.")] = 1.0
    max_new_tokens: Annotated[int, _sampling(min=1, help="Budget of every answer.")] = 128

    def __post_init__(self) -> None:
        """Refuse flags that don't go together, and losses that mean nothing."""
        if self.prompts is not None and (self.task or self.data):
            raise ValueError("--prompts is a task of its own; leave out --task and --data")
        if not 0 <= self.max_loss < 100:
            raise ValueError(f"--max-loss is {self.max_loss:g}; it must be from 0 to below 100")

    def recipe(self, scoring: Mapping[str, Mapping[str, Any]]) -> "Recipe":
        """The recipe of the sweep that the flags describe.

        Args:
            scoring: the options of scoring, by task; None for those not given.
        """
        from mtad.bench.recipe import BUNDLED_NAME
        from mtad.bench.sweep import sweep

        names = ("temperature", "top_k", "top_p")
        table = {
            "pair": {
                "target": self.target_model,
                "draft": self.draft_model,
                "dtype": self.dtype,
                "device": self.device,
            },
            "data": self.data or BUNDLED_NAME,
            "run": {
                "seeds": self.seeds,
                "num_test": self.items,
                "max_new_tokens": self.max_new_tokens,
            },
            "sampling": {name: getattr(self, name) for name in names},
            "tasks": {self._task: self._task_options(scoring)},
        }
        return sweep(
            table, _fixed(self.method or ["mtad"], self.option or []), _numbers(self.thresholds)
        )

    @property
    def _task(self) -> str:
        return "perplexity" if self.prompts else self.task or "spider"

    def _task_options(self, scoring: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        given = {
            task: {name: value for name, value in options.items() if value is not None}
            for task, options in scoring.items()
        }
        if stray := [task for task, options in given.items() if options and task != self._task]:
            names = ", ".join(given[stray[0]])
            raise ValueError(
                f"{names} is of {stray[0]}, and the task is {self._task}; leave it out"
            )
        own = given.get(self._task, {})
        own |= {"data": str(self.prompts)} if self.prompts else {}
        return own | ({"chat": True} if self.chat else {})


def _fixed(methods: list[str], texts: list[str]) -> dict[str, dict[str, Any]]:
    """The options of each method; every text must fit one of them."""
    from mtad.bench.sweep import dial_of
    from mtad.core.schema import options_of
    from mtad.methods import find

    if len({*methods}) < len(methods):
        raise ValueError(f"--method is {', '.join(methods)}; each may be given once")
    known = {method: options_of(find(method)) for method in methods}
    for method in methods:
        dial_of(method)
    found: dict[str, dict[str, Any]] = {method: {} for method in methods}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        name = name.replace("-", "_")
        takers = [method for method in methods if name in known[method]]
        if not equals or not takers:
            raise ValueError(
                f"-o {text}: it must be NAME=VALUE with an option of {', '.join(methods)}"
            )
        for method in takers:
            if name in found[method]:
                raise ValueError(f"-o {text}: {name} is given twice")
            found[method][name] = known[method][name].parsed(value)
    return found


def _numbers(text: str | None) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(",")) if text is not None else ()
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise ValueError(f"--thresholds is {text!r}; it must be numbers with commas between them")
    return values
