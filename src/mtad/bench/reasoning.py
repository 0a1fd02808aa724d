"""Reasoning tags that are special tokens, which decoding leaves out of a text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from mtad.api.completion import Completion
from mtad.tasks.answers import REASONING_TAGS


def text_with_tags(completion: Completion, tokenizer: Any, stops: Sequence[str]) -> str:
    """The completion's text; reasoning tags that are special tokens stand in it too.

    Not where `stops` could have cut the text: such tasks ask for no chat, where reasoning occurs.
    """
    tags = {} if stops else special_tags(tokenizer)
    ids = completion.token_ids
    if tags.keys().isdisjoint(ids):
        return completion.text
    places = [-1, *(place for place, token in enumerate(ids) if token in tags), len(ids)]
    parts = [
        tokenizer.decode(ids[start + 1 : end], skip_special_tokens=True)
        + (tags[ids[end]] if end < len(ids) else "")
        for start, end in itertools.pairwise(places)
    ]
    return "".join(parts)


def special_tags(tokenizer: Any) -> dict[int, str]:
    """The reasoning tags among the tokenizer's special tokens, by id."""
    known = {tag for pair in REASONING_TAGS for tag in pair}
    special = known.intersection(tokenizer.all_special_tokens)
    return {tokenizer.convert_tokens_to_ids(tag): tag for tag in special}
