"""What a GGUF file says of its model that transformers does not take from it: sizes and positions.

A position scaled otherwise, or a head of another size, would be a model that loads and is wrong.
Knows headers and configs; loads no weights.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from mtad.errors import UnsupportedModelError
from mtad.model.gguf_header import Header

_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3_CONTEXT = 8192
"""Of the models before they were stretched; a file keeps the divisors that follow from it alone."""
_FREQS = "rope_freqs.weight"
_LONG = "rope_factors_long.weight"


def complete(config: Any, header: Header, path: Path) -> Any:
    """The config with what transformers left at its defaults.

    Args:
        config: as transformers made it of the file; changed in place.
        header: of the file.
        path: of the file, for the divisors of its rotations.

    Raises:
        UnsupportedModelError: its positions are scaled in a way that is not read.
    """
    rows = [one.shape[0] for one in header.tensors if one.name == "token_embd.weight"]
    if rows:
        config.vocab_size = rows[0]
    if getattr(config, "head_dim", None) and (size := header.of("attention.key_length")):
        config.head_dim = size
    rope = getattr(config, "rope_parameters", None)
    if rope:
        rope = rope.get("full_attention", rope)  # layers with a window have rotations of their own
        if base := header.of("rope.freq_base"):
            rope["rope_theta"] = base
        rope.update(scaling(header, path))
    return config


def scaling(header: Header, path: Path) -> dict[str, Any]:
    """How the rotations are stretched, as a config says it; empty if they are not.

    Raises:
        UnsupportedModelError: in a way that is not read.
    """
    kind, factor = header.of("rope.scaling.type"), header.of("rope.scaling.factor")
    factor = factor or header.of("rope.scale_linear")
    original = header.of("rope.scaling.original_context_length")
    names = {one.name for one in header.tensors}
    if _LONG in names or kind not in (None, "none", "linear", "yarn"):
        raise UnsupportedModelError(
            f"its positions are scaled by {kind or 'longrope'!r}, which is not read from GGUF "
            "files; take the folder with config.json and *.safetensors that it was made of"
        )
    if _FREQS in names:
        return _llama3(header, path)
    if kind == "none" or not factor or factor == 1:
        return {}
    if kind == "yarn":
        size = {"original_max_position_embeddings": original} if original else {}
        return {"rope_type": "yarn", "factor": factor, **size}
    return {"rope_type": "linear", "factor": factor}


def _llama3(header: Header, path: Path) -> dict[str, Any]:
    """The scaling of Llama 3 that gives the divisors in the file."""
    [tensor] = (one for one in header.tensors if one.name == _FREQS)
    place = header.data_start + tensor.offset
    divisors = np.fromfile(path, np.float32, math.prod(tensor.shape), offset=place)
    factor = float(divisors.max(initial=1.0))
    if factor == 1:
        return {}
    base = float(header.of("rope.freq_base") or 10_000.0)
    if tensor.type_id != 0 or not np.allclose(divisors, _divisors(factor, base, len(divisors))):
        raise UnsupportedModelError(
            f"its positions are scaled by divisors ({_FREQS}) that are not those of Llama 3; take "
            "the folder with config.json and *.safetensors that it was made of"
        )
    size = {"original_max_position_embeddings": _LLAMA3_CONTEXT}
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3, **size}


def _divisors(factor: float, base: float, num: int) -> np.ndarray[Any, Any]:
    """What Llama 3 divides the frequencies by, float64 (num,): 1 where they are high."""
    waves = 2 * np.pi * base ** (np.arange(num) / num)
    low, high = _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"]
    smooth = np.clip((_LLAMA3_CONTEXT / waves - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)
