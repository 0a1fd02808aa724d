"""What is asked: prompts that suit the pair, or the user's own, as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

from mtad import demo, tasks
from mtad.api.pair import ModelPair
from mtad.core.prompt import Prompt
from mtad.model.tokenizer import encode
from mtad.pairs import DEMO, PAIRS
from mtad.tasks import BUNDLED
from mtad.testing import WIDENED

TEST_SETS = ("sql", "python", "chat")
TASKS = ("closed_book", "json_extraction", "table_sql")


def heldout_prompts(count: int) -> list[Prompt]:
    """Prompts of the test sets in turn; the embedded pair never saw them.

    Raises:
        ValueError: there are not so many.
    """
    sets = [demo.heldout(name) for name in TEST_SETS]
    mixed = [item for items in zip(*sets, strict=False) for item in items]
    if count > len(mixed):
        raise ValueError(f"--num-prompts is {count}; there are {len(mixed)} held-out prompts")
    return [item.get("prompt") or item["messages"] for item in mixed[:count]]


def prompts_for(target: str, count: int) -> list[Prompt]:
    """Prompts that suit a pair: held-out ones of the embedded pair, or those of bundled tasks.

    Args:
        target: the name of a pair or of a widened one, or where the target is.
        count: of the prompts.

    Raises:
        ValueError: there are not so many.
    """
    base = WIDENED[target].base if target in WIDENED else target
    return task_prompts(count) if base in PAIRS and base != DEMO else heldout_prompts(count)


def task_prompts(count: int) -> list[Prompt]:
    """Chats of the bundled `TASKS` in turn, for models that follow instructions.

    Raises:
        ValueError: there are not so many.
    """
    made = [tasks.find(name)(BUNDLED / name) for name in TASKS]
    sets = [[task.prompt(item, ()) for item in task.prompts()] for task in made]
    mixed = [prompt for prompts in zip(*sets, strict=False) for prompt in prompts]
    if count > len(mixed):
        raise ValueError(f"--num-prompts is {count}; there are {len(mixed)} bundled prompts")
    return mixed[:count]


def encoded(pair: ModelPair, prompts: Sequence[Prompt]) -> list[list[int]]:
    """The token ids of the prompts."""
    return [encode(pair.tokenizer, p, pair.models.tokenizer_error) for p in prompts]


def batches_of(prompts: Sequence[list[int]], size: int) -> list[list[list[int]]]:
    """The prompts in groups that are decoded together."""
    return [list(prompts[i : i + size]) for i in range(0, len(prompts), size)]


def filled(prompts: Sequence[list[int]], size: int) -> list[list[int]]:
    """`size` prompts; if there are fewer, they come again."""
    return list(islice(cycle(prompts), size))


def of_length(prompts: Sequence[list[int]], length: int) -> list[int]:
    """One prompt of that many tokens: the prompts one after another, cut at the front."""
    joined = list(islice(cycle([token for prompt in prompts for token in prompt]), length))
    last = prompts[-1][-length:]
    return [*joined[: length - len(last)], *last]
