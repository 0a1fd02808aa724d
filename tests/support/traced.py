"""Decoding a batch under observation: its records, and its trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from support.tiny import suited

from mtad.engine.session import Request, Session
from mtad.engine.step import Block, Observation
from mtad.model.lm import Model
from mtad.speculative.method import Method
from mtad.trace.record import TokenLogprobs, TracedRow, record_of, token_logprobs
from mtad.trace.writer import TraceHeader, TraceWriter


def text_of(token: int) -> str:
    return f"<{token}>"


@dataclass
class Watched:
    """What was seen of one text."""

    blocks: list[Block] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    observations: list[tuple[Observation, int]] = field(default_factory=list)

    @property
    def token_ids(self) -> list[int]:
        return [token for block in self.blocks for token in block.token_ids]


def watch(
    pair: tuple[Model, Model],
    method: Method,
    requests: Sequence[Request],
    vocab: int,
    path: Path | None = None,
    top: int = 2,
    **options: bool,
) -> list[Watched]:
    """Every text of the batch, and its trace at `path`; settings as `suited`."""
    requests = [replace(one, sampling=suited(method, one.sampling)) for one in requests]
    texts, seen = [Watched() for _ in requests], list[Observation]()
    with torch.inference_mode():
        session = Session(*pair, method, requests, vocab)
    session.observe = seen.append
    writer = None
    if path is not None:
        writer = TraceWriter(path, TraceHeader("target", "draft", vocab), **options)
        keys = [writer.request(one, method, f"id {i}") for i, one in enumerate(requests)]
    for step in session.run():
        for row, block in enumerate(step.blocks):
            text, now = texts[block.request], seen[-1]
            traced = TracedRow.of(now, row, method)
            record = record_of(traced, block, text_of)
            text.blocks.append(block)
            text.records.append(record)
            text.logprobs += token_logprobs(now, row, block, top)
            text.observations.append((now, row))
            if writer is not None:
                writer.iteration(keys[block.request], record, traced)
                if block.finish_reason:
                    writer.end(keys[block.request], block.finish_reason)
    if writer is not None:
        writer.close()
    return texts
