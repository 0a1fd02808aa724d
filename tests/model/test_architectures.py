"""Every architecture that is said to work: token trees, greedy decoding and long texts."""

from __future__ import annotations

import pytest
import torch
from support.tiny import (
    ARCHITECTURES,
    PROMPTS,
    path_logits,
    prefilled,
    random_tree,
    reference_text,
    similar,
    tiny_model,
    token_ids,
)

from mtad.methods.mmtad import MMTAD
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.model.weights import TOGETHER
from mtad.runtime.linear import formats
from mtad.runtime.linear.formats import PACKED, convert
from mtad.sampling.params import SamplingParams

pytestmark = pytest.mark.parametrize("name", ARCHITECTURES)


def test_tree_forward_equals_reading_every_path_alone(name):
    model = tiny_model(name)
    tree = random_tree(PROMPTS, (3, 4, 2), seed=1)
    with torch.inference_mode():
        got = prefilled(model, PROMPTS).forward(tree)
    expected = path_logits(model, PROMPTS, tree)
    assert expected.std() > 0.5, "the logits must be worth comparing"
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0.0)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(SpeculativeSampling(3), id="chain", marks=pytest.mark.slow),
        pytest.param(MMTAD(3, 3), id="tree"),
    ],
)
def test_greedy_equals_generate(name, method):
    target = tiny_model(name)
    params = SamplingParams(temperature=0.0, max_new_tokens=16)
    expected = [reference_text(target, prompt, 16) for prompt in PROMPTS]
    assert token_ids(target, similar(target, 0.1), method, PROMPTS, params) == expected


def test_the_last_position_of_the_context_can_be_used(name):
    """Tree nodes that stick out of the context must neither fail nor disturb the others."""
    target = tiny_model(name)
    prompts = [[(7 * i) % 61 for i in range(target.config.max_position_embeddings - 6)], [3]]
    params = SamplingParams(temperature=0.0, max_new_tokens=6)
    expected = [reference_text(target, prompt, 6) for prompt in prompts]
    assert token_ids(target, similar(target, 0.1), MMTAD(8, 3), prompts, params) == expected


def test_layers_of_the_same_input_can_be_multiplied_as_one(name, monkeypatch):
    monkeypatch.setattr(formats, "MIN_WEIGHTS", 1)
    alone, joint = tiny_model(name), tiny_model(name)
    assert convert(alone, PACKED).kernels == convert(joint, PACKED, TOGETHER).kernels
    tree = random_tree(PROMPTS, (3, 4, 2), seed=1)
    with torch.inference_mode():
        got, expected = (prefilled(model, PROMPTS).forward(tree) for model in (joint, alone))
    assert torch.equal(got, expected)
