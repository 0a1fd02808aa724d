"""Fakes that are part of the library: tiny models of known laws, for tests of methods and servers.

The models are real `LlamaForCausalLM`s, so everything between the tokens and the laws is the code
that users run; only their weights are made up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from transformers import LlamaConfig, LlamaForCausalLM

Table = Sequence[Sequence[float]]

TOY_TARGET: Table = [[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.12, 0.08, 0.8], [0.5, 0.3, 0.2]]
"""A target's laws after tokens 0, 1, 2 and after the start token 3, which is never produced."""
TOY_DRAFT: Table = [[0.3, 0.28, 0.42], [0.35, 0.45, 0.2], [0.24, 0.26, 0.5], [0.2, 0.5, 0.3]]
"""A draft's laws, in the same shape."""
TOY_START = 3
"""The prompt of the toy models' 'empty prefix'."""


def markov_model(table: Table) -> LlamaForCausalLM:
    """A Llama whose next-token law depends on the last token alone, as `table` says.

    Row i of the table is the law after token i. Rows may be shorter than their number: tokens
    without a column are never produced. The attention and MLP outputs are zero, the embedding is
    one-hot and the head holds the logarithms, so its softmax is the table to float32 precision.
    """
    vocab = len(table)
    hidden = max(8, 2 * math.ceil(vocab / 2))
    model: LlamaForCausalLM = LlamaForCausalLM(_config(vocab, hidden, 1, num_heads=1)).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(vocab, hidden))
        laws = torch.zeros(vocab, vocab, dtype=torch.float64)
        laws[:, : len(table[0])] = torch.tensor(table, dtype=torch.float64)
        logits = laws.log().clamp(min=-1e4)
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
    model: LlamaForCausalLM = LlamaForCausalLM(config).eval()
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
