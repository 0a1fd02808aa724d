"""Tasks whose questions are conversations, one line of FastChat's `question.jsonl` each."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mtad.core.prompt import Prompt
from mtad.tasks.task import Item, Task

_TRANSCRIPT_STOPS: Final = ("\nHuman:",)


@dataclass(frozen=True)
class Conversation(Task, ABC):
    """Each turn is asked after the model's own answers to those before it.

    Attributes:
        chat: False asks in a plain transcript, for models without a chat template.
    """

    chat: bool = True

    @property
    def stops(self) -> tuple[str, ...]:  # type: ignore[override]
        """The transcript's next speaker; none where the chat template ends an answer."""
        return () if self.chat else _TRANSCRIPT_STOPS

    def prompt(self, item: Item, answers: Sequence[str]) -> Prompt:
        """A chat, or a transcript that ends where the assistant is to go on."""
        if self.chat:
            return super().prompt(item, answers)
        said = zip(item.turns, [*answers, ""], strict=False)
        parts = [f"Human: {turn}\n\nAssistant: {answer.strip()}" for turn, answer in said]
        return "\n\n".join(parts).rstrip()
