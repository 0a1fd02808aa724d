"""Sampling settings of one request: names, ranges, defaults and what they mean.

Knows no tensor and no model.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import UnionType

MIN_TEMPERATURE = 1e-5
"""Below it logits overflow; greedy decoding is temperature 0."""

_TINY = sys.float_info.min
_ALLOWED: dict[str, tuple[type | UnionType, float, float, str]] = {
    "temperature": (int | float, 0.0, math.inf, "a finite number >= 0 (0 is greedy)"),
    "top_k": (int, 0, math.inf, "an integer >= 0 (0 is off)"),
    "top_p": (int | float, _TINY, 1.0, "in (0, 1] (1 is off)"),
    "min_p": (int | float, 0.0, 1.0, "a number from 0 (off) to 1"),
    "repetition_penalty": (int | float, _TINY, math.inf, "a finite number > 0 (1 is off)"),
    "frequency_penalty": (int | float, -math.inf, math.inf, "a finite number"),
    "presence_penalty": (int | float, -math.inf, math.inf, "a finite number"),
    "min_new_tokens": (int, 0, math.inf, "an integer >= 0"),
    "max_new_tokens": (int, 0, math.inf, "an integer >= 0"),
    "seed": (int, -(2**63), 2**64 - 1, "an integer of 64 bits"),
}
"""Type, range and wording of the number settings."""


@dataclass(frozen=True)
class SamplingParams:
    """How one request samples, and when it ends.

    Attributes:
        temperature: 0 is greedy.
        top_k: keep tokens at least as likely as the k-th; 0 is off.
        top_p: keep the most likely tokens until their mass passes p; 1 is off.
        min_p: drop tokens less likely than this share of the most likely one; 0 is off.
        repetition_penalty: divides positive and multiplies negative logits of tokens in prompt or
            output (CTRL, Keskar et al. 2019); 1 is off.
        frequency_penalty: subtracted once per occurrence in the output.
        presence_penalty: subtracted once if the token is in the output.
        logit_bias: added to the logits, by token id.
        suppress_tokens: token ids that are never produced.
        min_new_tokens: no EOS before this many new tokens.
        max_new_tokens: budget of new tokens.
        eos_token_ids: token ids that end the text; empty means none does.
        seed: the text depends on this and on nothing else in the batch.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    suppress_tokens: Sequence[int] = ()
    min_new_tokens: int = 0
    max_new_tokens: int = 128
    eos_token_ids: Sequence[int] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that have no meaning."""
        for name, (kind, low, high, text) in _ALLOWED.items():
            value = getattr(self, name)
            number = isinstance(value, kind) and not isinstance(value, bool)
            if not (number and low <= value <= high and math.isfinite(value)):
                raise ValueError(f"{name} is {value!r}; it must be {text}")
        if 0 < self.temperature < MIN_TEMPERATURE:
            raise ValueError(
                f"temperature is {self.temperature!r}; it must be 0 (greedy) or at least "
                f"{MIN_TEMPERATURE}"
            )
        for token, bias in self.logit_bias.items():
            if not isinstance(token, int) or not bias < math.inf:
                raise ValueError(
                    f"logit_bias has {token!r}: {bias!r}; it must map token ids to numbers below "
                    "infinity"
                )
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens is {self.min_new_tokens}, more than "
                f"max_new_tokens, {self.max_new_tokens}"
            )

    def active(self) -> set[str]:
        """Names of the settings that are not neutral (seed and lengths left out)."""
        silent = {"seed", "max_new_tokens", "eos_token_ids"}
        return {
            f.name
            for f in fields(self)
            if f.name not in silent and getattr(self, f.name) != getattr(NEUTRAL, f.name)
        }


NEUTRAL = SamplingParams()
"""Every setting off."""
