"""Bias and rejection of the runs of a results folder, over texts that the pair writes for them.

The texts are drawn from the target by speculative sampling, for the recipe's own prompts and with
the sampling settings of its reference run; at each position where a draft token was judged, both
laws are kept. So all rules are placed on the same positions, those of the target's own texts.

Each law is cut to its `MOST` most likely tokens. What a rule does with longer drafts, and how far
it strays once its text is another one, is not known here.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtad.api.pair import ModelPair
from mtad.bench.front.position import Positions
from mtad.bench.plan import Point, Recipe, Run
from mtad.bench.runner import seed_of
from mtad.bench.statistics import ratio, resamples, sums
from mtad.core.schema import options_of
from mtad.engine.request import Request
from mtad.engine.session import Session
from mtad.engine.step import Observation
from mtad.errors import OptionError
from mtad.methods import describe
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.model.tokenizer import encode
from mtad.sampling.params import SamplingParams
from mtad.sampling.truncation import NEVER
from mtad.speculative.method import Method
from mtad.tasks import Item

MOST = 64
"""Tokens that are kept of the target's law, and as many of the draft's."""
DIGITS = 6
"""Fewer than bisection is exact to."""
AT_ONCE = 16
"""Positions that a rule judges together."""

OnProgress = Callable[[str, int, int], None]
"""Called with what is done, how many items are through and how many there are."""


@dataclass(frozen=True)
class Text:
    """The positions of one prompt's text."""

    task: str
    positions: Positions


