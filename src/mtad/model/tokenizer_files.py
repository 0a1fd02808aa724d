"""The tokenizer of a checkpoint, or the reason why it has none.

Knows files; no model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from mtad.errors import CheckpointError, first_line
from mtad.model.folder import TOKENIZER, tokenizer_fault
from mtad.model.gguf import find_gguf
from mtad.model.vocabulary import Tokenizer, has_text

HUB_OPTIONS = frozenset(
    "revision subfolder token cache_dir local_files_only trust_remote_code".split()
)
"""Options of `from_pretrained` that say where files are; a tokenizer is loaded with the model's."""


def load_tokenizer(
    path: str | Path, name: str, options: dict[str, Any]
) -> tuple[Tokenizer | None, str]:
    """The tokenizer of a checkpoint; None, and the reason, if it has none.

    Raises:
        CheckpointError: its files are there but cannot be read.
    """
    if source := find_gguf(path):
        return source.load_tokenizer()
    shared = {key: options[key] for key in HUB_OPTIONS & options.keys()}
    folder = Path(path) / str(options.get("subfolder", ""))
    has_files = any((folder / file).exists() for file in TOKENIZER)
    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(str(path), **shared)
    except Exception as error:
        if folder.is_dir() and not has_files:
            return None, f"{str(folder)!r} has none of {', '.join(TOKENIZER)}"
        if has_files:
            raise CheckpointError(
                f"the tokenizer of the {name} model in {str(path)!r} cannot be read: "
                f"{tokenizer_fault(folder) or f'{first_line(error)}; copy its files again'}"
            ) from error
        return None, first_line(error)
    if not has_text(tokenizer):
        kind = type(tokenizer).__name__
        return None, f"without its files, {kind} has special tokens alone, and no text"
    return tokenizer, ""
