"""RMS norms by zentorch: those of the model but for rounding, or not used."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from mtad.runtime.linear import norm as norms
from mtad.runtime.linear.norm import ZentorchNorm, replace_norms
from mtad.runtime.linear.zentorch import ZentorchInt8

needs_zentorch = pytest.mark.skipif(bool(ZentorchInt8.missing()), reason=ZentorchInt8.missing())


def stock(dtype: torch.dtype = torch.bfloat16) -> nn.Sequential:
    model = nn.Sequential(LlamaRMSNorm(96), LlamaRMSNorm(192, eps=0.1)).to(dtype)
    for module in model:
        nn.init.normal_(module.weight)
    return model


def exact(x: Tensor, module: LlamaRMSNorm) -> Tensor:
    wide = x.double()
    root = (wide.square().mean(-1, keepdim=True) + module.variance_epsilon).sqrt()
    return wide / root * module.weight.double()


@needs_zentorch
def test_a_norm_is_rounded_once_wherever_its_rows_are() -> None:
    before = stock()
    model = copy.deepcopy(before)
    assert replace_norms(model) == 2
    for old, new in zip(before, model, strict=True):
        size = old.weight.numel()
        x = torch.randn(3, 4, size, generator=torch.Generator().manual_seed(1)).bfloat16()
        got, wanted = new(x), exact(x, old)
        assert got.shape == x.shape and got.dtype == x.dtype
        assert ((got - wanted).abs() <= 2.0**-8 * wanted.abs() + 1e-30).all()
        assert torch.equal(new(x[1:2, 2:3]), got[1:2, 2:3])


@needs_zentorch
def test_nan_stays_in_its_row() -> None:
    model = stock()
    replace_norms(model)
    x = torch.ones(4, 96, dtype=torch.bfloat16)
    x[2, 7] = torch.nan
    assert model[0](x).isnan().all(1).tolist() == [False, False, True, False]


@needs_zentorch
def test_other_norms_and_other_types_stay_as_they_are() -> None:
    gemma = nn.Sequential(Gemma3RMSNorm(96)).bfloat16()  # multiplies by 1 + weight
    nn.init.normal_(gemma[0].weight)
    assert replace_norms(gemma) == 0 and type(gemma[0]) is Gemma3RMSNorm
    assert replace_norms(stock(torch.float32)) == 0
    assert replace_norms(nn.Sequential(nn.LayerNorm(96)).bfloat16()) == 0


def test_without_zentorch_norms_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ZentorchInt8, "missing", lambda: "it is not installed")
    model = stock()
    assert replace_norms(model) == 0 and type(model[0]) is LlamaRMSNorm


WRONG: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda x, normed: normed,
    lambda x, normed: normed * 1.02,
    lambda x, normed: normed.nan_to_num(),
    lambda x, normed: normed if len(x) == 1 else normed * (1 + 2.0**-8),
]


@pytest.mark.parametrize("wrong", WRONG, ids=["right", "scale", "no NaN", "depends on others"])
def test_only_a_kernel_that_is_right_is_used(
    wrong: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: ZentorchNorm, x: Tensor) -> Tensor:
        right = LlamaRMSNorm(self.weight.numel(), self.epsilon).bfloat16()
        right.weight = self.weight
        rows = x.reshape(-1, x.shape[-1])
        return wrong(rows, right(rows)).view(x.shape)

    monkeypatch.setattr(ZentorchInt8, "missing", lambda: "")
    monkeypatch.setattr(norms.ZentorchNorm, "forward", forward)
    assert replace_norms(stock()) == (2 if wrong is WRONG[0] else 0)
