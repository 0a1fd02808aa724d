"""Independent draws of the block that a method commits after one text.

Each is an iteration of the engine up to its commit, with the method's own draft and rule on the
pair's own models; only the target's logits are looked up (`PathScores`), and nothing is committed,
so that the next draws begin where these did. Knows no statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import torch

from mtad.api.pair import ModelPair
from mtad.core.noise import Noise
from mtad.core.prefix import select_rows
from mtad.engine.request import Request, check_requests, prefix_of, size_of
from mtad.engine.session import Session
from mtad.engine.step import block_tokens
from mtad.sampling.warper import Warper
from mtad.speculative.method import Method
from mtad.verify.scores import PathScores

Path: TypeAlias = tuple[int, ...]
"""Tokens after a text."""

MOST_ROWS = 512
MOST_NUMBERS = 2**25
"""Of the largest tensors of a batch: nodes × the draft's and the target's tokens, 128 MiB."""


class Blocks:
    """The blocks of a method after one text, a batch of rows at a time.

    Args:
        pair: the models.
        method: with its options.
        request: the text, with sampling settings; the seed is that of each draw.
        scores: the target's logits below the text.
    """

    def __init__(
        self, pair: ModelPair, method: Method, request: Request, scores: PathScores
    ) -> None:
        m = pair.models
        check_requests(m.target, m.draft, method, [request], m.vocab)
        self._method, self._scores, self._workspace = method, scores, pair.workspace
        target, self._drafter = pair.workspace.take(m.target, m.draft, m.vocab, method.drafted_by)
        self._lms = [lm for lm in dict.fromkeys((target, self._drafter)) if lm is not None]
        num_nodes = method.num_nodes(m.vocab, request.num_left)
        self.num_rows = max(8, min(MOST_ROWS, MOST_NUMBERS // (num_nodes * m.vocab)))
        with torch.inference_mode():
            _, capacity = size_of(method, [request], m.vocab)
            pair.workspace.reserve(self._lms, self.num_rows, capacity)
            self._prefill(request)
            for lm in self._lms:
                lm.look_ahead(len(request.text_ids), num_nodes)
            rows = torch.zeros(self.num_rows, dtype=torch.int64, device=target.device)
            self._prefix = select_rows(prefix_of([request], target.device, method.kept), rows)
            warp = Warper.of([request.sampling], m.vocab, target.device)
            self._warp = select_rows(warp, rows).at(self._prefix)

    def _prefill(self, request: Request) -> None:
        """Read the text once; every row gets what the first one has."""
        for lm in self._lms:
            lm.begin_prefill([request.text_ids], [request.cache_salt])
        for lm in self._lms:
            while lm.prefill_chunk():
                pass
            lm.end_prefill()
            lm.release([0] * self.num_rows)

    def close(self) -> None:
        """Give the caches back."""
        self._workspace.give_back(self._lms)

    @torch.inference_mode()
    def draw(self, first_seed: int) -> list[Path]:
        """One block per row, with the seeds from the first one on; not cut at EOS."""
        device = self._prefix.tokens.device
        seeds = torch.arange(first_seed, first_seed + self.num_rows, device=device)
        noise = Noise(seeds, self._prefix.num_new)
        narrow = self._warp.over(self._drafter.token_ids) if self._drafter else self._warp
        tree = self._method.draft(self._drafter, self._prefix, narrow, noise)
        verdict = self._scores.judge(self._method, tree, self._warp, noise)
        tokens = block_tokens(tree, verdict).tolist()
        counts = (verdict.num_accepted + 1).tolist()
        return [tuple(row[:count]) for row, count in zip(tokens, counts, strict=True)]


def committed(
    pair: ModelPair, method: Method, request: Request, seeds: Sequence[int]
) -> list[Path]:
    """The first block of each seed as the engine commits it, cut at EOS; one batch."""
    m = pair.models
    rows = [replace(request, sampling=replace(request.sampling, seed=seed)) for seed in seeds]
    with torch.inference_mode():
        session = Session(m.target, m.draft, method, rows, m.vocab, workspace=pair.workspace)
        try:
            blocks = session.step().require_sound().blocks
        finally:
            session.close()
    return [block.token_ids for block in blocks]
