"""Prompts to token ids, and tokens to text and bytes, for requests.

Tokenizing may take long, so that it runs beside the event loop; one thread at a time, since not
every tokenizer may be used by two. Knows no HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import anyio
import anyio.to_thread

from mtad.errors import DataError, PromptError
from mtad.model.tokenizer import TextStream, encode, special_tokens
from mtad.server.api.messages import Message, Tool, UserMessage
from mtad.server.api.rendering import rendered
from mtad.server.api.tool_parsers.families import Family, FamilyName, family_of
from mtad.server.api.tool_parsers.thinking import END

LONG_BYTES = 2**16
"""Beyond so many a request's text takes long to tokenize."""

T = TypeVar("T")
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
_REPLACEMENT = "�"
_NO_VARIABLES: Mapping[str, Any] = MappingProxyType({})


def read_template(given: str | None) -> str:
    """A chat template: the text itself, or what is in the file of this name; empty for None.

    Raises:
        DataError: it is no template, and no file can be read.
    """
    if given is None or any(mark in given for mark in ("{{", "{%", "\n")):
        return given or ""
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise DataError(
            f"the chat template {given} cannot be read: {reason}; give a file, or a template, "
            "which has {{ or {%"
        ) from error


class Texts:
    """What a tokenizer does for requests.

    Args:
        tokenizer: of the pair, None if it has none.
        reason: why it has none, if that is known.
        template: of chats, instead of the tokenizer's; empty for that one.
        parser: how the model writes calls of tools; "auto" is as its chat template says.

    Raises:
        DataError: the template cannot render a message, or leaves it out.
    """

    def __init__(
        self,
        tokenizer: Any,
        reason: str = "",
        template: str = "",
        parser: FamilyName | Literal["auto"] = "auto",
    ) -> None:
        self.tokenizer, self._reason, self._parser = tokenizer, reason, parser
        self._given_template = template
        self.special = special_tokens(tokenizer)
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._has_tags = any(str(token) == END for token in added.values())
        self._lock = Lock()
        self._limiter, self._limiter_of_long = anyio.CapacityLimiter(1), anyio.CapacityLimiter(1)
        self._pieces: dict[int, tuple[str, list[int] | None]] = {}
        self._byte_of = {char: byte for byte, char in enumerate(_byte_letters())}
        if template:
            self._check_template()

    def _check_template(self) -> None:
        chats: list[list[Message]] = [
            [UserMessage(role="user", content=text)] for text in ("Yes", "No")
        ]
        try:
            one, other = map(self.ids, chats)
        except PromptError as error:
            raise DataError(f"the chat template cannot be used: {error}") from error
        if one == other:
            raise DataError(
                "the chat template cannot be used: it leaves out what the user says; give one that "
                "loops over messages"
            )

    async def off_loop(self, work: Callable[[], T], size: int = 0) -> T:
        """What `work` returns, called in a thread.

        Args:
            work: uses the tokenizer.
            size: bytes of its request. Of those that are long one at most is before a short one.
        """
        limiter = self._limiter if size <= LONG_BYTES else self._limiter_of_long
        return await anyio.to_thread.run_sync(self._alone, work, limiter=limiter)

    def _alone(self, work: Callable[[], T]) -> T:
        with self._lock:
            return work()

    @property
    def template(self) -> str:
        """The template of chats; empty where there is none."""
        return self._template("default")

    @property
    def tool_template(self) -> str:
        """The template of chats with tools, which a few tokenizers have of their own."""
        return self._template("tool_use") or self.template

    def _template(self, name: str) -> str:
        if self._given_template:
            return self._given_template
        found = getattr(self.tokenizer, "chat_template", None)
        found = found.get(name) if isinstance(found, dict) else found
        return found if isinstance(found, str) else ""

    @property
    def family(self) -> Family:
        """How the model writes calls of tools."""
        return family_of(self.tool_template, self._parser)

    @property
    def has_thinking(self) -> bool:
        """Whether the model's template or tokens have the tags of thinking."""
        return self._has_tags or END in self.template

    def ids(
        self,
        prompt: str | list[int] | list[Message],
        template: Mapping[str, Any] = _NO_VARIABLES,
        *,
        bare: bool = False,
        tools: Sequence[Tool] = (),
    ) -> list[int]:
        """Token ids of a prompt or a chat.

        Args:
            prompt: as a request has it.
            template: variables of the chat template.
            bare: without the special tokens that a text begins with.
            tools: of a chat.

        Raises:
            PromptError: see `mtad.model.tokenizer.encode` and `mtad.server.api.rendering`.
        """
        given: Any = prompt
        if given and not isinstance(given, str) and not isinstance(given[0], int):
            form = self.tool_template if tools else self.template
            given, more = rendered(given, tools, form, self.family)
            template = {**template, **more}
        if bare and isinstance(given, str) and self.tokenizer is not None:
            return list(self.tokenizer(given, add_special_tokens=False).input_ids)
        own = {"chat_template": self._given_template} if self._given_template else {}
        return encode(self.tokenizer, given, self._reason, {**template, **own})

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids; empty where there is no tokenizer."""
        if self.tokenizer is None or not ids:
            return ""
        return self._decode(list(ids))

    def places(self, ids: Sequence[int], skips_special: bool) -> list[int]:
        """Where in their text each of the token ids begins; 0 where there is no tokenizer."""
        if self.tokenizer is None:
            return [0] * len(ids)
        stream = TextStream(self.tokenizer, skips_special=skips_special, locates=True)
        for token in ids:
            stream.push(token)
        stream.take(last=True)
        return stream.take_places(last=True)

    def token(self, token: int) -> tuple[str, list[int] | None]:
        r"""A token's text and its bytes; a part of a character is written as `bytes:\xe2`."""
        if token not in self._pieces:
            self._pieces[token] = self._describe(token)
        return self._pieces[token]

    def _describe(self, token: int) -> tuple[str, list[int] | None]:
        if self.tokenizer is None:
            return f"token_id:{token}", None
        piece = self._piece(token)
        if _REPLACEMENT not in piece:
            return piece, list(piece.encode())
        raw = self._raw_bytes(token)
        if raw is None:
            return piece, None
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), raw

    def _piece(self, token: int) -> str:
        """The token's text within a line: some tokenizers drop a first token's space."""
        before = self._decode([token])
        both = self._decode([token, token])
        return both[len(before) :] if both.startswith(before) else before

    def _raw_bytes(self, token: int) -> list[int] | None:
        """The bytes of a token that is no whole text, None if its tokenizer has another form."""
        name = self.tokenizer.convert_ids_to_tokens(token) or ""
        if match := _BYTE.fullmatch(name):
            return [int(match[1], 16)]
        if name and all(char in self._byte_of for char in name):
            return [self._byte_of[char] for char in name]
        return None

    def _decode(self, ids: list[int]) -> str:
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return str(self.tokenizer.decode(ids, **options))


def _byte_letters() -> list[str]:
    """The letter that byte-level vocabularies write for each byte.

    Printable bytes of Latin-1 stand for themselves, the others for the letters from 256 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (chr(256 + i) for i in range(256))
    return [chr(byte) if byte in printable else next(others) for byte in range(256)]
