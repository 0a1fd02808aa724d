"""A conversation: what was said so far, and the question that has no answer yet.

Knows no model and no terminal.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtad.core.prompt import Message

ROLES = ("system", "user", "assistant")
STOPPED = "stopped"
"""The key of an answer that the user stopped, in saved messages."""
EXPECTED = '[{"role": "user", "content": "…"}, …], or {"messages": […]}'


@dataclass
class Conversation:
    """Messages as they are saved.

    Attributes:
        messages: the system message, if any, then questions and answers in turn.
        waiting: the question that is being answered, or whose answer failed.
        path: the file that it was saved to or loaded from last.
    """

    messages: list[dict[str, Any]] = field(default_factory=list)
    waiting: str | None = None
    path: Path | None = None

    @property
    def prompt(self) -> list[Message]:
        """What the model reads to answer the waiting question."""
        messages = [{name: m[name] for name in ("role", "content")} for m in self.messages]
        return [*messages, {"role": "user", "content": self.waiting or ""}]

    @property
    def system(self) -> str | None:
        """The system message."""
        first = self.messages[:1]
        return first[0]["content"] if first and first[0]["role"] == "system" else None

    @property
    def turns(self) -> list[dict[str, Any]]:
        """All but the system message."""
        return self.messages[self.system is not None :]

    def add_answer(self, text: str, is_stopped: bool = False) -> None:
        """Add the waiting question and its answer."""
        assert self.waiting is not None, "an answer has a question"
        mark = {STOPPED: True} if is_stopped else {}
        self.messages += [
            {"role": "user", "content": self.waiting},
            {"role": "assistant", "content": text, **mark},
        ]
        self.waiting = None

    def undo(self) -> str:
        """The question that is taken back, with its answer if it has one.

        Raises:
            ValueError: there is no question.
        """
        if self.waiting is not None:
            question, self.waiting = self.waiting, None
            return question
        asked = [place for place, m in enumerate(self.messages) if m["role"] == "user"]
        if not asked:
            raise ValueError("nothing was said yet that could be taken back")
        question = str(self.messages[asked[-1]]["content"])
        del self.messages[asked[-1] :]
        return question

    def clear(self) -> None:
        """Forget all but the system message."""
        self.messages, self.waiting = self.messages[: self.system is not None], None

    def set_system(self, system: str) -> None:
        """Set the system message; an empty one is none."""
        head = [{"role": "system", "content": system}] if system else []
        self.messages = [*head, *self.turns]

    def save(self, path: Path) -> None:
        """Write the messages, the waiting question too; never over another file.

        Raises:
            ValueError: the file is there and is not this conversation's, or cannot be written.
        """
        if path.exists() and path != self.path:
            raise ValueError(f"{path} is there already; choose another name")
        waiting = [] if self.waiting is None else [{"role": "user", "content": self.waiting}]
        text = json.dumps(self.messages + waiting, ensure_ascii=False, indent=2)
        try:
            path.write_text(text + "\n", encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise ValueError(f"{path} cannot be written: {error}") from error
        self.path = path

    @classmethod
    def load(cls, path: Path) -> Conversation:
        """The conversation in a file; a last question without an answer waits for it.

        Raises:
            ValueError: the file cannot be read, or holds something else.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not JSON: {error}; expected {EXPECTED}") from error
        messages = found.get("messages") if isinstance(found, dict) else found
        if not isinstance(messages, list):
            raise ValueError(f"{path} holds no messages; expected {EXPECTED}")
        kept = [_message(path, number, m) for number, m in enumerate(messages, 1)]
        _check_order(path, [m["role"] for m in kept])
        waiting = kept.pop()["content"] if kept and kept[-1]["role"] == "user" else None
        return cls(kept, waiting, path)


def _message(path: Path, number: int, given: Any) -> dict[str, Any]:
    """One message of a file with what is kept of it."""
    message = given if isinstance(given, dict) else {}
    role, content, stopped = (message.get(name) for name in ("role", "content", STOPPED))
    if role not in ROLES or not isinstance(content, str):
        raise ValueError(
            f"{path}: message {number} needs a role, one of {', '.join(ROLES)}, and a text as "
            "its content"
        )
    return {"role": role, "content": content} | ({STOPPED: True} if stopped is True else {})


def _check_order(path: Path, roles: list[str]) -> None:
    """After a system message, if any, questions and answers take turns."""
    first = roles[:1] == ["system"]
    for place, role in enumerate(roles[first:]):
        expected = ("user", "assistant")[place % 2]
        if role != expected:
            raise ValueError(
                f"{path}: message {place + first + 1} is of role {role!r} where {expected!r} is "
                "expected; user and assistant take turns, after a system message if there is one"
            )
