"""What a KV cache has to hold, by reading the same texts into a fresh one."""

from __future__ import annotations

from typing import Any

import torch
from support.tiny import random_tree

from mtad.model.lm import LM

CLOSE: dict[str, Any] = {"atol": 1e-4, "rtol": 1e-5}
"""Of float32 numbers that are added up in another order; large ones by some 80 ulps."""


def assert_fresh(lm: LM, texts: list[list[int]], last_slot_may_lag: bool) -> None:
    """The committed keys and values, and the next logits, are those of reading `texts` anew."""
    assert lm.lengths.tolist() == [len(text) - 1 for text in texts]
    fresh = LM(lm.model, lm.name, lm.vocab, len(texts), max(map(len, texts)) + 8)
    fresh.prefill(texts)
    for layer, expected in zip(lm._layers, fresh._layers, strict=True):
        for row, text in enumerate(texts):
            known = len(text) - 1 - last_slot_may_lag
            if known > 0:
                for kind in ("keys", "values"):
                    got = getattr(layer, kind)[row, :, :known]
                    torch.testing.assert_close(
                        got, getattr(expected, kind)[row, :, :known], **CLOSE
                    )
    root = random_tree(texts, (), seed=0)
    read = LM.forward_level if last_slot_may_lag else LM.forward
    torch.testing.assert_close(read(lm, root), read(fresh, root), **CLOSE)
