"""Widened models compute what the small ones compute, at the sizes they were given."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import mtad
from mtad import demo, testing
from mtad.testing import WIDENED, widen

WIDER = {"hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 5}


def small_llama(kv_heads: int = 2, tied: bool = False, **options: object) -> LlamaForCausalLM:
    """A Llama in which every weight matters, norms and biases included."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=128,
        rms_norm_eps=0.05,
        tie_word_embeddings=tied,
        **options,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return model


@torch.inference_mode()
def logits_of(model: LlamaForCausalLM, length: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(model.config.vocab_size, (3, length), generator=generator)
    return model(ids).logits


def require_same_function(wide: LlamaForCausalLM, model: LlamaForCausalLM) -> None:
    wanted = logits_of(model)
    assert wanted.std() > 0.5, "flat logits would prove nothing"
    torch.testing.assert_close(logits_of(wide), wanted, rtol=1e-5, atol=1e-5 * float(wanted.amax()))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_the_logits_are_the_small_models(kv_heads: int) -> None:
    model = small_llama(kv_heads)
    wide = widen(model, **WIDER, context=512)
    require_same_function(wide, model)
    assert wide.config.num_attention_heads == 12
    assert wide.config.num_key_value_heads == 3 * kv_heads
    assert wide.config.head_dim == model.config.head_dim
    assert wide.config.max_position_embeddings == 512


@pytest.mark.parametrize("bias", ["attention_bias", "mlp_bias"])
def test_biases_are_kept(bias: str) -> None:
    model = small_llama(**{bias: True})
    require_same_function(widen(model, **WIDER), model)


def test_the_models_own_sizes_give_its_own_weights() -> None:
    model = small_llama()
    same = widen(model, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    assert all(map(torch.equal, same.state_dict().values(), model.state_dict().values()))
    assert same.config.to_dict() | {"dtype": None} == model.config.to_dict() | {"dtype": None}


@pytest.mark.parametrize("path", [demo.TARGET_PATH, demo.DRAFT_PATH])
def test_the_embedded_models_keep_their_logits(path: str) -> None:
    model = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32)
    wide = widen(model, hidden_size=384, intermediate_size=1000, num_hidden_layers=6)
    require_same_function(wide, model)
    assert wide.generation_config.to_dict() == model.generation_config.to_dict()
    assert wide.generation_config.eos_token_id == 2


def test_tied_embeddings_stay_tied() -> None:
    model = small_llama(tied=True)
    wide = widen(model, **WIDER)
    assert wide.lm_head.weight is wide.model.embed_tokens.weight
    require_same_function(wide, model)


def test_what_was_added_is_random_and_weighed_with_zero() -> None:
    wide = widen(small_llama(), **WIDER)
    layers = wide.model.layers
    for added in (layers[0].self_attn.q_proj.weight[32:], layers[4].mlp.up_proj.weight):
        assert added.std().item() == pytest.approx(0.02, rel=0.1)
        assert not torch.equal(added[0], added[1])
    assert not layers[0].self_attn.o_proj.weight[:, 32:].any()
    assert not layers[0].mlp.down_proj.weight[:, 64:].any()
    assert not layers[4].self_attn.o_proj.weight.any()
    assert not layers[4].mlp.down_proj.weight.any()


def test_the_activations_of_added_parts_are_of_ordinary_size() -> None:
    """Denormal numbers, or infinite ones, would make the added cost another than a real model's."""
    wide = widen(small_llama(), **WIDER)
    seen: list[torch.Tensor] = []
    for layer in wide.model.layers:
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    logits_of(wide)
    added = torch.cat([activation[..., 64:].flatten() for activation in seen])
    assert added.isfinite().all()
    assert added.abs().median() > 1e-4


def test_the_seed_fixes_the_random_weights() -> None:
    once, again, other = (widen(small_llama(), **WIDER, seed=seed) for seed in (3, 3, 4))
    weights = [model.model.layers[4].mlp.up_proj.weight for model in (once, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_dtype_is_the_wanted_one() -> None:
    model = small_llama()
    wide = widen(model, **WIDER, dtype=torch.bfloat16)
    assert {weight.dtype for weight in wide.parameters()} == {torch.bfloat16}
    assert wide.model.rotary_emb.inv_freq.dtype == torch.float32
    assert widen(model, **WIDER).dtype == torch.float32


@pytest.mark.slow
def test_the_engine_gives_the_same_greedy_text() -> None:
    pair = mtad.load_pair("demo", dtype="float32")
    wide = mtad.ModelPair(
        widen(pair.models.target, hidden_size=320, intermediate_size=768, num_hidden_layers=5),
        widen(pair.models.draft, hidden_size=96, intermediate_size=256, num_hidden_layers=3),
        pair.tokenizer,
        draft_tokenizer=pair.tokenizer,
    )
    options = {"method": "mtad", "temperature": 0.0, "max_new_tokens": 48, "seed": 0}
    prompts = ["def area(r):", "SELECT name FROM"]
    wanted, got = pair.generate(prompts, **options), wide.generate(prompts, **options)
    assert [c.blocks for c in got] == [c.blocks for c in wanted]
    assert wide.models.eos_token_ids == pair.models.eos_token_ids


@pytest.mark.parametrize(
    ("name", "target", "draft"), [("1b", 1.22e9, 0.069e9), ("8b", 7.79e9, 1.229e9)]
)
def test_a_presets_parameters(name: str, target: float, draft: float) -> None:
    pair = testing.widened_pair(name, device="meta", context=8192)
    counts = [model.num_parameters() for model in pair]
    assert counts == pytest.approx([target, draft], rel=0.005)
    assert [model.dtype for model in pair] == [torch.bfloat16, torch.bfloat16]
    assert [model.config.max_position_embeddings for model in pair] == [8192, 8192]


def test_a_widened_pair_is_the_embedded_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = testing.Shape(512, 704, 4), testing.Shape(128, 192, 2)
    monkeypatch.setitem(WIDENED, "tiny", testing.Widened("demo", *shapes))
    pair = testing.widened_pair("tiny", dtype=torch.float32)
    for wide, path in zip(pair, (demo.TARGET_PATH, demo.DRAFT_PATH), strict=True):
        require_same_function(wide, LlamaForCausalLM.from_pretrained(path, dtype=torch.float32))


def test_an_unknown_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="no widened pair '2b'; there are 1b, 8b, smollm2-1b"):
        testing.widened_pair("2b")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden_size": 31}, "hidden_size is 31; it must be at least the model's own, 32"),
        ({"intermediate_size": 63}, "intermediate_size is 63"),
        ({"num_hidden_layers": 1}, "num_hidden_layers is 1"),
        ({"num_attention_heads": 2}, "num_attention_heads is 2"),
        ({"num_attention_heads": 7}, "num_attention_heads is 7; it must be a multiple of 2"),
        ({"context": 64}, "context is 64"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        widen(small_llama(), **{**WIDER, **sizes})


def test_a_context_that_would_change_the_rotations_is_refused() -> None:
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    model = small_llama(rope_parameters=rope)
    require_same_function(widen(model, **WIDER), model)
    with pytest.raises(ValueError, match="rotations of type 'linear'"):
        widen(model, **WIDER, context=256)
