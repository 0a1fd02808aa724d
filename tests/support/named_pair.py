"""A tiny pair in the place of "smollm2", in a home of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtad.pairs import HOME, PAIRS, NamedPair, Source

NAME = "smollm2"
SOURCE = Source("tiny-model", "1.0", "tiny_model/tiny.gguf", "0" * 64, 1)


def define(
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
    draft: Path,
    bundled: Path | None = None,
    source: Source | None = SOURCE,
) -> NamedPair:
    """The pair, known until the test ends."""
    monkeypatch.setenv(HOME, str(home))
    source = None if bundled else source
    pair = NamedPair(NAME, "for tests", "TinyLM", draft, bundled, source)
    monkeypatch.setitem(PAIRS, NAME, pair)
    return pair
