"""Settings that mean nothing are refused, with what was given and what is allowed."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from mtad.engine.decode import decode
from mtad.engine.session import Request, Session
from mtad.errors import ContextLengthError, OptionError, PromptError
from mtad.methods.autoregressive import Autoregressive
from mtad.methods.beam_search import BeamSearch
from mtad.methods.mcss import MCSS
from mtad.methods.specinfer import SpecInfer
from mtad.model.lm import context_of
from mtad.sampling.params import SamplingParams
from mtad.testing import random_llama

pytestmark = pytest.mark.usefixtures("unchecked_types")


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("temperature", -1.0, "finite number >= 0"),
        ("temperature", math.nan, "finite number >= 0"),
        ("temperature", None, "finite number >= 0"),
        ("temperature", 1e-39, "0 (greedy) or at least 1e-05"),
        ("top_k", -1, "integer >= 0"),
        ("top_k", 10.7, "integer >= 0"),
        ("top_p", 0.0, "in (0, 1]"),
        ("top_p", 1.5, "in (0, 1]"),
        ("min_p", 2.0, "from 0 (off) to 1"),
        ("repetition_penalty", 0.0, "finite number > 0"),
        ("frequency_penalty", math.inf, "finite number"),
        ("max_new_tokens", 4.5, "integer >= 0"),
        ("max_new_tokens", True, "integer >= 0"),
        ("min_new_tokens", -2, "integer >= 0"),
        ("seed", 2**64, "integer of 64 bits"),
        ("logit_bias", {5: math.inf}, "numbers below infinity"),
        ("logit_bias", {"5": 1.0}, "token ids"),
    ],
)
def test_a_sampling_setting_that_means_nothing(name, value, allowed):
    with pytest.raises(ValueError) as caught:
        SamplingParams(**{name: value})
    message = str(caught.value)
    assert name in message and allowed in message
    assert repr(value if name != "logit_bias" else next(iter(value))) in message


def test_more_minimum_than_maximum():
    with pytest.raises(ValueError, match="min_new_tokens is 9, more than max_new_tokens, 4"):
        SamplingParams(min_new_tokens=9, max_new_tokens=4)


@pytest.mark.parametrize("method", [lambda: SpecInfer(k_config=3), lambda: SpecInfer(k_config=())])
def test_a_tree_shape_is_a_list(method):
    with pytest.raises(
        ValueError, match=r"k_config is .*; it must be a list of integers >= 1, not empty"
    ):
        method()


def test_a_length_penalty_is_finite():
    with pytest.raises(ValueError, match="length_penalty is nan; it must be a finite number"):
        BeamSearch(length_penalty=math.nan)


def run(params: SamplingParams) -> None:
    model = random_llama(vocab=31)
    Session(model, None, Autoregressive(), [Request([1], params)], 31)


def test_something_must_be_left_to_say():
    with pytest.raises(ValueError, match="all 31 tokens are suppressed; leave at least one"):
        run(SamplingParams(suppress_tokens=range(31)))


BUT_EOS = [t for t in range(31) if t != 4]


@pytest.mark.parametrize(
    "settings",
    [
        {"suppress_tokens": BUT_EOS},
        {"logit_bias": dict.fromkeys(BUT_EOS, -math.inf)},
        {"suppress_tokens": BUT_EOS[:9], "logit_bias": dict.fromkeys(BUT_EOS[9:], -math.inf)},
        {"suppress_tokens": BUT_EOS[2:], "eos_token_ids": [4, *BUT_EOS[:2]]},
        {"eos_token_ids": list(range(31))},
    ],
)
def test_settings_that_together_leave_no_token(settings):
    own = {"eos_token_ids": [4], "temperature": 0.0, **settings}
    with pytest.raises(OptionError, match=r"all 31 .* set min_new_tokens to 0") as caught:
        run(SamplingParams(min_new_tokens=3, **own))
    assert caught.value.name == "min_new_tokens"
    run(SamplingParams(min_new_tokens=0, **own))
    if own["eos_token_ids"] == [4]:
        run(SamplingParams(min_new_tokens=3, **own | {"eos_token_ids": []}))


def test_an_eos_id_must_be_a_token():
    with pytest.raises(PromptError, match="request 0: token id 999 is not in the vocabulary of 31"):
        run(SamplingParams(eos_token_ids=[999], min_new_tokens=2))


# ---------------------------------------------------------------- rotations that depend on length


@pytest.fixture(scope="module")
def longrope() -> Phi3ForCausalLM:
    """A model that rotates all positions otherwise once one of them passes the 16th."""
    scaling = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [9.0] * 4}
    torch.manual_seed(3)
    config = Phi3Config(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        original_max_position_embeddings=16,
        max_position_embeddings=64,
        rope_parameters=scaling | {"rope_theta": 100.0, "factor": 4.0},
        pad_token_id=0,
        initializer_range=0.3,
    )
    return Phi3ForCausalLM(config).eval()


def texts(model: Phi3ForCausalLM, method: object, prompts: list[list[int]], new: int) -> list:
    """Greedy texts of prompts that share a batch."""
    params = SamplingParams(temperature=0.0, max_new_tokens=new)
    found: list[list[int]] = [[] for _ in prompts]
    for step in decode(model, model, method, [Request(p, params) for p in prompts], 61):
        for block in step.blocks:
            found[block.request] += block.token_ids
    return found


def test_drafts_and_neighbours_do_not_change_the_rotations(longrope):
    prompts = [[5, 6, 7], list(range(2, 12)), [9]]
    alone = [texts(longrope, Autoregressive(), [prompt], 6)[0] for prompt in prompts]
    assert texts(longrope, MCSS((2, 2, 1, 1, 1, 1)), prompts, 6) == alone


def test_the_original_length_is_the_context(longrope):
    assert context_of(longrope) == 16
    with pytest.raises(ContextLengthError, match="context is 16 tokens"):
        texts(longrope, Autoregressive(), [list(range(2, 14))], 6)
