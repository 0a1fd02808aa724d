"""The experiments: what is varied, which runs alternate, and on which prompts. Loads nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mtad.bench.plan import PairSpec, require
from mtad.bench.speed.baseline import ASSISTED, PLAIN, TRANSFORMERS
from mtad.bench.speed.llama_cpp import LLAMA_CPP, VARIANTS
from mtad.bench.speed.models import PAIRS
from mtad.bench.speed.prompts import batches_of, filled, of_length
from mtad.bench.speed.runs import Sampling
from mtad.core.names import require_one_of
from mtad.methods import describe, find, require_draft
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method

AXES = ("batch", "context", "width", "length", "size")
"""What can be varied, in the order in which it is; other sizes need other models to be loaded."""
ENGINES = (TRANSFORMERS, LLAMA_CPP)
"""What the methods can be compared with."""
BATCHES = (1, 4, 16, 64)
CONTEXTS = (128, 256, 512, 1024, 2048, 4096, 8192)
WIDTHS = (1, 2, 4, 8, 16)
LENGTHS = (1, 2, 3, 4, 6, 8, 12)
SIZES = (("demo", "1b", "8b"), ("smollm2", "smollm2-1b"))
"""The built-in pairs by size, the widened ones after the one that they are made of."""
METHODS = (
    "autoregressive",
    "speculative_sampling",
    "block_verification",
    "typical_acceptance",
    "mtad",
    "mmtad",
)
SCALED_METHODS = ("autoregressive", "speculative_sampling", "mtad")
"""What scaling compares unless methods are named; the other methods cost the same."""
SCALED_PROMPTS = 6
OPTIONS = {"width": "beam_width", "length": "num_draft_tokens"}
"""The axes that are options of methods."""
WITHOUT_DRAFT = 0
"""Where plain decoding stands on these axes."""
CONTEXT_TOKENS = 32
"""New tokens at every length of context."""

Methods = tuple[tuple[str, Method], ...]
Tokens = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Point:
    """One way to decode, at one value of what is varied.

    Attributes:
        label: its name in tables.
        method: None for another engine.
        at: the value; "" in the main comparison.
    """

    label: str
    method: Method | None
    at: int | str = ""

    @property
    def is_assisted(self) -> bool:
        """Whether it is transformers with a draft."""
        return self.method is None and self.label == ASSISTED


@dataclass(frozen=True)
class Experiment:
    """Points that alternate on the same batches of prompts.

    Attributes:
        axis: what is varied; "" for the main comparison.
        pair: the models.
        points: the ways to decode.
        batches: token ids of the prompts, batch by batch.
        repeats: how often each batch is decoded.
        sampling: how to draw.
    """

    axis: str
    pair: PairSpec
    points: tuple[Point, ...]
    batches: tuple[list[list[int]], ...]
    repeats: int
    sampling: Sampling

    @property
    def num_turns(self) -> int:
        """Rows that it gives."""
        return len(self.points) * len(self.batches) * self.repeats

    def turns(self) -> Iterator[tuple[int, int, Point]]:
        """Repeat, batch and point in the order of decoding; every time another point begins."""
        for repeat in range(self.repeats):
            for batch in range(len(self.batches)):
                first = (repeat * len(self.batches) + batch) % len(self.points)
                for point in self.points[first:] + self.points[:first]:
                    yield repeat, batch, point


@dataclass(frozen=True)
class SpeedPlan:
    """What `mtad bench speed` was asked for.

    Attributes:
        pair: the models; the target may be the name of a pair, or of a widened one.
        methods: label and method; empty for the usual ones.
        num_prompts: in the main comparison.
        sampling: the same for every run.
        repeats: how often each prompt is decoded.
        max_batch_size: prompts decoded at once in the main comparison.
        scaling: what is varied beyond it.
        seed: of the first text.
        against: the other engines that take part, some of `ENGINES`.
        num_threads: of torch; 0 leaves it alone.
    """

    pair: PairSpec = field(default_factory=PairSpec)
    methods: Methods = ()
    num_prompts: int = 6
    sampling: Sampling = field(default_factory=Sampling)
    repeats: int = 3
    max_batch_size: int = 1
    scaling: tuple[str, ...] = ()
    seed: int = 0
    against: tuple[str, ...] = (TRANSFORMERS,)
    num_threads: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be done before anything is loaded."""
        for name in ("num_prompts", "repeats", "max_batch_size"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for axis in self.scaling:
            require_one_of("scaling", axis, AXES)
        for engine in self.against:
            require_one_of("against", engine, ENGINES)
        if LLAMA_CPP in self.against and self.max_batch_size > 1:
            raise ValueError(
                f"--max-batch-size is {self.max_batch_size}, and {LLAMA_CPP} decodes single "
                "prompts here; leave out one of them"
            )
        if "size" in self.scaling and self.pair.target not in PAIRS:
            raise ValueError("--scaling size goes through built-in pairs; leave out --target-model")
        draws = {n: v for n, v in vars(self.sampling).items() if n != "ignore_eos"}
        params = SamplingParams(**draws)
        for _, method in self.compared:
            method.check(params)
            self._require_draft(method)
        for axis in ("width", "length"):
            if axis in self.scaling and not _varied(self.compared, OPTIONS[axis]):
                raise ValueError(
                    f"--scaling {axis} needs a method with {OPTIONS[axis]}, such as mtad; "
                    f"the methods are {', '.join(label for label, _ in self.compared)}"
                )

    def _require_draft(self, method: Method) -> None:
        require_draft(method, self.pair.draft or self.pair.target in PAIRS)

    @property
    def compared(self) -> Methods:
        """The methods of the main comparison."""
        return self.methods or tuple((name, find(name)()) for name in METHODS)

    @property
    def scaled(self) -> Methods:
        """The methods of the other experiments; the plain one is always there to compare with."""
        chosen = self.methods or tuple((name, find(name)()) for name in SCALED_METHODS)
        if any(method.drafted_by == "none" for _, method in chosen):
            return chosen
        return (("autoregressive", find("autoregressive")()), *chosen)

    def as_dict(self) -> dict[str, Any]:
        """The plan for JSON."""
        table = dataclasses.asdict(self)
        return table | {"methods": {label: describe(method) for label, method in self.compared}}


def experiments(
    plan: SpeedPlan, prompts: Tokens, context: int | None, has_assistant: bool = True
) -> list[Experiment]:
    """The main comparison and the experiments of scaling.

    Args:
        plan: what was asked for.
        prompts: token ids; the first ones are those of the main comparison.
        context: tokens that the pair can read; None if there is no limit.
        has_assistant: whether a draft is one that other engines can use.
    """
    asked = [list(prompt) for prompt in prompts]
    main = batches_of(asked[: plan.num_prompts], plan.max_batch_size)
    found = [_experiment(plan, "", _main_points(plan, has_assistant), main)]
    few = batches_of(asked[: min(plan.num_prompts, SCALED_PROMPTS)], 1)
    for axis in sorted(set(plan.scaling), key=AXES.index):
        if axis == "batch":
            found += _batch_sizes(plan, asked)
        elif axis == "context":
            found += _contexts(plan, asked, context)
        elif axis == "size":
            found += _sizes(plan, few)
        else:
            values = WIDTHS if axis == "width" else LENGTHS
            points = _option_points(plan, OPTIONS[axis], values)
            found.append(_experiment(plan, axis, points, few))
    return found


def _experiment(
    plan: SpeedPlan,
    axis: str,
    points: Sequence[Point],
    batches: Sequence[list[list[int]]],
    **changed: Any,
) -> Experiment:
    whole = Experiment(axis, plan.pair, tuple(points), tuple(batches), plan.repeats, plan.sampling)
    return replace(whole, **changed)


def _main_points(plan: SpeedPlan, has_assistant: bool) -> list[Point]:
    points = [Point(label, method) for label, method in plan.compared]
    has_draft = has_assistant and (plan.pair.target in PAIRS or plan.pair.draft is not None)
    if TRANSFORMERS in plan.against:
        points.append(Point(PLAIN, None))
        if has_draft and plan.max_batch_size == 1:
            points.append(Point(ASSISTED, None))
    if LLAMA_CPP in plan.against:
        variants = [one for one in VARIANTS.values() if has_draft or not one.needs_draft]
        points += [Point(one.label, None) for one in variants]
    return points


def _points_at(methods: Methods, at: int | str) -> list[Point]:
    return [Point(label, method, at) for label, method in methods]


def _batch_sizes(plan: SpeedPlan, prompts: list[list[int]]) -> list[Experiment]:
    """Texts go on to the end of their budget, so that the batch stays full."""
    full = replace(plan.sampling, ignore_eos=True)
    return [
        _experiment(plan, "batch", _points_at(plan.scaled, n), [filled(prompts, n)], sampling=full)
        for n in BATCHES
    ]


def _contexts(plan: SpeedPlan, prompts: list[list[int]], context: int | None) -> list[Experiment]:
    """The same number of new tokens at the end of longer and longer texts."""
    budget = min(CONTEXT_TOKENS, plan.sampling.max_new_tokens)
    full = replace(plan.sampling, ignore_eos=True, max_new_tokens=budget)
    lengths = [n for n in CONTEXTS if context is None or n <= context]
    return [
        _experiment(
            plan,
            "context",
            _points_at(plan.scaled, n),
            [[of_length(prompts, n - budget)]],
            sampling=full,
        )
        for n in lengths
    ]


def _sizes(plan: SpeedPlan, batches: Sequence[list[list[int]]]) -> list[Experiment]:
    """The built-in pairs up to the one that was asked for; two of them at least."""
    [sizes] = [family for family in SIZES if plan.pair.target in family]
    last = max(1, sizes.index(plan.pair.target))
    return [
        _experiment(
            plan,
            "size",
            _points_at(plan.scaled, name),
            batches,
            pair=replace(plan.pair, target=name),
        )
        for name in sizes[: last + 1]
    ]


def _option_points(plan: SpeedPlan, option: str, values: Sequence[int]) -> list[Point]:
    """The methods that have the option at each of its values, and plain decoding."""
    points = [Point(label, m, WITHOUT_DRAFT) for label, m in plan.scaled if m.drafted_by == "none"]
    for label, method in _varied(plan.compared, option):
        points += [Point(label, replace(method, **{option: value}), value) for value in values]
    return points


def _varied(methods: Methods, option: str) -> Methods:
    return tuple((label, method) for label, method in methods if hasattr(method, option))
