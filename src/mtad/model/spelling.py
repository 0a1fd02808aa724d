"""What tokens stand for: bytes, however a vocabulary writes them, or the name of a special token.

Knows one tokenizer at a time; no model.
"""

from __future__ import annotations

import json

from mtad.model.vocabulary import Tokenizer


def spelled(tokenizer: Tokenizer) -> dict[int, bytes | str]:
    """What each token id stands for; special ones stand for their names."""
    special, as_bytes = special_ids(tokenizer), _is_byte_level(tokenizer)
    return {
        index: token if index in special else _bytes_of(token, as_bytes)
        for token, index in tokenizer.get_vocab().items()
    }


def special_ids(tokenizer: Tokenizer) -> set[int]:
    """The ids of tokens that are no text."""
    added = tokenizer.added_tokens_decoder.items()
    return {index for index, token in added if token.special} | set(tokenizer.all_special_ids)


def _bytes_of(token: str, byte_level: bool) -> bytes:
    """The bytes that a token stands for."""
    if byte_level and all(sign in _BYTES for sign in token):
        return bytes(_BYTES[sign] for sign in token)
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()


def _is_byte_level(tokenizer: Tokenizer) -> bool:
    """Whether signs of its tokens stand for bytes, as in GPT-2's."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return hasattr(tokenizer, "byte_decoder")
    form = json.loads(backend.to_str())
    return "ByteLevel" in json.dumps([form.get("decoder"), form.get("pre_tokenizer")])


def _byte_signs() -> dict[str, int]:
    """The byte of each sign of GPT-2's alphabet: printable ones are themselves, others above."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    signs = {chr(byte): byte for byte in printable}
    return signs | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_signs()
