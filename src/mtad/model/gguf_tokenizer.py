"""What a GGUF file says of its vocabulary that transformers does not take from it.

Which tokens end a text, and how some vocabularies split it before tokens are looked for. Knows
tokenizers and metadata; no file and no model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

Metadata = Mapping[str, Any]

_ENDS = ("eos", "eot", "eom")
"""Tokens that end a text, a turn or a message, as GGUF names them."""
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<turn|>", "<|end_of_text|>")
"""What ends a turn in the files that do not say so, if the chat template writes it."""
_DIGITS_APART = frozenset("smollm starcoder refact command-r codeshell exaone minerva-7b".split())
"""Pre-tokenizers that part all digits and then split as GPT-2 does (llama.cpp, llama-vocab.cpp)."""
_BEGINS = frozenset("llama-bpe llama3 llama-v3".split())
"""Pre-tokenizers whose texts begin with BOS unless the file denies it (llama.cpp)."""


def end_ids(metadata: Metadata, known: Any) -> int | list[int] | None:
    """The ids that end a text: one, several, or None if the file names none.

    Args:
        metadata: of the file.
        known: what transformers takes for them; several are more than the file can name.
    """
    ids = [*known] if isinstance(known, list | tuple) else []
    ids += [metadata.get(f"tokenizer.ggml.{one}_token_id") for one in _ENDS]
    if "tokenizer.ggml.eot_token_id" not in metadata:
        ids.append(_turn_end(metadata))
    found = list(dict.fromkeys(one for one in ids if one is not None))
    return found[0] if len(found) == 1 else found or None


def _turn_end(metadata: Metadata) -> int | None:
    """The control token that ends a turn in the chat template, if the vocabulary has it."""
    template = str(metadata.get("tokenizer.chat_template", ""))
    tokens = metadata.get("tokenizer.ggml.tokens", [])
    written = (one for one in _TURN_ENDS if one in template and one in tokens)
    return next((tokens.index(one) for one in written), None)


def adjust(tokenizer: PreTrainedTokenizerFast, metadata: Metadata) -> PreTrainedTokenizerFast:
    """The tokenizer, which splits text as the file's vocabulary needs it."""
    _drop_added(tokenizer, len(metadata["tokenizer.ggml.tokens"]))
    kind, backend = metadata.get("tokenizer.ggml.pre"), tokenizer.backend_tokenizer
    if kind in _DIGITS_APART:
        digits = pre_tokenizers.Digits(individual_digits=True)
        words = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    if kind in _BEGINS and "tokenizer.ggml.add_bos_token" not in metadata:
        tokenizer._add_bos_token = True
        tokenizer.update_post_processor()
    return tokenizer


def _drop_added(tokenizer: Any, num_tokens: int) -> None:
    """Take out tokens that are not the file's; the model would have no embedding for them.

    transformers adds "<|endoftext|>" to byte-level vocabularies without one.
    """
    if all(id_ < num_tokens for id_ in tokenizer.added_tokens_decoder):
        return
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [one for one in state["added_tokens"] if one["id"] < num_tokens]
    if state["model"].get("unk_token") not in state["model"]["vocab"]:
        state["model"]["unk_token"] = None
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
