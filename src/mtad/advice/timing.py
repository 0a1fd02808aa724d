"""Speed of one method over another on the same prompts, with an interval over the prompts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from mtad.api.turns import Timed
from mtad.bench.statistics import Estimate, Floats, Resampled, ratio, resamples, sums


def quickest(rounds: Sequence[Sequence[Timed]]) -> list[Timed]:
    """The quickest run of each prompt: its text is the same in every round, only the noise is not.

    Args:
        rounds: of one method, as `mtad.api.turns.in_turns` returns them.
    """
    return [min(runs, key=lambda one: one.seconds) for runs in zip(*rounds, strict=True)]


def speed_ratio(texts: Sequence[Timed], others: Sequence[Timed]) -> Estimate:
    """Tokens per second over those of another method; the prompts are resampled in pairs.

    Args:
        texts, others: by prompt.
    """
    return _speed(texts).over(_speed(others)).estimate()


@lru_cache(8)
def weights_of(num_prompts: int) -> Floats:
    """How often each prompt is in each resample; the same for all methods."""
    return resamples([num_prompts])


def _speed(texts: Sequence[Timed]) -> Resampled:
    weights = weights_of(len(texts))
    tokens = np.array([one.num_tokens for one in texts], dtype=np.float64)
    seconds = np.array([one.seconds for one in texts], dtype=np.float64)
    return ratio(sums(tokens, weights), sums(seconds, weights), len(texts))
