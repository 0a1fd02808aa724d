"""Writes models as GGUF files, as llama.cpp's converter lays them out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from support.saved_pair import EOS, TEMPLATE, tokenizer

from mtad.model.lm import Model

GGUF_NAMES = {"gemma3_text": "gemma3"}
"""What GGUF calls the architectures that it does not call as transformers does."""
CONTROL, NORMAL = 3, 1


def write_gguf(
    path: Path,
    model: Model,
    quantised: Type = Type.F32,
    metadata: Mapping[str, Any] | None = None,
    architecture: str | None = None,
    with_tokenizer: bool = True,
    extra: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """The file of a model.

    Args:
        path: of the file.
        model: float32.
        quantised: type of the matrices whose rows it can hold; the others are F16, vectors F32.
        metadata: keys beyond, or in place of, those of the model; None takes one out.
        architecture: another one than the model's.
        with_tokenizer: the vocabulary of `support.saved_pair` goes along.
        extra: tensors beyond the model's, by their names.
    """
    kind = model.config.model_type
    name = architecture or GGUF_NAMES.get(kind, kind)
    writer = gguf.GGUFWriter(path, name)
    _add_sizes(writer, model.config)
    if with_tokenizer:
        _add_tokenizer(writer, model.config.vocab_size)
    for key, value in (metadata or {}).items():
        writer.kv_data[-1].pop(key, None)
        if value is None:
            continue
        writer.add_key_value(key, value, _type_of(value))
    for key, values in [*_tensors(model), *(extra or {}).items()]:
        _add_tensor(writer, key, np.ascontiguousarray(values), quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _type_of(value: Any) -> gguf.GGUFValueType:
    if isinstance(value, bool):
        return gguf.GGUFValueType.BOOL
    kinds = {int: gguf.GGUFValueType.UINT32, float: gguf.GGUFValueType.FLOAT32}
    return kinds.get(type(value), gguf.GGUFValueType.STRING)


def _add_sizes(writer: gguf.GGUFWriter, config: Any) -> None:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_layer_norm_rms_eps(getattr(config, "rms_norm_eps", 1e-5))
    writer.add_layer_norm_eps(getattr(config, "layer_norm_eps", None) or 1e-5)
    if sliding := getattr(config, "sliding_window", None):
        writer.add_sliding_window(sliding)
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    share = rope.get("partial_rotary_factor") or 1.0
    writer.add_rope_dimension_count(int(head_dim * share))
    writer.add_rope_freq_base(rope["rope_theta"])


def _add_tokenizer(writer: gguf.GGUFWriter, num_rows: int) -> None:
    fast = tokenizer()
    vocab = fast.get_vocab()
    tokens = sorted(vocab, key=vocab.__getitem__)
    special = set(fast.all_special_tokens) | set(fast.get_added_vocab())
    padding = [f"[PAD{i}]" for i in range(len(tokens), num_rows)]
    merges = json.loads(fast.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens + padding)
    writer.add_token_types(
        [CONTROL if t in special else NORMAL for t in tokens] + [5] * len(padding)
    )
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(vocab[EOS])
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def _tensors(model: Model) -> list[tuple[str, np.ndarray]]:
    config = model.config
    kind = GGUF_NAMES.get(config.model_type, config.model_type)
    arch = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    found = []
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        key = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert key is not None, name
        values = weight.float().numpy()
        if kind == "llama" and key.endswith(("attn_q.weight", "attn_k.weight")):
            heads = config.num_attention_heads if "attn_q" in key else config.num_key_value_heads
            values = _interleaved(values, heads)
        if kind == "gemma3" and key.endswith("norm.weight"):
            values = values + 1
        found.append((key, values))
    return found


def _interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """The two halves of each head taken in turns, as GGUF keeps the rotated dimensions of Llama."""
    halves = values.reshape(heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def _add_tensor(writer: gguf.GGUFWriter, key: str, values: np.ndarray, quantised: Type) -> None:
    if values.ndim == 1 or quantised == Type.F32:
        writer.add_tensor(key, values.astype(np.float32))
    elif values.shape[-1] % gguf.GGML_QUANT_SIZES[quantised][0]:
        writer.add_tensor(key, values.astype(np.float16))
    else:
        packed = gguf.quantize(values, quantised)
        writer.add_tensor(key, packed, raw_dtype=quantised)


def dequantised(model: Model, quantised: Type) -> Model:
    """The model with the weights that `write_gguf` leaves of it, in place."""
    with torch.no_grad():
        for weight in model.parameters():
            values = weight.numpy()
            if values.ndim > 1 and not values.shape[-1] % gguf.GGML_QUANT_SIZES[quantised][0]:
                values = gguf.dequantize(gguf.quantize(values, quantised), quantised)
            weight.copy_(torch.from_numpy(values.reshape(weight.shape)))
    return model
