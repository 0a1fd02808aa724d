"""Attention of grouped heads: what "sdpa" computes, without copies of the cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.tiny import PROMPTS, VOCAB, path_logits, prefilled, random_tree, tiny_model
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface
from transformers.integrations import sdpa_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import mtad.model.lm
from mtad.model.attention import FEW, NAME, grouped_attention, use_grouped_attention
from mtad.model.loading import join
from mtad.runtime.tape import Tape

GROUPED = ["llama", "qwen2", "mistral", "mistral_sliding", "gemma3_text", "granite"]
NODES = [1, 5, FEW, FEW + 1, 100]
LONG = [[(7 * i) % VOCAB for i in range(90)], [3, 5, 8], [(5 * i) % VOCAB for i in range(50)]]


class Grouped(nn.Module):
    """What transformers' attention asks of the layer that calls it."""

    num_key_value_groups = 4
    is_causal = True


def case(nodes: int, dtype: torch.dtype = torch.float32, value_size: int = 16) -> list[Tensor]:
    """Queries of 8 heads, keys and values of 2, and a mask; every query sees some slot."""
    generator = torch.Generator().manual_seed(nodes)
    shapes = [(3, nodes, 8, 16), (3, 2, 200, 16), (3, 2, 200, value_size)]
    query, key, value = (torch.randn(s, generator=generator, dtype=dtype) for s in shapes)
    mask = torch.rand(3, 1, nodes, 200, generator=generator) < 0.5
    return [query.transpose(1, 2), key, value, mask]


@pytest.mark.parametrize("nodes", NODES)
@pytest.mark.parametrize("value_size", [16, 8])
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_the_output_is_that_of_sdpa(nodes: int, value_size: int, scaling: float | None) -> None:
    inputs = case(nodes, value_size=value_size)
    got, weights = grouped_attention(Grouped(), *inputs, scaling=scaling)
    expected, _ = sdpa_attention_forward(Grouped(), *inputs, scaling=scaling)
    assert weights is None
    assert got.is_contiguous()
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("nodes", NODES)
def test_bfloat16_is_as_close_to_the_exact_output_as_sdpa_is(nodes: int) -> None:
    inputs = case(nodes)
    short = [t.bfloat16() if t.is_floating_point() else t for t in inputs]
    exact, _ = sdpa_attention_forward(Grouped(), *(t.float() for t in short[:3]), inputs[3])
    errors = [
        (attend(Grouped(), *short)[0].float() - exact).abs().max()
        for attend in (grouped_attention, sdpa_attention_forward)
    ]
    assert errors[0] < 1.5 * errors[1] < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("nodes", NODES)
def test_nothing_as_large_as_the_repeated_keys_is_made(nodes: int, dtype: torch.dtype) -> None:
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            result = func(*args, **kwargs or {})
            sizes.extend(t.numel() for t in tree_leaves(result) if isinstance(t, Tensor))
            return result

    query, mask = torch.randn(1, 8, nodes, 64, dtype=dtype), torch.ones(1, 1, nodes, 1024) > 0
    keys = torch.randn(1, 2, 1024, 64, dtype=dtype)
    with torch.inference_mode(), Sizes():
        grouped_attention(Grouped(), query, keys, keys, mask)
    assert sizes
    assert max(sizes) <= keys.numel()


OPTIONS: list[dict[str, Any]] = [
    {"dropout": 0.5},
    {"position_bias": torch.linspace(0, 9, 5 * 200).view(1, 1, 5, 200).expand(3, 8, 5, 200)},
    {"output_attentions": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: next(iter(o)))
def test_other_options_are_left_to_sdpa(options: dict[str, Any]) -> None:
    outputs = []
    for attend in (grouped_attention, sdpa_attention_forward):
        torch.manual_seed(0)
        outputs.append(attend(Grouped(), *case(5), **options)[0])
    assert torch.equal(*outputs)
    plain = grouped_attention(Grouped(), *case(5))[0]
    assert torch.allclose(outputs[0], plain, atol=1e-3) == ("output_attentions" in options)


def test_softcap_is_refused_as_sdpa_refuses_it() -> None:
    with pytest.raises(ValueError, match="does not support `softcap`"):
        grouped_attention(Grouped(), *case(5), softcap=30.0)


def test_masks_of_every_kind() -> None:
    *inputs, mask = case(5)
    by_head = torch.rand(3, 8, 5, 200) < 0.5
    added = torch.randn(3, 1, 5, 200)
    for other in (by_head, added, mask[:1], None):
        got, _ = grouped_attention(Grouped(), *inputs, other)
        expected, _ = sdpa_attention_forward(Grouped(), *inputs, other)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("nodes", NODES)
def test_shapes_can_be_told_without_values(nodes: int) -> None:
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(t) for t in case(nodes)]
        assert grouped_attention(Grouped(), *fake)[0].shape == (3, nodes, 8, 16)
    meta = [t.to("meta") for t in case(nodes)]
    assert grouped_attention(Grouped(), *meta)[0].shape == (3, nodes, 8, 16)


