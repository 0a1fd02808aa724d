"""Prompts with the kind of each: bundled ones that suit the models, where the user has none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from mtad import tasks
from mtad.bench.speed.prompts import TASKS, TEST_SETS, heldout_prompts
from mtad.core.prompt import Prompt
from mtad.distill.prompts import bundled
from mtad.pairs import DEMO
from mtad.tasks import BUNDLED

INSTRUCTIONS = "instructions"


@dataclass(frozen=True)
class Asked:
    """A prompt.

    Attributes:
        kind: of its text, such as "sql".
        prompt: as `ModelPair.generate` takes it.
    """

    kind: str
    prompt: Prompt


def bundled_prompts(name: str, tokenizer: Any, count: int) -> list[Asked]:
    """Bundled prompts of several kinds, in turn.

    Args:
        name: of the pair; the embedded one is asked what it was made for.
        tokenizer: of the target. With a chat template chats are asked, among them instructions,
            which have the longest answers.
        count: of the prompts.
    """
    if name == DEMO:
        named = zip(cycle(TEST_SETS), heldout_prompts(count), strict=False)
        return [Asked(kind, prompt) for kind, prompt in named]
    is_chat = bool(getattr(tokenizer, "chat_template", None))
    made = [_of_task(task, is_chat) for task in TASKS]
    if is_chat:
        made = [(Asked(INSTRUCTIONS, chat) for chat in bundled(0)), *made]
    return list(islice((asked for turn in zip(*made, strict=False) for asked in turn), count))


def _of_task(name: str, is_chat: bool) -> Iterator[Asked]:
    """The prompts of a bundled task, as chats or as plain text."""
    task: Any = tasks.find(name)
    task = task(BUNDLED / name, chat=is_chat)
    for item in task.prompts():
        yield Asked(name, task.prompt(item, ()))
