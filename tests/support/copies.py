"""What a draft that copies is to copy, found by looking."""

from __future__ import annotations

from collections.abc import Sequence


def followed(text: Sequence[int], path: Sequence[int], longest: int) -> tuple[int | None, int]:
    """The token to copy after text and path, and the length of the match.

    The longest match of their last tokens in the text counts, the last one among equals; None and 0
    where nothing matches.
    """
    whole, found = [*text, *path], (None, 0)
    for end in range(len(text) - 1):
        length = 0
        while length < min(longest, end + 1) and text[end - length] == whole[-1 - length]:
            length += 1
        if length and length >= found[1]:
            found = text[end + 1], length
    return found
