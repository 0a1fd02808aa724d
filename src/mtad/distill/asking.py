"""What the target is asked next: bundled prompts, its own, and prompts about its answers.

An instruct model that is given the beginning of a user's turn writes one: its own prompts are of
all the kinds that it was taught, and no two are alike (Xu et al., 2024, "Magpie"). Everything
follows from a seed and the answers that are there, so that a run that was killed asks the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from mtad.api.pair import ModelPair
from mtad.distill.prompts import Chat, bundled, follow_ups
from mtad.methods.autoregressive import Autoregressive

KINDS = ("bundled", "own", "follow-up", "own", "own", "follow-up", "bundled", "own", "follow-up")
"""Of the batches, in turns; nine of them, so that every temperature gets all kinds."""

TURNS = (True, False, True, False, False)
"""Of five batches, those with the user's prompts where other kinds take turns with them."""

_MARK = "§user§"
_LONGEST = 120
"""Tokens of a prompt of the target's own; longer ones seldom ask anything."""


def next_chats(
    pair: ModelPair,
    answered: Sequence[tuple[Chat, str]],
    size: int,
    seed: int,
    given: Sequence[Chat] = (),
) -> list[Chat]:
    """The prompts of the next batch.

    Args:
        pair: its target may be asked for prompts.
        answered: all prompts so far and the answers to them.
        size: prompts of a batch.
        seed: of the choice.
        given: the user's prompts, each asked once, in two of five batches while there are some.
    """
    batch = len(answered) // size
    others, num_given = batch, 0
    if given:
        rounds, turn = divmod(batch, len(TURNS))
        num_given = size * (rounds * sum(TURNS) + sum(TURNS[:turn]))
        others = batch - min(num_given, len(given)) // size
        if TURNS[turn] and num_given + size <= len(given):
            return list(given[num_given : num_given + size])
    kind = KINDS[others % len(KINDS)]
    found: list[Chat] = []
    if kind == "follow-up":
        found = list(follow_ups(answered[-2 * size :], seed + batch))
    elif kind == "own":
        found = own_prompts(pair, size + size // 4, seed + batch)
    missing = max(0, size - len(found))
    start = len(answered)
    return found[:size] + list(itertools.islice(bundled(seed), start, start + missing))


def own_prompts(pair: ModelPair, count: int, seed: int) -> list[Chat]:
    """Users' turns that the target writes; those that it doesn't finish are left out.

    None where it has no chat template.
    """
    tokenizer: Any = pair.tokenizer
    around = _around_a_user(tokenizer)
    if around is None:
        return []
    before, after = around
    ids = tokenizer(before, add_special_tokens=False)["input_ids"]
    ends = after.split()[:1]
    completions = pair.generate(
        [ids] * count,
        method=Autoregressive(),
        temperature=1.0,
        top_p=0.98,
        max_new_tokens=_LONGEST,
        seed=[seed * 1_000_003 + i for i in range(count)],
        max_batch_size=count,
        guard=False,
        stop=ends,
    )
    texts = [done.text.strip() for done in completions if done.finish_reason == "stop"]
    return [[{"role": "user", "content": text}] for text in dict.fromkeys(texts) if len(text) > 8]


def _around_a_user(tokenizer: Any) -> tuple[str, str] | None:
    """What the chat template writes before a user's words and after them."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    chat = [{"role": "user", "content": _MARK}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    before, mark, after = text.partition(_MARK)
    return (before, after) if mark and before else None