@pytest.mark.parametrize("nodes", [5, 100])
def test_it_can_be_recorded(nodes: int) -> None:
    def program(begin: Any) -> list[Tensor]:
        begin("all")
        return [grouped_attention(Grouped(), *inputs)[0]]

    with torch.inference_mode():
        inputs = case(nodes)
        tape = Tape(program, inputs)
        others = [inputs[0] * 2, inputs[1] + 1, inputs[2] * 3, ~inputs[3]]
        (replayed,) = tape.replay(others, lambda phase: None)
        expected, _ = grouped_attention(Grouped(), *others)
    torch.testing.assert_close(replayed, expected)


@pytest.mark.parametrize("name", GROUPED)
def test_models_have_the_logits_of_sdpa(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Prompts are read in chunks of more, and of fewer, tokens than the two ways are meant for."""
    model = tiny_model(name)
    logits = []
    for switch in (False, True):
        if switch:
            assert use_grouped_attention(model)
            monkeypatch.setattr(sdpa_attention, "repeat_kv", None)  # it would fail if called
        for prefill_tokens in (256, 45):
            monkeypatch.setitem(mtad.model.lm.PREFILL_TOKENS, "cpu", prefill_tokens)
            with torch.inference_mode():
                tree = random_tree(LONG, (3, 4, 2), seed=1)
                logits.append(prefilled(model, LONG).forward(tree))
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], atol=1e-5 * logits[0].std().item(), rtol=1e-5)


@pytest.mark.parametrize("name", GROUPED)
def test_trees_equal_their_paths(name: str) -> None:
    model = tiny_model(name)
    assert join(model, None, None).target.config._attn_implementation == NAME
    tree = random_tree(PROMPTS, (3, 4, 2), seed=1)
    with torch.inference_mode():
        got = prefilled(model, PROMPTS).forward(tree)
    torch.testing.assert_close(got, path_logits(model, PROMPTS, tree), atol=1e-4, rtol=0.0)


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generate_works_as_before(name: str, cache: str) -> None:
    model = tiny_model(name)
    ids = torch.tensor([LONG[0][:40], [0] * 30 + LONG[2][:10]])
    mask = torch.ones_like(ids)
    mask[1, :30] = 0
    options = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False}
    options |= {"pad_token_id": 0, "cache_implementation": cache, "disable_compile": True}
    before = model.generate(ids, **options)
    assert use_grouped_attention(model)
    assert torch.equal(model.generate(ids, **options), before)


@pytest.mark.parametrize("name", ["gpt2", "falcon", "gpt_neox"])
def test_models_that_gain_nothing_stay_as_they_are(name: str) -> None:
    model = tiny_model(name)
    if name != "falcon":
        model.config.num_key_value_heads = model.config.num_attention_heads
    else:
        assert not model._can_set_attn_implementation()
        model.config.num_key_value_heads = 2
    assert join(model, None, None).target.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("fault", ["fails", "is wrong"])
def test_a_model_that_cannot_use_it_gets_sdpa_back(
    monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def faulty(*args: Any, **options: Any) -> tuple[Tensor, None]:
        if fault == "fails":
            raise RuntimeError("no such kernel")
        return torch.randn_like(grouped_attention(*args, **options)[0]), None

    monkeypatch.setitem(AttentionInterface._global_mapping, NAME, faulty)
    assert join(tiny_model("llama"), None, None).target.config._attn_implementation == "sdpa"


def test_a_saved_model_does_not_ask_for_it(tmp_path: Any) -> None:
    model = tiny_model("llama")
    assert use_grouped_attention(model)
    model.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text(encoding="utf-8")
