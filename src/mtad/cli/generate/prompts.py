"""The file of `--prompt-file`: one prompt, chat or conversation per line.

{"prompt": "…"}    "…"    {"messages": [{"role": "user", "content": "…"}]}
{"question_id": 81, "category": "writing", "turns": ["first question", "second question"]}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtad.core.prompt import Message, Prompt, require_characters
from mtad.errors import PromptError
from mtad.jsonl import text_lines

EXPECTED = (
    'expected {"prompt": "…"}, {"messages": [{"role": …, "content": …}]}, {"turns": ["…"]} or "…"'
)
_LABELS = ("question_id", "category", "task_id")


@dataclass(frozen=True)
class Item:
    """The request of one line.

    Attributes:
        index: the line, counted from 0.
        digest: SHA-256 of what the line asks for.
        labels: `question_id` and the like, copied into the answer.
        text: a prompt without a chat template.
        opening: messages at the beginning of a chat.
        questions: user messages, one per turn; each is asked after the answer to the one before.
        is_conversation: whether the line has `turns`.
    """

    index: int
    digest: str
    labels: dict[str, Any]
    text: str | None = None
    opening: tuple[Message, ...] = ()
    questions: tuple[str, ...] = ()
    is_conversation: bool = False

    @property
    def num_turns(self) -> int:
        """How many answers it takes."""
        return max(1, len(self.questions))

    def prompt(self, answers: Sequence[str]) -> Prompt:
        """The prompt of the turn after these answers."""
        if self.text is not None:
            return self.text
        messages = list(self.opening)
        for turn, question in enumerate(self.questions[: len(answers) + 1]):
            messages.append({"role": "user", "content": question})
            messages += [{"role": "assistant", "content": a} for a in answers[turn : turn + 1]]
        return messages


def read_prompts(path: Path, opening: Sequence[Message], chat: bool) -> list[Item]:
    """The items of a file, blank lines left out.

    Args:
        path: JSON lines.
        opening: a system message for the chats that have none.
        chat: plain prompts become user messages.

    Raises:
        PromptError: a line is not a prompt; the message has its number and what is expected.
        DataError: the file is not UTF-8.
    """
    items = []
    for number, line in text_lines(path):
        try:
            items.append(_item(number - 1, json.loads(line), tuple(opening), chat))
        except (ValueError, RecursionError, PromptError) as error:
            raise PromptError(f"{path}, line {number}: {error}; {EXPECTED}") from error
    if not items:
        raise PromptError(f"{path} has no prompts; {EXPECTED}, one per line")
    return items


def _item(index: int, value: Any, opening: tuple[Message, ...], chat: bool) -> Item:
    kind, asked = _kind_and_content(value)
    digest = hashlib.sha256(json.dumps([kind, asked], sort_keys=True).encode()).hexdigest()
    labels = {k: value[k] for k in _LABELS if k in value} if isinstance(value, dict) else {}
    require_characters(labels, "")
    if kind == "messages":
        has_system = asked[0]["role"] == "system"
        return Item(index, digest, labels, opening=(*(() if has_system else opening), *asked))
    if kind == "prompt" and not chat:
        if opening:
            raise ValueError("it is not a chat, and --system needs one; give --chat")
        return Item(index, digest, labels, text=asked)
    questions = (asked,) if kind == "prompt" else tuple(asked)
    return Item(index, digest, labels, None, opening, questions, is_conversation=kind == "turns")


def _kind_and_content(value: Any) -> tuple[str, Any]:
    """The kind of the line and its content, checked."""
    value = {"prompt": value} if isinstance(value, str) else value
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}")
    kinds = [kind for kind in ("prompt", "messages", "turns") if kind in value]
    if len(kinds) != 1:
        raise ValueError(f"it has {' and '.join(kinds) or 'none of them'}")
    [kind] = kinds
    parts = [value[kind]] if kind == "prompt" else value[kind]
    is_part = _is_message if kind == "messages" else _is_text
    require_characters(value[kind], f"its {kind!r}")
    if not (isinstance(parts, list) and parts and all(map(is_part, parts))):
        raise ValueError(f"its {kind!r} is {json.dumps(value[kind])[:60]}")
    return kind, value[kind]


def _is_text(content: Any) -> bool:
    return isinstance(content, str)


def _is_message(content: Any) -> bool:
    if not isinstance(content, dict) or not _is_text(content.get("role")):
        return False
    return isinstance(content.get("content"), str | list)
