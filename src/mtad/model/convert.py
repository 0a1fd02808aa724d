"""Writes the model of a GGUF file as a folder of Hugging Face: config, safetensors, tokenizer."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mtad.core.names import require_one_of
from mtad.errors import CheckpointError
from mtad.model.gguf import GgufFile, find_gguf, gguf_notes, require_gguf
from mtad.model.gguf_reading import progress
from mtad.model.loading import DTYPES, load_model
from mtad.model.memory import require_memory
from mtad.model.presence import near

_OURS = "config.json"
"""What a folder that may be replaced has."""


def convert(
    path: str | Path,
    folder: str | Path,
    dtype: str = "auto",
    *,
    overwrite: bool = False,
    on_progress: Callable[[str, int, int], None] = lambda step, done, total: None,
) -> str:
    """Write the folder, whole or not at all, and return a line on what the weights became.

    Args:
        path: a GGUF file, or a folder with one.
        folder: where the model goes; it must be empty or not there.
        dtype: of the weights; "auto": the file's own, bfloat16 for quantised ones.
        overwrite: replace a folder that has a model.
        on_progress: called with the step, and with what is done of it and all there is to do;
            the number of all is 0 where it is unknown.

    Raises:
        ValueError: no such dtype, or there is something in the folder.
        CheckpointError, UnsupportedModelError: the file cannot be read.
    """
    require_one_of("dtype", dtype, DTYPES)
    place = Path(folder)
    source = _source(path)
    _require_place(place, source.path, overwrite)
    kind = source.dtype if dtype == "auto" else getattr(torch, dtype)
    size = sum(math.prod(one.shape) for one in source.header.tensors) * kind.itemsize
    require_memory({"model": ("cpu", size)})
    with progress(lambda done, total: on_progress("reading", done, total)):
        model: Any = load_model(path, "GGUF", dtype, "cpu")
    tokenizer, _ = source.load_tokenizer()
    on_progress("writing", 0, 0)
    with _written(place) as new:
        model.save_pretrained(new)
        if tokenizer is not None:
            tokenizer.save_pretrained(new)
    return gguf_notes((path, model))[0]


def _source(path: str | Path) -> GgufFile:
    """The file, once it is known to be one that can be read."""
    found = find_gguf(path) if require_gguf(path, "GGUF") else None
    if found is not None:
        return found
    why = "it is not a GGUF file, nor a folder with one"
    if not Path(path).exists():
        why = f"there is no such file here{near(str(path))}"
    raise CheckpointError(f"cannot convert {str(path)!r}: {why}")


def _require_place(folder: Path, source: Path, overwrite: bool) -> None:
    """Refuse to write where something else is.

    Raises:
        ValueError: with what is there.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if not (folder.exists() or folder.is_symlink()):
        if not folder.resolve().parent.is_dir():
            raise ValueError(f"there is no folder {str(folder.parent)!r} to write into; make it")
        return
    if not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is a file; give a folder")
    if not overwrite:
        raise ValueError(f"{str(folder)!r} is not empty; choose another folder, or --overwrite")
    is_model = (folder / _OURS).is_file() and all(one.is_file() for one in folder.iterdir())
    if not is_model or source.resolve().parent == folder.resolve():
        raise ValueError(
            f"{str(folder)!r} holds more than a model of its own, and overwriting would delete all "
            "of it; choose another folder"
        )


@contextmanager
def _written(folder: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `folder` once all is written; removed otherwise."""
    place = folder.resolve()
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        new.mkdir()
        yield new
        for one in new.iterdir():  # safetensors' own are for their owner alone
            one.chmod(new.stat().st_mode & 0o666)
        if place.is_dir():
            os.replace(place, old)
        os.replace(new, place)
