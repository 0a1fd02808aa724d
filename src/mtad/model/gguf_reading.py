"""Has transformers read GGUF files without repeating itself, and counts the tensors as it does.

transformers 5.23 parses the table of a file once for the config and once more for the weights,
seconds each, and makes its map of names once per module. Nothing that is read becomes another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from threading import RLock
from typing import Any

import transformers
from transformers import modeling_gguf_pytorch_utils

OnProgress = Callable[[int, int], None]
"""Called with the number of tensors that are read, and of all."""

_reading: Any = modeling_gguf_pytorch_utils
_tqdm: Any = _reading.tqdm
_LOCK = RLock()
_on_progress: ContextVar[OnProgress | None] = ContextVar("on_progress", default=None)


@contextmanager
def progress(callback: OnProgress) -> Iterator[None]:
    """Have tensors counted as they are read."""
    token = _on_progress.set(callback)
    try:
        yield
    finally:
        _on_progress.reset(token)


_readers: dict[tuple[Path, int, int], Any] = {}


@contextmanager
def read_quickly(path: Path, forgets: bool = False) -> Iterator[None]:
    """Let transformers read the file: its table once, and with our progress bar in place of its.

    Args:
        path: of the file.
        forgets: drop what was read of the table at the end.
    """
    import gguf

    facts = path.stat()
    key = (path, facts.st_mtime_ns, facts.st_size)
    make = gguf.GGUFReader

    def reader(given: Any, *rest: Any) -> Any:
        if not path.samefile(given):
            return make(given, *rest)
        if key not in _readers:
            _readers[key] = make(given, *rest)
        return _readers[key]

    names = cache(gguf.get_tensor_name_map)  # transformers makes one for every module
    with _LOCK, ExitStack() as stack:
        stack.enter_context(_replaced(gguf, "GGUFReader", reader))
        stack.enter_context(_replaced(gguf, "get_tensor_name_map", names))
        stack.enter_context(_replaced(_reading, "tqdm", _bar))
        try:
            yield
        finally:
            if forgets:
                _readers.pop(key, None)


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Give a name of a module another value for a while."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _bar(items: list[Any], *rest: Any, **options: Any) -> Iterator[Any]:
    """The items, counted where somebody wants to know, else as transformers counts them."""
    show = _on_progress.get()
    if show is None:
        is_shown = transformers.utils.logging.is_progress_bar_enabled()
        yield from _tqdm(items, *rest, **options, disable=not is_shown)
        return
    for done, item in enumerate(items):
        show(done, len(items))
        yield item
    show(len(items), len(items))
