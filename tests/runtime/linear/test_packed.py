"""Packed weights: the same logits, in the same places, with nothing else changed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtad.runtime.linear.formats import BF16, MIN_WEIGHTS, PLAIN, convert, usual_format
from mtad.runtime.linear.kernel import weight_of
from mtad.runtime.linear.packed import PackedLinear, is_quick
from mtad.testing import random_llama

IDS = torch.arange(40).reshape(2, 20) % 61


def model(dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    return random_llama(hidden=256, num_layers=1).to(dtype)


@torch.inference_mode()
def test_packed_models_say_the_same() -> None:
    plain, packed = model(), model()
    packed.load_state_dict(plain.state_dict())
    large = sum(type(m) is nn.Linear and m.weight.numel() >= MIN_WEIGHTS for m in plain.modules())
    assert 0 < large < sum(type(m) is nn.Linear for m in plain.modules())
    done = convert(packed, BF16)
    assert done.kernels == {"oneDNN": large} and done.relative_error == 0 and done.num_left == 0
    assert sum(type(m) is PackedLinear for m in packed.modules()) == large
    for rows in (IDS, IDS[:1, :1], IDS[:1, :5]):
        wanted, got = plain(rows).logits, packed(rows).logits
        assert torch.allclose(got, wanted, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_bias_is_added_and_weights_are_read_back(dtype: torch.dtype) -> None:
    layer = nn.Linear(256, 256).to(dtype)
    x = torch.randn(3, 256).to(dtype)
    atol = 0.02 if dtype is torch.bfloat16 else 1e-4
    with torch.inference_mode():
        assert torch.allclose(PackedLinear(layer)(x), layer(x), atol=atol)
        assert torch.allclose(weight_of(PackedLinear(layer)), layer.weight, atol=atol)


def test_converting_twice_and_tied_weights() -> None:
    tied = model()
    tied.lm_head.weight = tied.model.embed_tokens.weight
    embedding = tied.model.embed_tokens.weight.clone()
    assert convert(tied, BF16).kernels
    assert not convert(tied, BF16).kernels
    assert torch.equal(tied.model.embed_tokens.weight, embedding)


def test_it_is_usual_for_bfloat16_on_the_cpu_only() -> None:
    assert usual_format(model()) is (BF16 if is_quick() else PLAIN)
    assert usual_format(model(torch.float32)) is usual_format(model(torch.float16)) is PLAIN


def test_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match="float16 on cpu, and bf16 works for bfloat16 on the CPU"):
        convert(model(torch.float16), BF16)
    with pytest.raises(ValueError, match="on meta"):
        convert(model().to("meta"), BF16)
