"""A conversation: questions and their answers; the last question may have none yet.

Knows no model and no terminal.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtad.core.prompt import Message

STOPPED = "stopped"
"""The key of an answer that the user stopped, in saved messages."""
EXPECTED = '[{"role": "user", "content": "…"}, …], or {"messages": […]}'
_NEXT = {"system": "user", "user": "assistant", "assistant": "user"}


@dataclass
class Conversation:
    """Messages as they are saved.

    Attributes:
        messages: the system message, if any, then questions and answers in turn.
        path: the file that it was saved to or loaded from last.
    """

    messages: list[dict[str, Any]] = field(default_factory=list)
    path: Path | None = None

    @property
    def prompt(self) -> list[Message]:
        """What the model reads to answer the waiting question."""
        return [{name: m[name] for name in ("role", "content")} for m in self.messages]

    @property
    def system(self) -> str | None:
        """The system message."""
        return next((m["content"] for m in self.messages[:1] if m["role"] == "system"), None)

    @property
    def turns(self) -> list[dict[str, Any]]:
        """All but the system message."""
        return self.messages[self.system is not None :]

    @property
    def waiting(self) -> str | None:
        """The question that has no answer yet."""
        return next((m["content"] for m in self.messages[-1:] if m["role"] == "user"), None)

    def ask(self, question: str) -> None:
        """Add a question, in place of one that has no answer."""
        if self.waiting is not None:
            del self.messages[-1]
        self.messages.append({"role": "user", "content": question})

    def add_answer(self, text: str, is_stopped: bool = False) -> None:
        """Add the answer of the waiting question."""
        assert self.waiting is not None, "an answer has a question"
        mark = {STOPPED: True} if is_stopped else {}
        self.messages.append({"role": "assistant", "content": text, **mark})

    def undo(self) -> str:
        """The question that is taken back, with its answer if it has one.

        Raises:
            ValueError: there is no question.
        """
        asked = [place for place, m in enumerate(self.messages) if m["role"] == "user"]
        if not asked:
            raise ValueError("nothing was said yet that could be taken back")
        question = str(self.messages[asked[-1]]["content"])
        del self.messages[asked[-1] :]
        return question

    def set_system(self, system: str) -> None:
        """Set the system message; an empty one is none."""
        head = [{"role": "system", "content": system}] if system else []
        self.messages = [*head, *self.turns]

    def save(self, path: Path) -> None:
        """Write the messages; never over another file.

        Raises:
            ValueError: the file is there and is not this conversation's, or cannot be written.
        """
        if path.exists() and path != self.path:
            raise ValueError(f"{path} is there already; choose another name")
        text = json.dumps(self.messages, ensure_ascii=False, indent=2)
        try:
            path.write_text(text + "\n", encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise ValueError(f"{path} cannot be written: {error}") from error
        self.path = path

    @classmethod
    def load(cls, path: Path) -> Conversation:
        """The conversation in a file.

        Raises:
            ValueError: the file cannot be read, or holds something else.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not JSON: {error}; expected {EXPECTED}") from error
        given = found.get("messages") if isinstance(found, dict) else found
        if not isinstance(given, list):
            raise ValueError(f"{path} holds no messages; expected {EXPECTED}")
        messages: list[dict[str, Any]] = []
        for number, message in enumerate(given, 1):
            expected = [_NEXT[m["role"]] for m in messages[-1:]] or ["user", "system"]
            messages.append(_checked(message, expected, f"{path}: message {number}"))
        return cls(messages, path)


def _checked(given: Any, expected: list[str], place: str) -> dict[str, Any]:
    """A message of a file with what is kept of it."""
    message = given if isinstance(given, dict) else {}
    role, content, stopped = (message.get(name) for name in ("role", "content", STOPPED))
    if role not in tuple(_NEXT) or not isinstance(content, str):
        raise ValueError(
            f"{place} needs a role, one of {', '.join(_NEXT)}, and a text as its content"
        )
    if role not in expected:
        raise ValueError(
            f"{place} is of role {role!r} where {expected[0]!r} is expected; user and assistant "
            "take turns, after a system message if there is one"
        )
    return {"role": role, "content": content} | ({STOPPED: True} if stopped is True else {})
