"""The rating in a judge's text, as FastChat's `llm_judge` reads it. Knows no judge and no question.

The patterns are those of lm-sys/FastChat, `fastchat/llm_judge/common.py`: the first number in
double square brackets, without spaces, or else the first in single ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from mtad.tasks.answers import without_reasoning

LOWEST: Final = 1.0
HIGHEST: Final = 10.0

_NUMBER: Final = r"[0-9]+\.?[0-9]*"
_DOUBLE: Final = re.compile(rf"\[\[({_NUMBER})\]\]")
_SINGLE: Final = re.compile(rf"\[({_NUMBER})\]")


@dataclass(frozen=True)
class Rating:
    """A number from 1 to 10.

    Attributes:
        value: the number.
        in_single_brackets: whether it was found only in single brackets, which may be a mention
            ("in step [3]") and no rating.
    """

    value: float
    in_single_brackets: bool = False


def find_rating(judgment: str) -> Rating | None:
    """The rating, None where there is none or it is not from 1 to 10.

    Two differences from FastChat: it keeps numbers outside the scale, and it reads a judge's
    reasoning between `<think>` tags, which is left out here.
    """
    text = without_reasoning(judgment)
    double = _DOUBLE.search(text)
    found = double or _SINGLE.search(text)
    if not found or not LOWEST <= float(found[1]) <= HIGHEST:
        return None
    return Rating(float(found[1]), in_single_brackets=double is None)
