"""Bundled prompts: chats of many kinds, put together from templates; no data set's test items.

The second kind, `follow_ups`, needs texts to speak of, for which the target's own answers serve.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

Chat: TypeAlias = list[dict[str, str]]
"""Messages with the keys "role" and "content"."""

Maker: TypeAlias = Callable[[random.Random], str]

_WORDS = {
    name: [" ".join(word.split()) for word in text.split(";")]
    for name, text in tomllib.loads(
        Path(__file__).with_name("words.toml").read_text(encoding="utf-8")
    ).items()
}


def bundled(seed: int) -> Iterator[Chat]:
    """Chats of one turn without end, no two alike; the same ones for a seed."""
    draw, seen = random.Random(seed), set[str]()
    while True:
        text = draw.choice(_MAKERS)(draw)
        if text not in seen:
            seen.add(text)
            yield [{"role": "user", "content": text}]


def follow_ups(answered: Sequence[tuple[Chat, str]], seed: int) -> Iterator[Chat]:
    """Chats about texts that are there: second turns, and questions about one text or three.

    Args:
        answered: chats and the answers to them.
        seed: of the choice.
    """
    draw = random.Random(seed)
    texts = [answer for _, answer in answered]
    for place, (chat, answer) in enumerate(answered):
        if draw.random() < 0.4 and len(chat) == 1:
            again = {"role": "user", "content": draw.choice(_SECOND_TURNS)}
            yield [*chat, {"role": "assistant", "content": answer}, again]
        else:
            before, after = draw.choice(_ABOUT_A_TEXT)
            several = texts[place : place + draw.choice((1, 1, 1, 3))]
            yield [{"role": "user", "content": before + "\n\n".join(several) + after}]


def _filled(*templates: str) -> Maker:
    """Makes a prompt of one of the templates; a slot takes one of the words of its name."""

    def make(draw: random.Random) -> str:
        template = draw.choice(templates)
        picked = {name: draw.choice(choices) for name, choices in _WORDS.items()}
        other = draw.choice([t for t in _WORDS["topics"] if t != picked["topics"]])
        return template.format(**picked, other=other, n=draw.randint(3, 10))

    return make


def _word_problem(draw: random.Random) -> str:
    """A question of arithmetic in a few sentences."""
    one, two = draw.sample(_WORDS["names"], 2)
    goods = draw.choice(_WORDS["goods"])
    a, b, c = draw.randint(12, 90), draw.randint(2, 11), draw.randint(2, 9)
    return draw.choice(
        (
            f"{one} has {a} {goods} and gives {b} of them to {two}. Then {one} buys {c} bags with "
            f"{b} {goods} each. How many {goods} does {one} have now?",
            f"A box holds {b} {goods}. {one} fills {c} boxes and has {a} {goods} left over. How "
            f"many {goods} were there at first?",
            f"{one} earns ${a} a day and spends ${b} on lunch. How much does {one} save in {c} "
            "days? Show your work.",
            f"{two} is {b} years older than {one}. In {c} years {two} will be {a}. How old is "
            f"{one} today?",
            f"A train travels {a} km in {c} hours. How far does it travel in {b} hours at the same "
            "speed? Explain step by step.",
            f"{goods.capitalize()} cost ${b} each. {one} buys {c} of them and pays with a "
            f"${b * c + a} voucher. How much change is there?",
            f"Compute ({a} + {b}) * {c} - {a}. Think step by step.",
        )
    )


_MAKERS: Sequence[Maker] = (
    _filled(
        "What is the idea behind {topics}?",
        "How would you describe {topics}?",
        "Explain {topics} to {audiences}.",
        "Give me {n} facts about {topics}.",
        "Why does {topics} matter?",
        "Compare {topics} and {other}.",
        "What are common misunderstandings about {topics}?",
        "Tell me about {topics} in one paragraph.",
        "Write an outline of a talk about {topics}.",
        "How are {topics} and {other} connected?",
    ),
    _filled(
        "What led to {events}, and what followed?",
        "Describe {events} as a news report.",
        "When was {events}? Who took part?",
    ),
    _filled(
        "Write a short story about {characters} in {places}.",
        "Write a poem about {topics}.",
        "Write a dialogue between {characters} and a stranger in {places}.",
        "Describe {places} in vivid detail.",
        "Begin a novel whose hero is {characters}.",
        "Invent a fable with {characters}, and give its moral.",
    ),
    _filled(
        "Write an email to {roles} about {matters}.",
        "Draft a polite letter to {roles} concerning {matters}.",
        "Write a product description of {products}.",
        "Suggest {n} names for a shop that sells {products}.",
        "Write an advertisement for {products} in three sentences.",
    ),
    _filled(
        "I want to {goals}. Where do I start?",
        "Make a plan of four weeks to {goals}.",
        "List {n} tips to {goals}.",
        "I feel {moods} today. What can I do?",
        "What should I pack for {places}?",
        "Act as a coach. I am {moods} because I cannot {goals}.",
    ),
    _filled(
        "Write a {languages} function that {functions}.",
        "Write a Python function that {functions}. Add a docstring and an example.",
        "How do I write a program that {functions}? Explain the code.",
        "Write an SQL query that returns {queries}.",
        "Write a unit test for a Python function that {functions}.",
    ),
    _filled(
        "Translate into {tongues}: {sentences}",
        "Translate into English: {foreign}",
        "What does this mean in English? {foreign}",
        "Rewrite this sentence in a formal style: {sentences}",
        "Correct the grammar, if it needs any: {sentences}",
        "Turn this into a question: {sentences}",
        "List the nouns and the verbs of this sentence: {sentences}",
    ),
    _word_problem,
    _word_problem,
)

_SECOND_TURNS = (
    "Can you make that shorter?",
    "Give an example.",
    "Now explain it in simpler words.",
    "What would you add?",
    "Write it again in the style of a newspaper.",
    "Are you sure? Check it once more.",
    "Turn that into a list.",
)

_ABOUT_A_TEXT = (
    ("Write a summary of this text in two sentences.\n\n", ""),
    ("", "\n\nWhat is the main point of the text above?"),
    ("Read the text and answer the question.\n\nText: ", "\n\nQuestion: What is it about?"),
    ("Pick out the most important words of this text: ", ""),
    ("Use the following notes.\n\n", "\n\nWhat do the notes say, and what do they leave out?"),
    ("Give the text below a title.\n\n", ""),
)