def measure(
    recipe: Recipe,
    pair: ModelPair,
    items: Mapping[str, Sequence[Item]],
    chosen: Mapping[str, Mapping[str, Point]],
    max_new_tokens: int,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """What front.json holds: the optimum, and each run's bias and rejection with intervals.

    Args:
        recipe: of the folder.
        pair: its models.
        items: prompts by task.
        chosen: the points of tuned runs, by run and task.
        max_new_tokens: of each text.
        on_progress: called after every text and after every item of a run.

    Raises:
        ValueError: the pair has no draft, or the reference run does not sample.
    """
    sampling = _sampling(recipe, pair, max_new_tokens)
    seen = _Seen(_texts(recipe, pair, items, sampling, on_progress))
    rows, left_out = {}, {}
    for run in recipe.runs:
        points = chosen.get(run.name) or dict.fromkeys(run.tasks, run.points[0])
        why = _obstacle(recipe, run, points, sampling)
        if why is None:
            rows[run.name] = seen.row(run.name, points, on_progress)
        else:
            left_out[run.name] = why
    return {
        "sampling": dict(recipe.reference_run.sampling),
        "num_texts": len(seen.texts),
        "num_positions": sum(len(one.positions.logits) for one in seen.texts),
        "num_tokens_kept": MOST,
        "optimum": seen.mean(seen.least, {*items}),
        "runs": rows,
        "left_out": left_out,
    }


class _Seen:
    """The texts, and means over their positions with intervals over texts."""

    def __init__(self, texts: Sequence[Text]) -> None:
        self.texts = texts
        strata = Counter(one.task for one in texts)
        self._weights = resamples([*strata.values()])
        self.least = [float(one.positions.distance.sum()) for one in texts]

    def row(
        self, name: str, points: Mapping[str, Point], on_progress: OnProgress
    ) -> dict[str, Any]:
        """What front.json has of a run."""
        found = [*_placed(name, points, self.texts, on_progress)]
        bias, rejection = zip(*found, strict=True)
        above = [b + r - d for (b, r), d in zip(found, self.least, strict=True)]
        means = {"bias": bias, "rejection": rejection, "distance": above}
        methods = {task: describe(point.method) for task, point in points.items()}
        return {"methods": methods} | {n: self.mean(v, points) for n, v in means.items()}

    def mean(self, values: Sequence[float], tasks: Collection[str]) -> dict[str, Any]:
        """The mean over positions of these tasks, given the sum of each text."""
        sizes = [len(one.positions.logits) * (one.task in tasks) for one in self.texts]
        pairs = [(v * (n > 0), n) for v, n in zip(values, sizes, strict=True)]
        above, below = sums(np.array(pairs, dtype=float).T, self._weights)
        found = dataclasses.asdict(ratio(above, below, sum(n > 0 for n in sizes)).estimate())
        return {name: value and round(value, DIGITS) for name, value in found.items()}


def _texts(
    recipe: Recipe,
    pair: ModelPair,
    items: Mapping[str, Sequence[Item]],
    sampling: SamplingParams,
    on_progress: OnProgress,
) -> list[Text]:
    """One text per prompt, task by task; those in which no draft token was judged are left out.

    Raises:
        ValueError: none is left.
    """
    asked = [(task, item) for task, some in items.items() for item in some]
    found = []
    for done, (task, item) in enumerate(asked):
        on_progress("texts", done, len(asked))
        prompt = encode(pair.tokenizer, recipe.tasks[task].task.prompt(item, []))
        seeded = dataclasses.replace(sampling, seed=seed_of(0, task, item.id, 0))
        found += [Text(task, one) for one in _positions(pair, Request(prompt, seeded))]
    if not found:
        raise ValueError("no draft token was judged in any text; give a larger --max-new-tokens")
    return found


def _sampling(recipe: Recipe, pair: ModelPair, max_new_tokens: int) -> SamplingParams:
    """The settings of the reference run."""
    run = recipe.reference_run
    if pair.models.draft is None:
        raise ValueError("the recipe's pair has no draft, so there is nothing to accept")
    if not run.is_random:
        raise ValueError(
            f"the reference run {run.name} has temperature 0, where laws are single tokens; set "
            "reference in the recipe to a run that samples"
        )
    eos = pair.models.eos_token_ids
    return SamplingParams(
        **{"eos_token_ids": eos, **run.sampling, "max_new_tokens": max_new_tokens}
    )


def _obstacle(
    recipe: Recipe, run: Run, points: Mapping[str, Point], sampling: SamplingParams
) -> str | None:
    """Why a run has no place, None if it has one."""
    methods = [point.method for point in points.values()]
    if run.models != "pair" or any(m.drafted_by != "draft" for m in methods):
        return "no draft token is judged"
    if all(method.is_lossless for method in methods):
        return "lossless"
    if dict(run.sampling) != dict(recipe.reference_run.sampling):
        return f"other sampling settings than {recipe.reference}"
    if any("num_draft_tokens" not in options_of(type(method)) for method in methods):
        return "its drafts cannot be one token long"
    if all(_of_one_token(method).is_lossless for method in methods):
        return "lossless where one token is drafted"
    try:
        for method in methods:
            method.check(sampling)
    except OptionError as error:
        return str(error)
    return None


def _of_one_token(method: Method) -> Method:
    return dataclasses.replace(method, **{"num_draft_tokens": 1})


def _placed(
    name: str, points: Mapping[str, Point], texts: Sequence[Text], on_progress: OnProgress
) -> Iterator[tuple[float, float]]:
    """The sums of bias and rejection over the positions of each text; 0 in tasks without points."""
    for done, one in enumerate(texts):
        on_progress(name, done, len(texts))
        if one.task not in points:
            yield 0.0, 0.0
            continue
        method, parts = _of_one_token(points[one.task].method), _parts(one.positions)
        with torch.inference_mode():
            found = [[float(t.sum()) for t in part.place(method)] for part in parts]
        bias, rejection = map(sum, zip(*found, strict=True))
        yield bias, rejection


def _parts(all_: Positions) -> Iterator[Positions]:
    names = ("logits", "draft", "eos")
    for start in range(0, len(all_.logits), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        yield dataclasses.replace(all_, **{name: getattr(all_, name)[rows] for name in names})


def _positions(pair: ModelPair, request: Request) -> list[Positions]:
    """The positions of a text where a draft token was judged; an empty list if there is none."""
    models, found = pair.models, list[tuple[Tensor, Tensor]]()
    method = SpeculativeSampling()
    with torch.inference_mode():
        session = Session(
            models.target, models.draft, method, [request], models.vocab, None, pair.workspace
        )
        session.observe = lambda one: found.extend(_laws(one))
        try:
            for _ in session.run():
                pass
        finally:
            session.close()
    if not found:
        return []
    eos = torch.tensor(request.sampling.eos_token_ids, dtype=torch.int64)
    logits, draft, ends = zip(*(_few(*laws, eos) for laws in found), strict=True)
    return [Positions(torch.stack(logits), torch.stack(draft), torch.stack(ends), request.sampling)]


def _laws(one: Observation) -> Iterator[tuple[Tensor, Tensor]]:
    """The target's processed logits and log q wherever a draft token was judged, (V,) each."""
    logits = one.warp.process(one.logits, one.tree, None)[0].float().cpu()
    for place in range(min(int(one.verdict.num_accepted[0]) + 1, one.tree.depth)):
        if one.tree.alive[0, place + 1]:
            yield logits[place], one.tree.draft_logprobs[place][0, 0].float().cpu()


def _few(logits: Tensor, draft: Tensor, eos: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both on the most likely tokens of each, in their order, and where EOS tokens are there."""
    count = min(MOST, len(logits))
    likely = torch.cat([logits.topk(count).indices, draft.topk(count).indices])
    tokens = torch.zeros_like(logits).index_fill(0, likely, 1.0).nonzero()[:, 0]
    room = 2 * count - len(tokens)
    shared = torch.nn.functional.pad(logits[tokens], (0, room), value=NEVER)
    law = torch.nn.functional.pad(draft[tokens].log_softmax(0), (0, room), value=NEVER)
    places = torch.searchsorted(tokens, eos).clamp(max=len(tokens) - 1)
    return shared, law, torch.where(tokens[places] == eos, places, -1)
