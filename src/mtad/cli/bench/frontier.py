"""Every flag of `mtad bench frontier`, as the fields of one frozen dataclass.

Imports nothing heavy: it is read for `mtad --help`.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mtad.cli.bench.flags import PairFlags, ScoringFlags
from mtad.cli.flags import flag
from mtad.cli.settings import SAMPLING_FLAGS, SamplingFlags

if TYPE_CHECKING:
    from mtad.bench.plan import Recipe

_ALWAYS_STORED = ("temperature", "top_k", "top_p")


_task = partial(flag, panel="Task")
_sweep = partial(flag, panel="Sweep")


@dataclass(frozen=True, kw_only=True)
class Flags(ScoringFlags, SamplingFlags, PairFlags):  # type: ignore[misc]
    """What the user asked for; the help texts say what each field means."""

    task: Annotated[
        str | None, _task(help="spider (the default), human_eval, mt_bench or gsm8k.")
    ] = None
    prompts: Annotated[
        Path | None,
        _task(
            exists=True,
            dir_okay=False,
            help='Your own, without right answers; JSON lines: {"prompt": "…"} or {"turns": […]}.',
        ),
    ] = None
    chat: Annotated[
        bool, _task("--chat", help="Ask through the chat template; mt_bench always does.")
    ] = False
    items: Annotated[int, _task(help="How many are used; 0 is all.", min=0)] = 0

    method: Annotated[
        list[str] | None, _sweep(help="Lossy method; may be repeated. Default: mtad.")
    ] = None
    option: Annotated[
        list[str] | None,
        _sweep(
            "--option",
            "-o",
            metavar="NAME=VALUE",
            help="A fixed option of the methods that have it; may be repeated.",
        ),
    ] = None
    thresholds: Annotated[
        str | None, _sweep(metavar="FLOAT,…", help="For every method, instead of its own.")
    ] = None
    seeds: Annotated[int, _sweep(min=1, help="Samples per item; the first one is timed.")] = 3
    max_loss: Annotated[
        float,
        _sweep(metavar="PERCENT", help="Points of 100 of quality, or % of perplexity."),
    ] = 2.0
    output: Annotated[
        Path | None, _sweep(file_okay=False, help="Folder; default: results/frontier-TASK.")
    ] = None

    def __post_init__(self) -> None:
        """Refuse flags that don't go together, and losses that mean nothing."""
        if self.prompts is not None and (self.task or self.data):
            raise ValueError("--prompts is a task of its own; leave out --task and --data")
        if not 0 <= self.max_loss < 100:
            raise ValueError(f"--max-loss is {self.max_loss:g}; it must be from 0 to below 100")

    def recipe(self) -> "Recipe":
        """The recipe of the sweep that the flags describe."""
        from mtad.bench.recipe import BUNDLED_NAME
        from mtad.bench.sweep.recipe import sweep
        from mtad.core.options import parse

        task = "perplexity" if self.prompts else self.task or "spider"
        table = {
            "name": f"frontier-{self.prompts.stem if self.prompts else task}",
            "pair": self.pair_table,
            "data": self.data or BUNDLED_NAME,
            "run": {
                "seeds": self.seeds,
                "num_test": self.items,
                "max_new_tokens": self.max_new_tokens,
            },
            "sampling": self._sampling(),
            "tasks": {task: self._task_options(task)},
        }
        values = self.thresholds and parse(self.thresholds, tuple[float, ...], "--thresholds")
        return sweep(table, _fixed(self.method or ["mtad"], self.option or []), values or ())

    def _sampling(self) -> dict[str, Any]:
        """The settings that differ from their defaults, and those that every sweep stores."""
        defaults = SamplingFlags()
        return {
            name: getattr(self, name)
            for name in SAMPLING_FLAGS
            if name != "max_new_tokens"
            and (name in _ALWAYS_STORED or getattr(self, name) != getattr(defaults, name))
        }

    def _task_options(self, task: str) -> dict[str, Any]:
        given = self.scoring
        if stray := [name for name, options in given.items() if options and name != task]:
            names = ", ".join(given[stray[0]])
            raise ValueError(f"{names} is of {stray[0]}, and the task is {task}; leave it out")
        own = {"data": str(self.prompts)} if self.prompts else {}
        return given.get(task, {}) | own | ({"chat": True} if self.chat else {})


def _fixed(methods: list[str], texts: list[str]) -> dict[str, dict[str, Any]]:
    """The options of each method; every text must fit one of them."""
    from mtad.cli.options import assignment, options_given
    from mtad.core.schema import options_of
    from mtad.methods import find

    classes = {method: find(method) for method in methods}
    if len(classes) < len(methods):
        raise ValueError(f"--method is {', '.join(methods)}; each may be given once")
    given = [assignment("-o", text) for text in texts]
    for flag_, name, _ in given:
        if not any(name in options_of(cls) for cls in classes.values()):
            raise ValueError(f"{flag_}: it must be an option of {', '.join(methods)}")
    return {
        method: options_given(cls, [each for each in given if each[1] in options_of(cls)])
        for method, cls in classes.items()
    }
