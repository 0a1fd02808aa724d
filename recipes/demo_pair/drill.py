"""Copying drills: chats that ask for a list of any words to be repeated.

Reading a word off the prompt and writing it down again is what all tasks share, and what small
models learn last; long lists teach it quickly.
"""

import random

from recipes.demo_pair import words
from recipes.demo_pair.problem import Problem

REQUESTS = ("Repeat {l}.", "Say again: {l}.", "Copy this list: {l}.", "{l} - write that again.")
KNOWN = words.NOUNS + words.PEOPLE + words.PLACES + words.KINDS


def problem(rng: random.Random) -> Problem:
    """A list of known words, made-up words and numbers, and the same list as the answer."""
    listed = ", ".join(_item(rng) for _ in range(rng.randint(4, 14)))
    request = rng.choice(REQUESTS).format(l=listed)
    keys = {"request": request}
    return Problem("chat", [{"role": "user", "content": request}], lambda decide: listed, keys)


def _item(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.6:
        return rng.choice(KNOWN)
    return words.made_up(rng) if kind < 0.8 else str(rng.randint(1, 999))
