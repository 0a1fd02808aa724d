"""How far a model reads, as transformers decodes it, and what is said about a text too long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from support.tiny import reference_text, tiny_model
from transformers import Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

from mtad.api.pair import ModelPair, load_pair
from mtad.errors import ContextLengthError
from mtad.model.context import context_of
from mtad.testing import random_llama

LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [9.0] * 4}


def scaled(longest: int, **rope: Any) -> LlamaForCausalLM:
    """A Llama with this `max_position_embeddings` and rope."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=337,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=longest,
        eos_token_id=None,
        bos_token_id=None,
        initializer_range=0.2,
        rope_parameters={"rope_theta": 1e4, **rope},
    )
    return LlamaForCausalLM(config).eval()


def original(length: int) -> dict[str, int]:
    return {"original_max_position_embeddings": length}


@pytest.mark.parametrize(
    ("longest", "rope", "context"),
    [
        (64, {"rope_type": "default"}, 64),
        (64, {"rope_type": "yarn", "factor": 4.0, **original(64)}, 256),
        (64, {"rope_type": "yarn", "factor": 4.0}, 256),
        (256, {"rope_type": "yarn", "factor": 4.0, **original(64)}, 256),
        (80, {"rope_type": "yarn", "factor": 4.0, **original(64)}, 256),
        (64, {"rope_type": "yarn", "factor": 2.5, **original(64)}, 160),
        (64, {"rope_type": "linear", "factor": 8.0}, 512),
        (64, {**LLAMA3, "factor": 4.0, **original(64)}, 256),
        (128, {**LLAMA3, "factor": 32.0, **original(64)}, 128),
        (64, {"rope_type": "dynamic", "factor": 4.0}, 64),
        (256, {**LONGROPE, "factor": 4.0, **original(64)}, 64),
    ],
)
def test_the_context_of_a_scaled_rope(longest: int, rope: dict[str, Any], context: int) -> None:
    assert context_of(scaled(longest, **rope)) == context


def test_layers_with_ropes_of_their_own() -> None:
    ropes = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    config = Gemma3TextConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters=ropes,
    )
    assert context_of(transformers.Gemma3ForCausalLM(config)) == 128


@pytest.mark.parametrize(("name", "context"), [("gpt2", 256), ("opt", 256)])
def test_the_context_of_learned_positions(name: str, context: int) -> None:
    assert context_of(tiny_model(name)) == context


@pytest.mark.slow
@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "yarn", "factor": 4.0, **original(64)},
        {"rope_type": "linear", "factor": 4.0},
        {**LLAMA3, "factor": 4.0, **original(64)},
    ],
)
def test_texts_beyond_the_original_length_are_those_of_transformers(
    rope: dict[str, Any], tmp_path: Path
) -> None:
    scaled(64, **rope).save_pretrained(tmp_path)
    pair, prompt = load_pair(target=tmp_path), [(7 * i) % 337 for i in range(80)]
    (done,) = pair.generate([prompt], "prompt_lookup", temperature=0.0, max_new_tokens=24)
    assert done.token_ids == reference_text(pair.models.target, prompt, 24)


def refusal(pair: ModelPair, num_prompt: int, num_new: int) -> str:
    with pytest.raises(ContextLengthError) as caught:
        pair.generate([[5] * num_prompt], max_new_tokens=num_new, seed=0)
    return str(caught.value)


@pytest.mark.parametrize("num_prompt", [32, 33, 400])
def test_a_prompt_that_is_too_long_alone(num_prompt: int) -> None:
    pair = ModelPair(random_llama(context=32), random_llama(context=32))
    message = refusal(pair, num_prompt, 4)
    assert f"the prompt has {num_prompt} tokens" in message
    assert message.endswith("shorten the prompt to at most 31")
    assert "max_new_tokens" not in message


def test_the_advice_about_new_tokens_works() -> None:
    pair = ModelPair(random_llama(context=32), random_llama(context=32))
    message = refusal(pair, 30, 4)
    assert message.endswith("set max_new_tokens to at most 2")
    assert pair.generate([[5] * 30], max_new_tokens=2, seed=0)
    assert pair.generate([[5] * 31], max_new_tokens=1, seed=0), "a prompt of 31 is short enough"


def test_why_a_model_reads_less_than_its_config_allows() -> None:
    pair = ModelPair(scaled(64, rope_type="dynamic", factor=4.0))
    with pytest.raises(ContextLengthError, match=r"64 tokens \(beyond them its rope"):
        pair.generate([[5] * 63], "autoregressive", max_new_tokens=9)
    plain = ModelPair(random_llama(context=64))
    with pytest.raises(ContextLengthError, match="64 tokens: shorten"):
        plain.generate([[5] * 63], "autoregressive", max_new_tokens=9)
