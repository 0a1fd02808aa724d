"""The attention of 8-bit targets: of each token to the bit what it is of that token alone."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from mtad.core.tree import TokenTree
from mtad.model.attention import FEW
from mtad.model.lm import LM, Model
from mtad.model.steady_attention import NAME, steady_attention
from mtad.model.weights import take_form
from mtad.runtime import attention
from mtad.runtime.linear import formats
from mtad.runtime.linear.zentorch import ZentorchInt8


class Layer(nn.Module):
    is_causal = False
    num_key_value_groups = 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("groups", [3, 9])
@torch.inference_mode()
def test_a_token_does_not_depend_on_others(dtype: torch.dtype, groups: int) -> None:
    torch.manual_seed(0)
    layer = Layer()
    layer.num_key_value_groups = 9 // groups
    query = torch.randn(2, 9, 6, 64).to(dtype)
    key, value = (torch.randn(2, groups, 256, 64).to(dtype) for _ in range(2))
    mask = torch.arange(256) < torch.arange(195, 201)[:, None]
    mask = mask.expand(2, 1, 6, 256)
    together, _ = steady_attention(layer, query, key, value, mask)
    usual, _ = sdpa_attention_forward(layer, query, key, value, mask)
    assert torch.allclose(together, usual, atol=1e-2 if dtype is torch.bfloat16 else 1e-5)
    for node in range(6):
        part = slice(node, node + 1)
        alone, _ = steady_attention(layer, query[:, :, part], key, value, mask[:, :, part])
        assert torch.equal(together[:, part], alone)
        row = (t[1:] for t in (query[:, :, part], key, value, mask[:, :, part]))
        assert torch.equal(steady_attention(layer, *row)[0], alone[1:])
    many = (t.repeat(4, 1, 1, 1) for t in (query, key, value, mask))
    assert torch.equal(steady_attention(layer, *many)[0], together.repeat(4, 1, 1, 1))


@torch.inference_mode()
def test_values_of_another_size() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(1, 4, 3, 8), torch.randn(1, 4, 64, 8)
    value, mask = torch.randn(1, 4, 64, 16), (torch.rand(1, 1, 3, 64) < 0.5)
    together, _ = steady_attention(Layer(), query, key, value, mask)
    wanted, _ = sdpa_attention_forward(Layer(), query, key, value, mask)
    assert torch.allclose(together, wanted, atol=1e-5)


def test_prompts_are_read_as_usual() -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(1, 4, FEW + 1, 8) for _ in range(3)]
    mask = torch.ones(1, 1, FEW + 1, FEW + 1, dtype=torch.bool).tril()
    got, _ = steady_attention(Layer(), *tensors, mask)
    wanted, _ = sdpa_attention_forward(Layer(), *tensors, mask)
    assert torch.equal(got, wanted)


@pytest.fixture
def quantised(monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setattr(formats, "MIN_WEIGHTS", 1)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=61,
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=1,
        initializer_range=0.2,
    )
    model = transformers.LlamaForCausalLM(config).bfloat16().eval()
    take_form(model, "target", "int8")
    return model


def chain(tokens: list[int], previous: int) -> TokenTree:
    first, *rest = (torch.tensor([token]) for token in tokens)
    tree = TokenTree.root(first, torch.tensor([previous]))
    for token in rest:
        zeros = torch.zeros(1, 1)
        tree = tree.grow(token[:, None], zeros.long() + tree.num_nodes - 1, zeros == 0, zeros)
    return tree


@pytest.mark.slow
@torch.inference_mode()
def test_an_int8_target_says_the_same_of_a_token_alone_and_among_others(quantised: Model) -> None:
    assert quantised.config._attn_implementation == NAME
    assert attention._faults.get((torch.bfloat16, 1, 3, 64), "") == "", "zentorch's, if it is here"
    assert bool(attention._faults) == (not ZentorchInt8.missing())
    text, start = [(7 * i * i + 3) % 61 for i in range(250)], 220
    one, many = (LM(quantised, "target", 61, 1, 256) for _ in range(2))
    for lm in (one, many):
        lm.prefill([text[: start + 1]])
        lm.look_ahead(len(text), 8)
    wanted = many.forward(chain(text[start:], text[start - 1]))
    for place in range(start, len(text)):
        alone = one.forward(chain([text[place]], text[place - 1]))
        assert torch.equal(alone[:, 0], wanted[:, place - start])
        one.commit(None, torch.tensor([0]))
