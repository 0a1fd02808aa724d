"""Balanced channels: the same floats, and less that 8 bits change."""

from __future__ import annotations

import copy
import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtad.model.balancing import LINKS, balance_target
from mtad.model.weights import take_form
from mtad.runtime.linear import formats
from mtad.runtime.linear.balance import Links, Scaled, balance, factors_of
from mtad.testing import random_llama

IDS = torch.randint(61, (2, 40), generator=torch.Generator().manual_seed(3))


def with_outliers(dtype: torch.dtype = torch.float32) -> nn.Module:
    """A Llama of which a few channels are far larger than the others, in inputs of all layers."""
    model = random_llama(hidden=64).to(dtype)
    with torch.no_grad():
        for layer in model.model.layers:
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                norm.weight[::20] *= 30
            layer.mlp.up_proj.weight[::20] *= 30
        model.model.norm.weight[::20] *= 30
    return model


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    result: Tensor = model(IDS, use_cache=False).logits
    return result.float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_floats_stay_the_same_to_the_bit(dtype: torch.dtype) -> None:
    model = with_outliers(dtype)
    before = copy.deepcopy(model)
    assert balance_target(model, None) == 2 * 6 + 1
    assert torch.equal(logits(model), logits(before))
    old, new = before.model.layers[1], model.model.layers[1]
    for name in ("input_layernorm", "post_attention_layernorm", "mlp.up_proj"):
        assert not torch.equal(old.get_submodule(name).weight, new.get_submodule(name).weight)
    assert isinstance(model.lm_head, Scaled) and model.lm_head.in_features == 64
    assert torch.equal(model.model.norm.weight, before.model.norm.weight), "a draft reads it"


@pytest.mark.parametrize("gives", [[], [60, 61] * 40, None])
def test_a_tokenizer_that_cannot_read_the_text_is_as_none(gives: list[int] | None) -> None:
    """It gives nothing, tokens that the model lacks, or an error."""

    def tokenizer(_: str) -> Any:
        return SimpleNamespace(input_ids=[*gives])  # type: ignore[misc]

    models = with_outliers(), with_outliers()
    given: Any = tokenizer
    assert balance_target(models[0], given) == balance_target(models[1], None) == 2 * 6 + 1
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)


def test_8_bits_change_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MIN_WEIGHTS", 1)
    wanted, off = logits(with_outliers()), list[float]()
    for is_balanced in (False, True):
        model = with_outliers()
        if is_balanced:
            balance_target(model, None)
        formats.convert(model, formats.INT8)
        off.append(float((logits(model) - wanted).norm() / wanted.norm()))
    assert off[1] < 0.6 * off[0], off


def test_factors_are_powers_of_two_and_ones_where_nothing_is_large() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(50, 32), torch.randn(16, 32)
    assert set(factors_of(x, weight).tolist()) <= {0.5, 1.0, 2.0}
    x[:, 5] *= 100
    factors = factors_of(x, weight)
    assert torch.equal(factors.log2(), factors.log2().round())
    assert factors[5] > factors[torch.arange(32) != 5].max()
    assert factors_of(torch.zeros(3, 32), torch.zeros(4, 32)).isfinite().all()


class Shifted(nn.Module):
    """A norm of another kind: its weight is not all that it multiplies by."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + self.weight)


def test_what_would_be_another_model_stays_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    model = with_outliers()
    for layer in model.model.layers:
        layer.post_attention_layernorm = Shifted(64)
    before = copy.deepcopy(model)
    with caplog.at_level(logging.WARNING):
        assert balance_target(model, None) == 2 * 4 + 1
    [message] = caplog.messages
    assert message.startswith("inputs of layers after post_attention_layernorm are not balanced")
    assert torch.equal(logits(model), logits(before))
    for old, new in zip(before.model.layers, model.model.layers, strict=True):
        assert torch.equal(old.mlp.gate_proj.weight, new.mlp.gate_proj.weight)
        assert not torch.equal(old.mlp.down_proj.weight, new.mlp.down_proj.weight)


def test_links_that_a_model_does_not_have_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    x = torch.randn(5, 8)
    assert balance(model, LINKS, lambda: model(x)) == 0
    links = Links({"0": ("1",)})
    before = model(x)
    assert balance(model, links, lambda: model(x)) == 1
    assert torch.equal(model(x), before), "biases are divided like weights"


def test_an_int8_target_says_that_its_inputs_are_balanced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MIN_WEIGHTS", 1)
    assert take_form(random_llama(), "target", "int8").num_balanced == 2 * 6 + 1
    assert take_form(random_llama(), "draft", "int8").num_balanced == 0
