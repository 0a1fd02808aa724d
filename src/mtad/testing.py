"""Models for tests and benchmarks: tiny ones with known distributions, trained ones made large.

The models are real `LlamaForCausalLM`s, so everything between the tokens and the logits is the code
that users run; only their weights are made up.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mtad.model.head_files import is_head, load_head
from mtad.model.recurrent_head import RecurrentHead
from mtad.model.wide_head import widen_head
from mtad.pairs import PAIRS

Table = Sequence[Sequence[float]]

TOY_TARGET: Table = [[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.12, 0.08, 0.8], [0.5, 0.3, 0.2]]
"""A target's distributions after tokens 0, 1, 2 and after the start token 3, never produced."""
TOY_DRAFT: Table = [[0.3, 0.28, 0.42], [0.35, 0.45, 0.2], [0.24, 0.26, 0.5], [0.2, 0.5, 0.3]]
"""A draft's distributions, in the same shape."""
TOY_START = 3
"""The prompt of the toy models' 'empty prefix'."""


def markov_model(table: Table) -> LlamaForCausalLM:
    """A Llama whose next-token distribution depends on the last token alone, as `table` says.

    Row i of the table is the distribution after token i. Rows may be shorter than their number:
    tokens without a column are never produced. The attention and MLP outputs are zero, the
    embedding is one-hot and the head holds the logarithms, so its softmax is the table to float32
    precision.
    """
    vocab = len(table)
    hidden = max(8, 2 * math.ceil(vocab / 2))
    model = _model(_config(vocab, hidden, 1, num_heads=1))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(vocab, hidden, dtype=torch.float32))
        probs = torch.zeros(vocab, vocab, dtype=torch.float64)
        probs[:, : len(table[0])] = torch.tensor(table, dtype=torch.float64)
        logits = probs.log().clamp(min=-1e4)
        model.lm_head.weight.zero_()
        model.lm_head.weight[:, :vocab] = (logits.T / math.sqrt(hidden)).float()
    return model


def random_llama(
    vocab: int = 61, hidden: int = 32, num_layers: int = 2, seed: int = 0, context: int = 512
) -> LlamaForCausalLM:
    """A small Llama with random weights whose attention matters to its logits."""
    torch.manual_seed(seed)
    config = _config(vocab, hidden, num_layers, num_heads=4)
    config.max_position_embeddings = context
    config.initializer_range = 0.2
    return _model(config)


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama, as its config names them.

    Heads keep the size, and key/value heads the share, of the model that is widened.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int


@dataclass(frozen=True)
class Widened:
    """A pair in a larger shape.

    Attributes:
        base: the name of the pair that it is made of.
        target, draft: the shapes; a head has one layer.
    """

    base: str
    target: Shape
    draft: Shape


WIDENED: dict[str, Widened] = {
    "1b": Widened("demo", Shape(2048, 7168, 20), Shape(1024, 4096, 4)),
    "8b": Widened("demo", Shape(4096, 14336, 32), Shape(2048, 9728, 16)),
    "smollm2-1b": Widened("smollm2", Shape(2048, 4352, 30), Shape(2048, 5504, 1)),
}
"""The pairs that `widened_pair` makes.

"1b" has 1.22 and 0.07 billion parameters. "8b" has 7.79 and 1.23 billion; Llama-3-8B reads 7.5
billion in a forward (its embedding is not read whole) and Llama-3.2-1B 1.24. Their vocabulary of
128,256 is missing here, and the embedded models have as many key/value heads as heads; that weighs
the target's missing rows up, and the draft's wider FFN (9,728, not 8,192) does the rest. The cache
is four times as large as theirs. "smollm2-1b" has 1.22 billion, and a head.
"""


def widened_pair(
    name: str,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    context: int | None = None,
) -> tuple[LlamaForCausalLM, LlamaForCausalLM | RecurrentHead]:
    """Target and draft of a named pair, widened to the shapes of `WIDENED[name]`.

    Their texts and their acceptance are those of the pair; their cost is the shapes'.

    Args:
        name: a key of `WIDENED`.
        dtype, device, context: as in `widen`.

    Raises:
        ValueError: there is no such pair.
        CheckpointError: the pair that it is made of was not fetched.
    """
    if name not in WIDENED:
        raise ValueError(f"there is no widened pair {name!r}; there are {', '.join(WIDENED)}")
    one, pair = WIDENED[name], PAIRS[WIDENED[name].base]
    place: dict[str, Any] = {"dtype": dtype, "device": device}
    small = LlamaForCausalLM.from_pretrained(pair.require_target())
    target = widen(small, **vars(one.target), context=context, **place)
    if not is_head(pair.draft):
        draft = LlamaForCausalLM.from_pretrained(pair.draft)
        return target, widen(draft, **vars(one.draft), context=context, **place)
    head = load_head(pair.draft, small).to(device, dtype)
    sizes = (one.draft.hidden_size, one.draft.intermediate_size)
    return target, widen_head(head, target.get_input_embeddings(), *sizes)


