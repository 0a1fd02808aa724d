"""The text of a model's answer without its reasoning, and its code blocks as Markdown has them.

Knows neither SQL nor Python: `sql_answer` and `python_answer` choose among the blocks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from markdown_it import MarkdownIt

REASONING_TAGS: Final = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("◁think▷", "◁/think▷"),
)
"""What chat templates put around reasoning: DeepSeek and Qwen, Mistral, Seed, Cohere, Kimi, …"""

_MARKDOWN: Final = MarkdownIt("commonmark")


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        language: the first word after the fence in lower case; "" where there is none.
        text: the code, without the indentation that a list gives it.
    """

    language: str
    text: str


def blocks(answer: str) -> list[Block]:
    """The fenced blocks of an answer in their order; one that is never closed goes to the end."""
    tokens = _MARKDOWN.parse(answer)
    return [
        Block(next(iter(token.info.lower().split()), ""), token.content)
        for token in tokens
        if token.type == "fence"
    ]


def without_reasoning(answer: str) -> str:
    """The answer without what stands between reasoning tags.

    Reasoning begins with its tag at the start of a line. Where the prompt opened it already, only
    the closing tag is there, and all before it goes. Reasoning that is never closed goes to the
    end: the budget was used up before the answer began.
    """
    for opening, closing in REASONING_TAGS:
        if closing not in answer and opening not in answer:
            continue
        begin, end = re.escape(opening), re.escape(closing)
        answer = re.sub(rf"(?ms)^[^\S\n]*{begin}.*?(?:{end}|\Z)", "", answer)
        before, closed, rest = answer.partition(closing)
        answer = rest if closed and opening not in before else answer
    return answer
