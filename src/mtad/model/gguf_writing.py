"""Writes a Llama as a GGUF file, with its linear weights in one of the package's block formats.

For what reads GGUF files beside mtad. Knows models of the architecture "llama" with a byte-level
vocabulary, without biases and scaled ropes; what it does not know it refuses.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from mtad.errors import CheckpointError, UnsupportedModelError
from mtad.model.attention import head_size_of
from mtad.model.gguf import require_packages
from mtad.model.gguf_header import GgufError
from mtad.model.lm import Model

WEIGHTS = ("Q8_0", "Q4_1", "Q4_0")
"""Formats that linear weights can have; embedding and head are Q8_0 in all, as llama.cpp itself
keeps a table that is both."""
_TABLES = "Q8_0"
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5
_TABLE_NAMES = ("token_embd.weight", "output.weight")


def write_gguf(path: Path, model: Model, tokenizer: PreTrainedTokenizerFast, weights: str) -> None:
    """Write the file.

    Args:
        path: of the file; replaced if it is there.
        model: with plain weights.
        tokenizer: its vocabulary, which goes along.
        weights: one of `WEIGHTS`.

    Raises:
        UnsupportedModelError: the model is not one that can be written.
        CheckpointError: a package is missing.
    """
    try:
        require_packages()
    except GgufError as error:
        raise CheckpointError(str(error)) from error
    _require_plain_llama(model.config)
    vocabulary = _vocabulary(tokenizer, model.config.vocab_size)
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    _add_sizes(writer, model.config)
    for name, values in vocabulary.items():
        getattr(writer, f"add_{name}")(values)
    for name, weight in _tensors(model):
        form = _TABLES if name in _TABLE_NAMES else weights
        _add_tensor(writer, name, weight, gguf.GGMLQuantizationType[form])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _require_plain_llama(config: Any) -> None:
    widths = (config.hidden_size, config.intermediate_size)
    rules = [
        (config.model_type == "llama", f"it is of the architecture {config.model_type}, not llama"),
        (_rope(config).get("rope_type", "default") == "default", "its rope is scaled"),
        (not getattr(config, "attention_bias", False), "its attention has biases"),
        (not getattr(config, "mlp_bias", False), "its MLPs have biases"),
        (all(n % 32 == 0 for n in widths), f"its widths {widths} are not multiples of 32"),
    ]
    for fine, reason in rules:
        if not fine:
            raise _refusal(reason)


def _refusal(reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"the model cannot be written as a GGUF file: {reason}")


def _rope(config: Any) -> dict[str, Any]:
    return dict(config.rope_parameters)


def _add_sizes(writer: Any, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size_of(config))
    writer.add_value_length(head_size_of(config))
    writer.add_rope_dimension_count(head_size_of(config))
    writer.add_vocab_size(config.vocab_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(_rope(config)["rope_theta"])


def _vocabulary(tokenizer: PreTrainedTokenizerFast, num_rows: int) -> dict[str, Any]:
    """What the writer's `add_` functions take, by the rest of their names."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    splits = _splits(state.get("pre_tokenizer"))
    if state["model"]["type"] != "BPE" or "ByteLevel" not in splits:
        found = f"{state['model']['type']} after {', '.join(splits) or 'nothing'}"
        raise _refusal(f"its vocabulary is not one of byte-level BPE but {found}")
    ids = tokenizer.get_vocab()
    tokens = sorted((one for one in ids if ids[one] < num_rows), key=ids.__getitem__)
    if [ids[one] for one in tokens] != [*range(len(tokens))]:
        raise _refusal("its vocabulary has gaps")
    special = {one["content"] for one in state["added_tokens"]}
    missing = num_rows - len(tokens)
    kinds = [_CONTROL if one in special else _NORMAL for one in tokens]
    end = tokenizer.eos_token_id
    return {
        "tokenizer_model": "gpt2",
        "tokenizer_pre": "gpt-2" if splits == ["ByteLevel"] else "smollm",
        "token_list": [*tokens, *(f"[PAD{i}]" for i in range(missing))],
        "token_types": [*kinds, *[_UNUSED] * missing],
        "token_merges": [
            m if isinstance(m, str) else " ".join(m) for m in state["model"]["merges"]
        ],
        "add_bos_token": False,
        **({} if end is None else {"eos_token_id": end}),
    }


def _splits(step: Any) -> list[str]:
    """The kinds of the steps that part a text before its tokens are looked for."""
    if step is None:
        return []
    inner = step.get("pretokenizers")
    return [step["type"]] if inner is None else [kind for one in inner for kind in _splits(one)]


def _tensors(model: Model) -> Iterator[tuple[str, torch.Tensor]]:
    """Name in the file and float32 values of every weight."""
    import gguf

    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for own, weight in model.state_dict().items():
        if own == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name = names.get_name(own, try_suffixes=(".weight",))
        if name is None:
            raise _refusal(f"it has a weight {own}")
        values = weight.detach().cpu().float()
        part = name.split(".")[-2]
        yield name, _interleaved(values, heads[part]) if part in heads else values


def _interleaved(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """The two halves of each head taken in turns: GGUF rotates neighbours in a Llama."""
    halves = weight.view(num_heads, 2, -1, weight.shape[-1])
    return halves.transpose(1, 2).reshape(weight.shape)


def _add_tensor(writer: Any, name: str, weight: torch.Tensor, form: Any) -> None:
    import gguf

    values = weight.contiguous().numpy()
    if values.ndim == 1:
        writer.add_tensor(name, values)
    else:
        writer.add_tensor(name, gguf.quantize(values, form), raw_dtype=form)
