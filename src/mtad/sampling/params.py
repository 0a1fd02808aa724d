"""Sampling settings of one request: names, ranges, defaults and what they mean, defined once.

Flags, configuration files, HTTP's schema and the playground's controls are made from the
annotations of `SamplingParams`. Knows no tensor and no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Annotated, Any, TypeAlias, cast

from annotated_types import Ge, Gt, Le, Lt

from mtad.core.options import Doc, Finite, doc_of
from mtad.core.schema import Option, options_of
from mtad.errors import OptionError

MIN_TEMPERATURE = 1e-5
"""Below it logits overflow; greedy decoding is temperature 0."""

Natural: TypeAlias = Annotated[int, Ge(0)]


@dataclass(frozen=True)
class Setting(Doc):
    """What is said about a sampling setting beside its type and range.

    Attributes:
        http: its name in requests, if not the field's.
        http_range: what requests may say, where that is less.
    """

    http: str = ""
    http_range: tuple[Any, ...] = ()


_INT32 = (Ge(0), Lt(2**31))
_OPENAI = (Ge(-2), Le(2))


@dataclass(frozen=True)
class SamplingParams:
    """How one request samples, and when it ends."""

    temperature: Annotated[
        Finite,
        Ge(0),
        Setting("0 is greedy, otherwise at least 0.00001.", http_range=(Ge(0), Le(2))),
    ] = 1.0
    top_k: Annotated[
        Natural,
        Setting("Keep tokens at least as likely as the k-th; 0 is off.", http_range=_INT32),
    ] = 0
    top_p: Annotated[
        float,
        Gt(0),
        Le(1),
        Setting("Keep the most likely tokens until their mass passes p; 1 is off."),
    ] = 1.0
    min_p: Annotated[
        float,
        Ge(0),
        Le(1),
        Setting(
            "Drop tokens less likely than this share of the most likely one; 0 is off.",
            allowed="a number from 0 (off) to 1",
        ),
    ] = 0.0
    repetition_penalty: Annotated[
        Finite,
        Gt(0),
        Setting(
            "Divides positive and multiplies negative logits of tokens in prompt or output "
            "(CTRL, Keskar et al. 2019); 1 is off.",
            http_range=(Ge(0.01), Le(100)),
        ),
    ] = 1.0
    frequency_penalty: Annotated[
        Finite,
        Setting("Subtracted once per occurrence in the output; 0 is off.", http_range=_OPENAI),
    ] = 0.0
    presence_penalty: Annotated[
        Finite,
        Setting("Subtracted once if the token is in the output; 0 is off.", http_range=_OPENAI),
    ] = 0.0
    logit_bias: Annotated[Mapping[int, float], Setting("Added to the logits, by token id.")] = (
        field(default_factory=dict)
    )
    suppress_tokens: Annotated[Sequence[int], Setting("Token ids that are never produced.")] = ()
    min_new_tokens: Annotated[
        Natural,
        Setting(
            "No end of text within this many tokens; stop strings do not count there either.",
            http="min_tokens",
            http_range=_INT32,
        ),
    ] = 0
    max_new_tokens: Annotated[
        Natural,
        Setting("Budget of new tokens.", http="max_tokens", http_range=(Ge(1), Lt(2**31))),
    ] = 128
    eos_token_ids: Annotated[
        Sequence[int],
        Setting("Token ids that end the text; empty means none does.", http="ignore_eos"),
    ] = ()
    seed: Annotated[
        int,
        Ge(-(2**63)),
        Lt(2**64),
        Setting(
            "The text depends on this and on nothing else in the batch.",
            allowed="an integer of 64 bits",
            http_range=(Ge(-(2**63)), Lt(2**63)),
        ),
    ] = 0

    def __post_init__(self) -> None:
        """Refuse values that have no meaning."""
        for option in numeric_settings().values():
            option.typed(getattr(self, option.name))
        if 0 < self.temperature < MIN_TEMPERATURE:
            raise OptionError(
                f"temperature is {self.temperature!r}; it must be 0 (greedy) or at least "
                f"{MIN_TEMPERATURE}",
                "temperature",
            )
        for token, bias in self.logit_bias.items():
            if not isinstance(token, int) or not bias < math.inf:
                raise OptionError(
                    f"logit_bias has {token!r}: {bias!r}; it must map token ids to numbers below "
                    "infinity",
                    "logit_bias",
                )
        if self.min_new_tokens > self.max_new_tokens:
            raise OptionError(
                f"min_new_tokens is {self.min_new_tokens}, more than "
                f"max_new_tokens, {self.max_new_tokens}",
                "min_new_tokens",
            )

    def active(self) -> set[str]:
        """Names of the settings that are not neutral (seed and lengths left out)."""
        silent = {"seed", "max_new_tokens", "eos_token_ids"}
        return {
            f.name
            for f in fields(self)
            if f.name not in silent and getattr(self, f.name) != getattr(NEUTRAL, f.name)
        }


def require_some_token(params: SamplingParams, vocab: int, known: int, name: str) -> None:
    """Refuse settings that together leave a model no token to produce.

    Args:
        params: of one request.
        vocab: number of token ids in use.
        known: how many of them, from the first on, the model has.
        name: of the model.

    Raises:
        OptionError: none is left, at the beginning of the text or anywhere.
    """
    never = {token for token, bias in params.logit_bias.items() if bias == -math.inf}
    never |= {*params.suppress_tokens}
    early = {*params.eos_token_ids} if params.min_new_tokens else set()
    if any(token not in never and token not in early for token in range(known)):
        return
    among = f"all {vocab} tokens" if known == vocab else f"all {known} tokens that the {name} has"
    if all(token in never for token in range(known)):
        raise OptionError(f"{among} are suppressed; leave at least one", "logit_bias")
    raise OptionError(
        f"{among} are suppressed or end the text, which min_new_tokens, {params.min_new_tokens}, "
        "forbids at first; leave another one, or set min_new_tokens to 0",
        "min_new_tokens",
    )


@cache
def numeric_settings() -> Mapping[str, Option]:
    """The settings that are a number each: those with one flag, key, field and control."""
    found = options_of(SamplingParams)
    return {name: option for name, option in found.items() if option.type in (int, float)}


def setting_of(option: Option) -> Setting:
    """What is said about a setting beside its type and range."""
    return cast(Setting, doc_of(option.kind))


NEUTRAL = SamplingParams()
"""Every setting off."""
