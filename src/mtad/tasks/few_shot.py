"""Prompts of solved questions before the one that is asked. Knows no task."""

from __future__ import annotations

from collections.abc import Iterable

from mtad.core.prompt import Message, Prompt

Solved = tuple[str, str]
"""A question and its answer."""


def few_shot(solved: Iterable[Solved], question: str, label: str, *, chat: bool) -> Prompt:
    """The solved questions and then the question.

    In plain text each answer stands behind `label` on a line of its own; in a chat each question is
    a message of the user and each answer one of the assistant.

    Args:
        solved: questions with their answers.
        question: what is asked.
        label: stands before an answer, such as "Answer:".
        chat: whether the prompt goes through the chat template.
    """
    if not chat:
        shown = "".join(f"{asked}\n{label} {answer}\n\n" for asked, answer in solved)
        return f"{shown}{question}\n{label}"
    messages: list[Message] = []
    for asked, answer in solved:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": question}]


def require_count(num_examples: int) -> None:
    """Refuse a negative number of examples."""
    if num_examples < 0:
        raise ValueError(f"num_examples is {num_examples}; give 0 or more")
