"""The form of a pair's weights: as it was asked for, or refused with what is allowed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

import mtad
from mtad.errors import UnsupportedModelError
from mtad.model.weights import take_form
from mtad.runtime.linear.int8 import Int8Linear
from mtad.runtime.linear.joint import JointPart
from mtad.runtime.linear.packed import PackedLinear, is_quick
from mtad.testing import random_llama


def count(model: Any, kind: type) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


@pytest.mark.slow
def test_bfloat16_is_packed_where_that_helps_and_as_is_asked_for() -> None:
    models = mtad.load_pair("demo", dtype="bfloat16").models
    usual = "bf16" if is_quick() else "plain"
    assert models.target_weights == models.draft_weights == usual
    assert (count(models.target, PackedLinear) > 0) == is_quick()
    options = {"target_weights": "plain", "draft_weights": "bf16"}
    models = mtad.load_pair("demo", dtype="bfloat16", **options).models
    assert (models.target_weights, models.draft_weights) == ("plain", "bf16")
    assert count(models.target, PackedLinear) == 0
    models = mtad.load_pair("demo", dtype="float32").models
    assert models.target_weights == "plain" and count(models.target, PackedLinear) == 0


@pytest.mark.slow
def test_int8_is_another_target_and_that_is_said() -> None:
    models = mtad.load_pair("demo", dtype="float32", target_weights="int8").models
    assert (models.target_weights, models.draft_weights) == ("int8", "plain")
    layers = count(models.target, Int8Linear) + count(models.target, JointPart)
    assert layers > 0 and count(models.draft, Int8Linear) == 0
    assert not isinstance(models.target.get_input_embeddings(), Int8Linear)
    [note] = models.notes
    assert note.startswith(f"the target's linear weights are int8 ({layers} by ")
    assert "which are off by 0." in note and "(root mean square); inputs of " in note


def test_what_there_is_no_such_form_or_model_for() -> None:
    with pytest.raises(ValueError, match=r"target_weights is 'int4'.*auto, plain, bf16, int8"):
        mtad.load_pair("demo", target_weights="int4")
    with pytest.raises(ValueError, match="there is no draft; leave draft_weights out"):
        mtad.load_pair(target=mtad.pairs.PAIRS["demo"].require_target(), draft_weights="int8")


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_models_that_cannot_have_it(weights: Any) -> None:
    for model, why in (
        (random_llama(hidden=256).double(), "float64 on cpu"),
        (random_llama(hidden=256).to("meta"), "on meta"),
    ):
        with pytest.raises(ValueError, match=f"draft can't have that: .*{why}.*at 'auto'"):
            take_form(model, "draft", weights)


def test_a_model_without_layers_for_it() -> None:
    with pytest.raises(UnsupportedModelError, match="the target has no linear layer"):
        take_form(random_llama(), "target", "int8")


def test_auto_leaves_other_models_alone() -> None:
    model = random_llama(hidden=256).half()
    assert not take_form(model, "target").kernels
    assert {p.dtype for p in model.parameters()} == {torch.float16}


def test_a_target_whose_attention_cannot_be_switched_is_not_made_int8(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its logits of a token would depend on the tree around it: it would be several targets."""
    monkeypatch.setattr(LlamaForCausalLM, "_can_set_attn_implementation", lambda _: False)
    model = random_llama(hidden=256)
    with pytest.raises(UnsupportedModelError, match=r"attention of 'llama' cannot be switched"):
        take_form(model, "target", "int8")
    assert count(model, Int8Linear) == 0, "it is refused before it is changed"
    assert take_form(model, "draft", "int8").kernels, "whatever a draft says is its law"
