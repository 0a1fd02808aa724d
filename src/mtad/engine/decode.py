"""Texts from their beginning to their end, without a pair and without a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from mtad.engine.request import Request
from mtad.engine.session import Session
from mtad.engine.step import Step
from mtad.model.drafter import Draft, Model
from mtad.speculative.method import Method


def decode(
    target: Model, draft: Draft | None, method: Method, requests: Sequence[Request], vocab: int
) -> Iterator[Step]:
    """The steps that complete `requests`; requests with a budget of 0 get no block."""
    with torch.inference_mode():
        session = Session(target, draft, method, requests, vocab)
    yield from session.run()
