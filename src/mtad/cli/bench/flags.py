"""Flags that several commands of `mtad bench` share: the pair, the data, and how to score.

Imports nothing heavy: it is read for `mtad --help`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from mtad.cli.flags import flag
from mtad.pairs import CHOICE, find_pair, require_alone

_models = partial(flag, panel="Models")
_scoring = partial(flag, panel="Data and scoring")


@dataclass(frozen=True, kw_only=True)
class PairFlags:
    """Which models decode."""

    pair: Annotated[
        str | None, _models(help=f"{CHOICE}. Without models the recipe's pair, or demo.")
    ] = None
    target_model: Annotated[
        str | None,
        _models(help="Folder, GGUF file or hub name; without it a pair by name."),
    ] = None
    draft_model: Annotated[str | None, _models(help="Folder, GGUF file or hub name.")] = None
    dtype: Annotated[str | None, _models(help="Of the weights.")] = None
    target_weights: Annotated[
        str | None, _models(help="Form of the target's linear weights: auto, plain, bf16, int8.")
    ] = None
    draft_weights: Annotated[str | None, _models(help="Form of the draft's.")] = None
    device: Annotated[str | None, _models(help="auto, cpu, cuda, cuda:1, …")] = None

    @property
    def pair_table(self) -> dict[str, str]:
        """The table `pair` of a recipe, with what is given.

        Raises:
            ValueError: no such pair, or a pair by name beside models.
        """
        require_alone(self.pair, self.target_model, self.draft_model)
        table = {
            "target": self.target_model if self.pair is None else find_pair(self.pair).name,
            "draft": self.draft_model,
            "dtype": self.dtype,
            "target_weights": self.target_weights,
            "draft_weights": self.draft_weights,
            "device": self.device,
        }
        return {name: value for name, value in table.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class ScoringFlags:
    """Where the data sets are, and how answers are scored."""

    data: Annotated[
        str | None,
        _scoring(help="Folder of data sets, or: bundled; without it the recipe's, or bundled."),
    ] = None
    allow_code_execution: Annotated[
        bool, _scoring("--allow-code-execution", help="Let model-written Python run in isolation.")
    ] = False
    allow_weak_isolation: Annotated[
        bool, _scoring("--allow-weak-isolation", help="… even where it cannot be isolated well.")
    ] = False
    judge_model: Annotated[
        str | None, _scoring(help="Model that judges MT-Bench, or: reference.")
    ] = None
    judge_base_url: Annotated[
        str | None, _scoring(help="OpenAI-compatible endpoint of the judge.")
    ] = None
    spider_match: Annotated[
        str | None, _scoring(help="Rule for Spider: official, or authors (laxer).")
    ] = None

    @property
    def scoring(self) -> dict[str, dict[str, Any]]:
        """The options of scoring that are given, by task."""
        table: dict[str, dict[str, Any]] = {
            "spider": {"match": self.spider_match},
            "human_eval": {
                "allow_code_execution": self.allow_code_execution or None,
                "allow_weak_isolation": self.allow_weak_isolation or None,
            },
            "mt_bench": {"judge": self.judge_model, "judge_base_url": self.judge_base_url},
        }
        return {
            task: {name: value for name, value in options.items() if value is not None}
            for task, options in table.items()
        }
