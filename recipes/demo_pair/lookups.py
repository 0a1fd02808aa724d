"""Chats about small tables of common knowledge: a question, then the same about something else."""

import random
from dataclasses import dataclass

from recipes.demo_pair.chat import Answer, Turn, say
from recipes.demo_pair.problem import Decide

ALSO = ("And {a}?", "What about {a}?", "Now the same for {a}.")


@dataclass(frozen=True)
class Lookup:
    """Pairs of a key and what belongs to it, the ways to ask, and the sentence that answers."""

    forms: tuple[str, ...]
    answer: str
    pairs: dict[str, str]


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split(":") for pair in text.split())


def _successors(text: str) -> dict[str, str]:
    names = text.split()
    return dict(zip(names, names[1:] + names[:1], strict=True))


LOOKUPS = (
    Lookup(
        (
            "What is the opposite of {a}?",
            "Name the opposite of {a}.",
            "Which word is opposed to {a}?",
        ),
        "The opposite of {a} {is_} {b}.",
        _pairs(
            "hot:cold big:small high:low good:bad left:right full:empty open:closed old:new "
            "early:late fast:slow hard:soft wet:dry light:dark loud:quiet near:far rich:poor "
            "strong:weak thick:thin true:false young:old"
        ),
    ),
    Lookup(
        ("Which day comes after {a}?", "What day follows {a}?", "Name the day after {a}."),
        "The day after {a} {is_} {b}.",
        _successors("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    ),
    Lookup(
        ("Which month comes after {a}?", "What month follows {a}?", "Name the month after {a}."),
        "The month after {a} {is_} {b}.",
        _successors(
            "January February March April May June July August September October November December"
        ),
    ),
    Lookup(
        ("What is the capital of {a}?", "Name the capital of {a}.", "Which city governs {a}?"),
        "The capital of {a} {is_} {b}.",
        _pairs(
            "France:Paris England:London Italy:Rome Germany:Berlin Spain:Madrid Norway:Oslo "
            "Austria:Vienna Portugal:Lisbon Japan:Tokyo Egypt:Cairo India:Delhi Greece:Athens "
            "Peru:Lima Cuba:Havana Poland:Warsaw Kenya:Nairobi"
        ),
    ),
    Lookup(
        (
            "What is a young {a} called?",
            "Name the young of a {a}.",
            "What do you call a young {a}?",
        ),
        "A young {a} {is_} a {b}.",
        _pairs("dog:puppy cat:kitten cow:calf sheep:lamb horse:foal goat:kid bear:cub hen:chick"),
    ),
    Lookup(
        ("What is the past tense of {a}?", "Put {a} into the past.", "Give the past form of {a}."),
        "The past of {a} {is_} {b}.",
        _pairs(
            "go:went see:saw eat:ate come:came give:gave take:took run:ran write:wrote sing:sang "
            "know:knew make:made find:found think:thought bring:brought fly:flew swim:swam"
        ),
    ),
    Lookup(
        ("What is {a}?", "How much is {a}?", "Work out {a}."),
        "The sum {a} {is_} {b}.",
        {f"{x} plus {y}": str(x + y) for x in range(1, 10) for y in range(1, 10)},
    ),
)


def looking_up(rng: random.Random) -> tuple[Turn, Turn]:
    """Two questions about one table."""
    lookup = rng.choice(LOOKUPS)
    one, other = rng.sample([*lookup.pairs], 2)
    first = say(rng, lookup.forms, _answer(lookup, one), a=one)
    return first, say(rng, ALSO, _answer(lookup, other), a=other)


def _answer(lookup: Lookup, key: str) -> Answer:
    options = sorted({*lookup.pairs.values()})

    def answer(decide: Decide) -> str:
        is_ = decide("is", ["is", "must be"])
        return lookup.answer.format(a=key, b=decide(lookup.pairs[key], options), is_=is_)

    return answer
