"""Packed weights: the same logits, in the same places, with nothing else changed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mtad
from mtad.runtime.linear.packed import MIN_WEIGHTS, PackedLinear, helps, pack
from mtad.testing import random_llama

IDS = torch.arange(40).reshape(2, 20) % 61


def model(dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    return random_llama(hidden=256, num_layers=1).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@torch.inference_mode()
def test_packed_models_say_the_same(dtype: torch.dtype) -> None:
    plain, packed = model(dtype), model(dtype)
    packed.load_state_dict(plain.state_dict())
    large = sum(type(m) is nn.Linear and m.weight.numel() >= MIN_WEIGHTS for m in plain.modules())
    assert 0 < large < sum(type(m) is nn.Linear for m in plain.modules())
    assert pack(packed) == large == sum(type(m) is PackedLinear for m in packed.modules())
    for rows in (IDS, IDS[:1, :1], IDS[:1, :5]):
        wanted, got = plain(rows).logits, packed(rows).logits
        assert torch.allclose(got, wanted, atol=0.02 if dtype is torch.bfloat16 else 1e-4)


def test_a_bias_is_added() -> None:
    layer = nn.Linear(256, 256).to(torch.bfloat16)
    x = torch.randn(3, 256).bfloat16()
    with torch.inference_mode():
        assert torch.allclose(PackedLinear(layer)(x), layer(x), atol=0.02)


def test_packing_twice_and_tied_weights() -> None:
    tied = model()
    tied.lm_head.weight = tied.model.embed_tokens.weight
    embedding = tied.model.embed_tokens.weight.clone()
    assert pack(tied) > 0
    assert pack(tied) == 0
    assert torch.equal(tied.model.embed_tokens.weight, embedding)


def test_it_helps_bfloat16_on_the_cpu_only() -> None:
    assert helps(model()) == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert not helps(model(torch.float32))
    assert not helps(model(torch.float16))


def test_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match="float16 on cpu; packing works for bfloat16 and float32"):
        pack(model(torch.float16))
    with pytest.raises(ValueError, match="on meta"):
        pack(model().to("meta"))


def count_packed(pair: mtad.ModelPair) -> int:
    return sum(type(m) is PackedLinear for m in pair.models.target.modules())


def test_load_pair_packs_where_it_helps_and_as_it_is_told() -> None:
    assert count_packed(mtad.load_pair("demo", dtype="float32")) == 0
    assert count_packed(mtad.load_pair("demo", dtype="float32", pack=True)) > 0
    supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert (count_packed(mtad.load_pair("demo", dtype="bfloat16")) > 0) == supported
    assert count_packed(mtad.load_pair("demo", dtype="bfloat16", pack=False)) == 0
