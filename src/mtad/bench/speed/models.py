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
from mtad.model.drafter import Draft
from mtad.model.lm import context_of
from mtad.model.loading import Models, in_form, quiet
from mtad.model.recurrent_head import RecurrentHead
from mtad.pairs import PAIRS as NAMED
from mtad.testing import WIDENED, widened_pair

PAIRS = (*NAMED, *WIDENED)
"""Names of the pairs that need no models to be given."""


@dataclass(frozen=True)
class Loaded:
    """A pair that is ready to be measured.

    Attributes:
        name: of a named or a widened pair, or where the target came from.
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
    def has_assistant(self) -> bool:
        """Whether the draft is a model, which transformers can be assisted by; a head is none."""
        draft = self.plain.models.draft
        return draft is not None and not isinstance(draft, RecurrentHead)

    @property
    def context(self) -> int | None:
        """Tokens that both models can read; None if there is no limit."""
        found = [context_of(m) for m in models_of(self.plain)]
        return min((c for c in found if c is not None), default=None)


def models_of(pair: ModelPair) -> list[Draft]:
    """Target and draft, where there is one."""
    draft = pair.models.draft
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
        forms = {"target_weights": spec.target_weights, "draft_weights": spec.draft_weights}
        return ModelPair.of(in_form(pair.models, **forms), prefix_cache_mib=0), plain
    return _loaded(spec), _as_they_come(_loaded(_plain(spec)))


def _plain(spec: PairSpec) -> PairSpec:
    """The same models with their weights as they come."""
    return replace(spec, target_weights="plain", draft_weights="plain")


def _as_they_come(plain: ModelPair) -> ModelPair:
    """The pair without the attention that mtad gives to models of grouped heads."""
    for model in models_of(plain):
        if not isinstance(model, RecurrentHead):
            model.set_attn_implementation("sdpa")
    return plain


def _loaded(spec: PairSpec) -> ModelPair:
    names = ("dtype", "device", "target_weights", "draft_weights")
    options: dict[str, Any] = {name: getattr(spec, name) for name in names}
    options["prefix_cache_mib"] = 0  # each prompt's whole cost is measured
    if spec.target in NAMED:
        return load_pair(spec.target, **options)
    return load_pair(target=spec.target, draft=spec.draft, **options)


def _widened(spec: PairSpec, context: int | None) -> ModelPair:
    """A widened pair with the tokenizer of the one it is made of; the same weights every time."""
    small = _loaded(replace(_plain(spec), target=WIDENED[spec.target].base))
    device, dtype = small.models.target.device, small.models.target.dtype
    target, draft = widened_pair(spec.target, dtype=dtype, device=device, context=context)
    pair = ModelPair(target, draft, small.tokenizer, trust_vocabulary=True)
    models = replace(pair.models, eos_token_ids=small.models.eos_token_ids)
    return ModelPair.of(models, prefix_cache_mib=0)


def load(spec: PairSpec, context: int | None = None) -> Loaded:
    """The pair, once its device's rates are measured."""
    pair, plain = models_for(spec, context)
    return Loaded(spec.target, pair, plain, measured_cost(plain, pair.models))


def measured_cost(plain: ModelPair, used: Models | None = None, **sizes: int) -> PairCost:
    """What a pair of plain models costs on its device, whose rates are measured now.

    Args:
        plain: the models.
        used: the same, with their weights in the form that they decode in, if another.
        sizes: of the measurements, as in `measure_limits`.
    """
    models = models_of(plain)
    used = used or plain.models
    forms = {"target": used.target_weights, "draft": used.draft_weights}
    named = zip(forms, models, strict=False)
    costs = {name: cost_of(model, forms[name]) for name, model in named}
    working_set = sum(cost.weight_bytes for cost in costs.values())
    target = plain.models.target
    limits = measure_limits(torch.device(target.device), target.dtype, working_set, **sizes)
    return PairCost(limits, costs)


def require_pair(spec: PairSpec, names: Sequence[str] = PAIRS) -> None:
    """Refuse a draft for a pair that has its own.

    Raises:
        ValueError: there is one.
    """
    if spec.target in names and spec.draft is not None:
        raise ValueError(f"the pair {spec.target!r} has its own draft; leave out --draft-model")
