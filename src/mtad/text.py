"""Between text and token ids: prompts, incremental decoding, stop strings.

Knows a tokenizer and nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from mtad.errors import PromptError

Message: TypeAlias = Mapping[str, Any]
Prompt: TypeAlias = str | Sequence[Message] | Sequence[int]
"""A string, a chat (messages with `role` and `content`), or token ids."""


def prompt_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or many, as a list of prompts."""
    if isinstance(prompts, str) or (prompts and isinstance(prompts[0], int | Mapping)):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]


def encode(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Token ids of a prompt; a chat goes through the tokenizer's template.

    Raises:
        PromptError: text without a tokenizer, or a chat without a template.
    """
    if not isinstance(prompt, str) and all(isinstance(t, int) for t in prompt):
        return [int(t) for t in prompt]  # type: ignore[arg-type]
    if tokenizer is None:
        raise PromptError("the models came without a tokenizer; give the prompt as token ids")
    if isinstance(prompt, str):
        return list(tokenizer(prompt).input_ids)
    if not getattr(tokenizer, "chat_template", None):
        raise PromptError("the tokenizer has no chat template; give the prompt as a string")
    try:
        ids = tokenizer.apply_chat_template(
            list(prompt), add_generation_prompt=True, return_dict=False
        )
    except Exception as error:
        raise PromptError(f"the chat template refuses these messages: {error}") from error
    return list(ids)


class TextStream:
    """The text of one request as its tokens come, cut before the first stop string.

    Args:
        tokenizer: turns ids into text.
        stops: the text ends before the first of these that appears.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self.tokenizer, self.stops = tokenizer, [s for s in stops if s]
        self.text, self.stopped = "", False
        self._ids: list[int] = []
        self._start = self._read = self._emitted = 0

    def push(self, token: int) -> bool:
        """Take one token; true once a stop string is complete."""
        self._ids.append(token)
        before = self._decode(self._start, self._read)
        after = self._decode(self._start, len(self._ids))
        if not after.endswith("\ufffd"):
            self._start, self._read = self._read, len(self._ids)
            self._extend(after[len(before) :])
        return self.stopped

    def take(self, last: bool = False) -> str:
        """Text not taken yet that no stop string can still cut off; all of it if `last`."""
        if last and not self.stopped and self._read < len(self._ids):
            before = self._decode(self._start, self._read)
            self._extend(self._decode(self._start, len(self._ids))[len(before) :])
            self._start = self._read = len(self._ids)
        end = len(self.text) - (0 if last or self.stopped else self._held_back())
        piece = self.text[self._emitted : end]
        self._emitted = max(self._emitted, end)
        return piece

    def _extend(self, piece: str) -> None:
        """Append text and look for a stop string, which may have begun before it."""
        longest = max(map(len, self.stops), default=0)
        start = max(0, len(self.text) - longest)
        self.text += piece
        places = [p for p in (self.text.find(s, start) for s in self.stops) if p >= 0]
        if places:
            self.text, self.stopped = self.text[: min(places)], True

    def _held_back(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        sizes = (n for s in self.stops for n in range(1, len(s)) if self.text.endswith(s[:n]))
        return max(sizes, default=0)

    def _decode(self, start: int, end: int) -> str:
        return str(self.tokenizer.decode(self._ids[start:end], skip_special_tokens=True))