@torch.no_grad()
def widen(
    model: LlamaForCausalLM,
    *,
    hidden_size: int,
    intermediate_size: int,
    num_hidden_layers: int,
    num_attention_heads: int | None = None,
    context: int | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
) -> LlamaForCausalLM:
    """A larger Llama that computes the function of `model` at the larger one's cost.

    The residual stream, the embedding and the head are padded with zeros. Added heads, FFN columns
    and layers (the last ones) are random, and what they would add to the stream is multiplied by
    zero. RMSNorm divides by a mean over more entries, which its weights and its eps make good.
    Tied embeddings stay tied. Logits are equal up to rounding.

    Args:
        model: a trained Llama.
        hidden_size, intermediate_size, num_hidden_layers: the new sizes.
        num_attention_heads: heads of the old size; as many as fill `hidden_size` if None. The ratio
            of heads to key/value heads is kept.
        context: the new `max_position_embeddings`; rotations must not depend on it.
        dtype, device: those of `model` if None. No other copy of the large model is made.
        seed: of the random weights.

    Raises:
        ValueError: a size is smaller than the model's, or does not suit its heads or rotations.
    """
    old = model.config
    heads = _heads_for(old, hidden_size) if num_attention_heads is None else num_attention_heads
    config = _widened_config(
        old,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=heads,
        max_position_embeddings=old.max_position_embeddings if context is None else context,
    )
    wide = _unset_model(config, dtype or model.dtype, device or model.device)
    scale = math.sqrt(old.hidden_size / hidden_size)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(_NUM_DRAWS, dtype=torch.float32, generator=generator) * 0.02
    draws = draws.to(wide.device, wide.dtype)
    small = dict(model.named_parameters())
    for name, weight in wide.named_parameters():
        _fill(name, weight, scale, draws)
        if name in small:
            corner = weight[tuple(slice(size) for size in small[name].shape)]
            corner.copy_(small[name].to(weight) * (scale if "norm" in name else 1))
    wide.generation_config = copy.deepcopy(model.generation_config)
    wide.eval()
    return wide


_ZERO = ("embed_tokens", "lm_head", "o_proj", "down_proj")
_NUM_DRAWS = 1_000_003
"""Random numbers that fill all random weights in turn; prime, so that no two rows get the same."""


def _fill(name: str, weight: torch.Tensor, scale: float, draws: torch.Tensor) -> None:
    """Set a weight as if the small model had no part in it."""
    if "norm" in name:
        weight.fill_(scale)
    elif any(part in name for part in _ZERO):
        weight.zero_()
    else:
        for piece in weight.view(-1).split(len(draws)):
            piece.copy_(draws[: len(piece)])


def _unset_model(
    config: LlamaConfig, dtype: torch.dtype, device: str | torch.device
) -> LlamaForCausalLM:
    """A Llama whose parameters are allocated and hold anything."""
    with torch.device("meta"):
        model: LlamaForCausalLM = LlamaForCausalLM._from_config(config, dtype=dtype)
    model.to_empty(device=device)
    model.tie_weights()
    rotary: Any = type(model.model.rotary_emb)(config)
    model.model.rotary_emb = rotary.to(device)
    return model


def _heads_for(config: Any, hidden_size: int) -> int:
    """As many heads as fill the hidden size, in whole groups."""
    group = _group(config)
    fitting = hidden_size // int(config.head_dim) // group * group
    return max(int(config.num_attention_heads), fitting)


def _group(config: Any) -> int:
    """Heads per key/value head."""
    return int(config.num_attention_heads // config.num_key_value_heads)


def _widened_config(config: Any, **sizes: int) -> Any:
    """The config with larger sizes; eps makes up for the zeros in the mean of squares."""
    for name, size in sizes.items():
        old = getattr(config, name)
        if size < old:
            argument = "context" if name == "max_position_embeddings" else name
            raise ValueError(f"{argument} is {size}; it must be at least the model's own, {old}")
    heads, group = sizes["num_attention_heads"], _group(config)
    if heads % group:
        raise ValueError(f"num_attention_heads is {heads}; it must be a multiple of {group}")
    kind = config.rope_parameters["rope_type"]
    if kind != "default" and sizes["max_position_embeddings"] != config.max_position_embeddings:
        raise ValueError(
            f"context cannot change rotations of type {kind!r}; leave it out, or take a model with "
            "the type 'default', which the context does not enter"
        )
    wide = copy.deepcopy(config)
    for name, size in sizes.items():
        setattr(wide, name, size)
    wide.num_key_value_heads = heads // group
    wide.head_dim = config.head_dim
    wide.rms_norm_eps = config.rms_norm_eps * config.hidden_size / sizes["hidden_size"]
    return wide


def _model(config: LlamaConfig) -> LlamaForCausalLM:
    model: LlamaForCausalLM = LlamaForCausalLM._from_config(config, dtype=torch.float32)
    model.eval()
    return model


def _config(vocab: int, hidden: int, num_layers: int, num_heads: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=max(1, num_heads // 2),
        max_position_embeddings=512,
        rms_norm_eps=1e-12,
        tie_word_embeddings=False,
    )
