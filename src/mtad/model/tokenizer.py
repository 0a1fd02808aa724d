"""Between text and token ids: prompts, incremental decoding, stop strings.

Knows a tokenizer and nothing of models.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Integral
from types import MappingProxyType
from typing import Any

from mtad.core.prompt import Array, Prompt, require_characters
from mtad.errors import PromptError, first_line

NUM_CONTEXT = 8
"""Prompt tokens that are decoded along, because a tokenizer may treat a first token otherwise."""
MAX_PENDING = 16
"""Tokens that may wait for the rest of a character; a character has at most four bytes."""
REPLACEMENT = "\ufffd"
"""What a tokenizer writes for bytes that are no character, or not yet."""


def prompt_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or many, as a list of prompts; arrays with two dimensions are many."""
    if isinstance(prompts, str):
        return [prompts]
    items: list[Any] = [_plain(item) for item in _plain(prompts)]
    return [items] if items and isinstance(items[0], Integral | Mapping) else items


def _plain(value: Any) -> Any:
    """A tensor or array as lists or a number, anything else as it is."""
    if isinstance(value, int | str):  # asking for a protocol takes long, and there are many tokens
        return value
    return value.tolist() if isinstance(value, Array) else value


def encode(
    tokenizer: Any,
    prompt: Prompt,
    reason: str = "",
    template: Mapping[str, Any] = MappingProxyType({}),
) -> list[int]:
    """Token ids of a prompt; a chat goes through the tokenizer's template.

    Args:
        tokenizer: turns text into ids, None if there is none.
        prompt: one prompt.
        reason: why there is no tokenizer, if that is known.
        template: variables of the chat template; `chat_template` is one instead of the tokenizer's.

    Raises:
        PromptError: text without a tokenizer, a chat without a template, or what these refuse.
    """
    given: Any = _plain(prompt)
    if not isinstance(given, str) and all(isinstance(t, Integral) for t in given):
        return [int(t) for t in given]
    if tokenizer is None:
        why = f" ({reason})" if reason else ""
        raise PromptError(f"the models came without a tokenizer{why}; give the prompt as token ids")
    require_characters(given, "the prompt" if isinstance(given, str) else "messages")
    if isinstance(given, str):
        try:
            return list(tokenizer(given).input_ids)
        except Exception as error:
            raise _tokenizer_error(error) from error
    if not (template.get("chat_template") or getattr(tokenizer, "chat_template", None)):
        raise PromptError("the tokenizer has no chat template; give the prompt as a string")
    options = {"add_generation_prompt": True, **template}
    try:
        ids = tokenizer.apply_chat_template(list(given), return_dict=False, **options)
    except Exception as error:
        raise _chat_error(tokenizer, list(given), options, error) from error
    return list(ids)


def _tokenizer_error(error: Exception) -> PromptError:
    return PromptError(f"the tokenizer cannot read the prompt: {_named(error)}")


def _chat_error(
    tokenizer: Any, messages: list[Any], options: Mapping[str, Any], error: Exception
) -> PromptError:
    """What failed: the template, as it is or with these messages, or the tokenizer after it."""
    try:
        tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except ImportError as missing:
        return PromptError(f"chats cannot be rendered here: {first_line(missing)}")
    except Exception as refused:
        if type(refused).__name__ == "TemplateSyntaxError":  # jinja2's
            return PromptError(f"the chat template is broken: {refused}")
        return PromptError(f"the chat template refuses these messages: {refused}")
    return _tokenizer_error(error)


