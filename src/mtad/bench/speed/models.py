"""The pair as users get it, and plain copies of its models for transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mtad.api.pair import ModelPair, load_pair
from mtad.bench.plan import PairSpec
from mtad.bench.speed.cost import PairCost, cost_of
from mtad.bench.speed.limits import measure_limits
from mtad.model.lm import Model, context_of
from mtad.model.loading import quiet
from mtad.model.recurrent_head import RecurrentHead
from mtad.runtime.linear import packed
from mtad.testing import WIDENED, widened_pair

DEMO = "demo"
PAIRS = (DEMO, *WIDENED)


@dataclass(frozen=True)
class Loaded:
    """A pair that is ready to be measured.

    Attributes:
        name: "demo", the name of a widened pair, or where the target came from.
        pair: as users get it.
        plain: the same models as transformers loads them; our own pair may hold its weights in
            another form.
        cost: the device's rates, and what the models need.
    """

    name: str
    pair: ModelPair
    plain: ModelPair
    cost: PairCost

    @property
    def device(self) -> torch.device:
        """Where the target is."""
        return torch.device(self.plain.models.target.device)

    @property
    def context(self) -> int | None:
        """Tokens that both models can read; None if there is no limit."""
        found = [context_of(m) for m in models_of(self.plain)]
        return min((c for c in found if c is not None), default=None)


def models_of(pair: ModelPair) -> list[Model]:
    """Target and draft, where there is one.

    Raises:
        ValueError: the draft is a head, which transformers' own assistance has nothing like.
    """
    draft = pair.models.draft
    if isinstance(draft, RecurrentHead):
        raise ValueError(
            "the draft is a head that reads the target's hidden state, and this bench compares "
            "with transformers, which takes a model as its assistant; give one as the draft"
        )
    return [pair.models.target, *([] if draft is None else [draft])]


def models_for(spec: PairSpec, context: int | None = None) -> tuple[ModelPair, ModelPair]:
    """The pair as users get it, and the pair of plain models for transformers.

    Args:
        spec: where the models come from; the target may be the name of a widened pair.
        context: tokens that a widened pair can read, if more than the embedded one.
    """
    quiet()
    if spec.target in WIDENED:
        plain = _widened(spec, context)
        pair = _widened(spec, context)
        for model in models_of(pair):
            if packed.helps(model):
                packed.pack(model)
        return pair, plain
    return _loaded(spec), _as_they_come(_loaded(spec, pack=False))


def _as_they_come(plain: ModelPair) -> ModelPair:
    """The pair without the attention that mtad gives to models of grouped heads."""
    for model in models_of(plain):
        model.set_attn_implementation("sdpa")
    return plain


def _loaded(spec: PairSpec, **options: Any) -> ModelPair:
    options |= {"dtype": spec.dtype, "device": spec.device}
    if spec.target == DEMO:
        return load_pair(DEMO, **options)
    return load_pair(target=spec.target, draft=spec.draft, **options)


def _widened(spec: PairSpec, context: int | None) -> ModelPair:
    """A widened pair with the tokenizer of the embedded one; the same weights every time."""
    demo = _loaded(replace(spec, target=DEMO), pack=False)
    device, dtype = demo.models.target.device, demo.models.target.dtype
    target, draft = widened_pair(spec.target, dtype=dtype, device=device, context=context)
    pair = ModelPair(target, draft, demo.tokenizer, trust_vocabulary=True)
    return ModelPair.of(replace(pair.models, eos_token_ids=demo.models.eos_token_ids))


def load(spec: PairSpec, context: int | None = None) -> Loaded:
    """The pair, once its device's rates are measured."""
    pair, plain = models_for(spec, context)
    return Loaded(spec.target, pair, plain, measured_cost(plain))


def measured_cost(plain: ModelPair, **sizes: int) -> PairCost:
    """What a pair of plain models costs on its device, whose rates are measured now.

    Args:
        plain: the models.
        sizes: of the measurements, as in `measure_limits`.
    """
    models = models_of(plain)
    costs = dict(zip(("target", "draft"), map(cost_of, models), strict=False))
    working_set = sum(cost.weight_bytes for cost in costs.values())
    target = models[0]
    limits = measure_limits(torch.device(target.device), target.dtype, working_set, **sizes)
    return PairCost(limits, costs)


def require_pair(spec: PairSpec, names: Sequence[str] = PAIRS) -> None:
    """Refuse a draft for a pair that has its own.

    Raises:
        ValueError: there is one.
    """
    if spec.target in names and spec.draft is not None:
        raise ValueError(f"the pair {spec.target!r} has its own draft; leave out --draft-model")