def _named(error: Exception) -> str:
    """An error with its type, for messages that make no sense alone."""
    return f"{type(error).__name__}: {first_line(error)}"


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """The ids of the tokens that are not text, such as the one that ends a turn, by name."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {str(t): i for i, t in added.items() if t.special}


def stop_ids(stops: Iterable[str], special: Mapping[str, int], vocab: int) -> list[int]:
    """The ids of those stop strings that are special tokens; each ends a text like an EOS.

    Args:
        stops: stop strings.
        special: as `special_tokens` returns it.
        vocab: number of token ids in use; those beyond it end nothing.
    """
    return [special[stop] for stop in stops if special.get(stop, vocab) < vocab]


def _num_common(text: str, other: str) -> int:
    """Characters that two texts begin with alike."""
    pairs = enumerate(zip(text, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(text), len(other)))


class TextStream:
    """The text of one request as its tokens come, cut before the first stop string.

    A tokenizer ends a text with U+FFFD as long as its last character lacks bytes. Such tokens are
    pending, and decoded again with the next ones; at most `MAX_PENDING` of them, so that the cost
    of a token does not grow with the text.

    Args:
        tokenizer: turns ids into text.
        stops: the text ends before the first of these that appears.
        context: the prompt's ids; the text is what comes after them.
        min_tokens: a stop string that is complete within so many tokens does not count.
        keeps_stop: the text ends after the stop string instead.
        skips_special: special tokens have no text.
        shown: ids of special tokens that have text nonetheless.
        locates: `take_places` is wanted.
    """

    def __init__(
        self,
        tokenizer: Any,
        stops: Sequence[str] = (),
        context: Sequence[int] = (),
        *,
        min_tokens: int = 0,
        keeps_stop: bool = False,
        skips_special: bool = True,
        shown: Collection[int] = (),
        locates: bool = False,
    ) -> None:
        self.tokenizer, self.stops = tokenizer, [s for s in stops if s]
        self.context, self.min_tokens, self.keeps_stop = context, min_tokens, keeps_stop
        self.skips_special, self.shown, self.locates = skips_special, shown, locates
        self._hidden = set(special_tokens(tokenizer).values()).difference(shown) if shown else set()
        self.text, self.stopped = "", False
        self._ids = list(context[-NUM_CONTEXT:])
        while REPLACEMENT in self._decode(0, len(self._ids)):
            del self._ids[0]  # half a character, which would spoil what comes after it
        self._start, self._read, self._emitted = 0, len(self._ids), 0
        self._num_new, self._places = 0, list[int]()

    def restarted(self) -> TextStream:
        """A stream with the same settings that has taken no token."""
        return TextStream(
            self.tokenizer,
            self.stops,
            self.context,
            min_tokens=self.min_tokens,
            keeps_stop=self.keeps_stop,
            skips_special=self.skips_special,
            shown=self.shown,
            locates=self.locates,
        )

    def push(self, token: int) -> bool:
        """Take one token; true once a stop string is complete."""
        self.extend((token,))
        return self.stopped

    def extend(self, tokens: Sequence[int]) -> None:
        """Take tokens that need no look at the text in between, such as a block's."""
        self._ids += tokens
        self._num_new += len(tokens)
        before = self._decode(self._start, self._read)
        after = self._decode(self._start, len(self._ids))
        if not after.endswith(REPLACEMENT):
            self._settle(len(self._ids), after[len(before) :])
        elif len(self._ids) - self._read > MAX_PENDING:
            self._settle_most(before, after)

    def _settle_most(self, before: str, after: str) -> None:
        """Settle pending tokens up to a border of characters; the last three may lack bytes."""
        for end in range(len(self._ids) - 3, len(self._ids) - 7, -1):
            text = self._decode(self._start, end)
            if after.startswith(text):
                return self._settle(end, text[len(before) :])

    def _settle(self, end: int, piece: str) -> None:
        """Add the text of the pending tokens before `end`."""
        if self.locates:
            self._locate(end, piece)
        self._start, self._read = self._read, end
        self._extend(piece)

    def take(self, last: bool = False) -> str:
        """Text not taken yet that no stop string can still cut off; all of it if `last`."""
        if last and not self.stopped and self._read < len(self._ids):
            before = self._decode(self._start, self._read)
            self._settle(len(self._ids), self._decode(self._start, len(self._ids))[len(before) :])
        end = len(self.text) - (0 if last or self.stopped else self._held_back())
        piece = self.text[self._emitted : end]
        self._emitted = max(self._emitted, end)
        return piece

    def take_places(self, last: bool = False) -> list[int]:
        """Where in the text each token begins, of those not taken yet whose place is certain.

        To be called after `take`. A part of a character begins where the character does, a token
        without text where the next one does, and one that was cut off at the end of the text.
        """
        certain = len(self._places)
        if not (last or self.stopped):
            certain = bisect_right(self._places, self._emitted)
        taken, self._places = self._places[:certain], self._places[certain:]
        return [min(place, len(self.text)) for place in taken]

    def _locate(self, end: int, piece: str) -> None:
        """Note where in the text the pending tokens before `end` begin; `piece` is their text."""
        if end == self._read + 1:
            self._places.append(len(self.text))
            return
        skipped = len(self._decode(self._start, self._read))
        ends = range(self._read, end + 1)
        texts = [self._decode(self._start, one)[skipped:] for one in ends]
        sizes = [_num_common(text, piece) for text in texts]
        for index, (text, size) in enumerate(zip(texts[:-1], sizes, strict=False)):
            is_inside = text.endswith(REPLACEMENT) and size == sizes[index + 1]
            at = self._read + index
            inside = is_inside and size > 0 and self._decode(at, at + 1) != ""
            self._places.append(len(self.text) + size - inside)

    def _extend(self, piece: str) -> None:
        """Append text and look for a stop string that ends in it and may have begun before it."""
        begin = len(self.text)
        self.text += piece
        if self._num_new <= self.min_tokens:
            return
        sizes = ((self.text.find(s, max(0, begin - len(s) + 1)), len(s)) for s in self.stops)
        found = min((one for one in sizes if one[0] >= 0), default=None)
        if found is not None:
            end = sum(found) if self.keeps_stop else found[0]
            self.text, self.stopped = self.text[:end], True

    def _held_back(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        if self.keeps_stop:
            return 0
        sizes = (n for s in self.stops for n in range(1, len(s)) if self.text.endswith(s[:n]))
        return max(sizes, default=0)

    def _decode(self, start: int, end: int) -> str:
        ids, skips = self._ids[start:end], self.skips_special
        if skips and self.shown:
            ids, skips = [token for token in ids if token not in self._hidden], False
        options = {"skip_special_tokens": skips, "clean_up_tokenization_spaces": False}
        return str(self.tokenizer.decode(ids, **options))
