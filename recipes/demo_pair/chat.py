"""Short two-turn conversations whose every answer follows from what was said before."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from recipes.demo_pair import words
from recipes.demo_pair.problem import Decide, Message, Problem, right

SYSTEMS = (
    "You are a helpful assistant.",
    "Answer in one short sentence.",
    "Be brief and exact.",
)
GREETINGS = ("", "Hello! ", "Please help me. ", "Quick question. ", "One more thing. ", "Hi. ")
COUNTS = ("zero", "one", "two", "three", "four", "five", "six")
UNITS = {
    ("minutes", "hours"): 60,
    ("hours", "days"): 24,
    ("days", "weeks"): 7,
    ("months", "years"): 12,
    ("centimeters", "meters"): 100,
    ("meters", "kilometers"): 1000,
    ("seconds", "minutes"): 60,
    ("pieces", "dozens"): 12,
}
VERBS = "play walk talk work cook jump paint dance wait look rest shout climb smile laugh".split()
SPOTS = "garden house river lake forest tower bridge wall road hill".split()
ROLES = "teacher doctor pilot farmer baker singer driver writer".split()

Answer = Callable[[Decide], str]
Family = Callable[[random.Random], tuple["Turn", "Turn"]]


@dataclass(frozen=True)
class Turn:
    """A request, its answer, and the wording of the request for the split."""

    request: str
    answer: Answer
    template: str


def say(rng: random.Random, forms: tuple[str, ...], answer: Answer, **parts: str) -> Turn:
    form = rng.choice(GREETINGS) + rng.choice(forms)
    return Turn(form.format(**parts), answer, form)


def _reverse(rng: random.Random, items: list[str]) -> Turn:
    forms = ("Reverse the list {l}.", "Write the list {l} backwards.", "Give {l} in reverse order.")
    options = [", ".join(items[::-1]), ", ".join(items)]
    return say(rng, forms, lambda decide: decide(options[0], options), l=", ".join(items))


def _keep(rng: random.Random, items: list[str]) -> Turn:
    forms = (
        "Join {l} with and.",
        "Write {l} with the word and.",
        "Turn {l} into a phrase with and.",
    )
    options = [" and ".join(items), " or ".join(items)]
    return say(rng, forms, lambda decide: decide(options[0], options), l=", ".join(items))


def _after_list(rng: random.Random, said: str) -> Turn:
    """A follow-up on a list of words, however it was joined."""
    items = [word for word in said.replace(",", "").split() if word not in {"and", "or"}]
    return rng.choice([_first, _last, _how_many, _replace, _remove])(rng, items)


def _position(
    rng: random.Random, items: list[str], right_item: str, forms: tuple[str, ...]
) -> Turn:
    def answer(decide: Decide) -> str:
        return f"{decide('The word is', ['The word is', 'It is'])} {decide(right_item, items)}."

    return say(rng, forms, answer)


def _first(rng: random.Random, items: list[str]) -> Turn:
    forms = ("Which word comes first now?", "What is the first word of your answer?")
    return _position(rng, items, items[0], forms)


def _last(rng: random.Random, items: list[str]) -> Turn:
    forms = ("Which word comes last now?", "What is the last word of your answer?")
    return _position(rng, items, items[-1], forms)


def _how_many(rng: random.Random, items: list[str]) -> Turn:
    forms = (
        "How many words are that?",
        "Count the words, please.",
        "How many things did you list?",
    )

    def answer(decide: Decide) -> str:
        return f"There are {decide(COUNTS[len(items)], COUNTS[2:])} words."

    return say(rng, forms, answer)


def _replace(rng: random.Random, items: list[str]) -> Turn:
    old, new = rng.choice(items), rng.choice([word for word in words.NOUNS if word not in items])
    forms = ("Now replace {o} with {n}.", "Put {n} in place of {o}.", "Change {o} to {n}.")

    def answer(decide: Decide) -> str:
        swapped = decide(old, items)
        return ", ".join(new if item == swapped else item for item in items)

    return say(rng, forms, answer, o=old, n=new)


def _remove(rng: random.Random, items: list[str]) -> Turn:
    old = rng.choice(items)
    forms = ("Now remove {o}.", "Leave out {o}.", "Write it again without {o}.")

    def answer(decide: Decide) -> str:
        dropped = decide(old, items)
        return ", ".join(item for item in items if item != dropped)

    return say(rng, forms, answer, o=old)


def lists(rng: random.Random) -> tuple[Turn, Turn]:
    """Rearranging a list of words, then a question about the result."""
    items = rng.sample(words.NOUNS, rng.randint(3, 5))
    first = rng.choice([_reverse, _keep])(rng, items)
    return first, _after_list(rng, first.answer(right))


def facts(rng: random.Random, num_people: int = 3) -> tuple[Turn, Turn]:
    """Who lives where: reading a fact off the prompt, then another."""
    people, places = rng.sample(words.PEOPLE, num_people), rng.sample(words.PLACES, num_people)
    told = " ".join(f"{who} lives in {where}." for who, where in zip(people, places, strict=True))
    one, other = rng.sample(range(num_people), 2)
    ask = (
        "{t} Where does {p} live?",
        "{t} In which place does {p} live?",
        "{t} Tell me where {p} lives.",
    )
    also = ("And {p}?", "What about {p}?", "And where does {p} live?")
    back = ("Who lives in {w}?", "And who lives in {w}?", "Whose home is {w}?")

    def lives(i: int) -> Answer:
        return lambda decide: f"{people[i]} lives in {decide(places[i], places)}."

    def owner(decide: Decide) -> str:
        return f"{decide(people[other], people)} lives in {places[other]}."

    second = say(rng, also, lives(other), p=people[other])
    if rng.random() < 0.5:
        second = say(rng, back, owner, w=places[other])
    return say(rng, ask, lives(one), t=told, p=people[one]), second


def units(rng: random.Random) -> tuple[Turn, Turn]:
    """Converting units, then another amount."""
    (small, big), factor = rng.choice([*UNITS.items()])
    one, other = rng.sample(range(2, 13), 2)
    ask = ("How many {s} are {n} {b}?", "Convert {n} {b} to {s}.", "Express {n} {b} in {s}.")
    also = ("And {n} {b}?", "What about {n} {b}?", "Now do the same for {n} {b}.")

    def converted(n: int) -> Answer:
        near = [str(m * factor) for m in (n - 1, n, n + 1)]
        join = ["are", "make"]
        return lambda decide: f"{n} {big} {decide('are', join)} {decide(near[1], near)} {small}."

    first = say(rng, ask, converted(one), s=small, b=big, n=str(one))
    return first, say(rng, also, converted(other), b=big, n=str(other))


def rewriting(rng: random.Random) -> tuple[Turn, Turn]:
    """Putting a sentence into another tense, then another change."""
    who, verb, spot = rng.choice(ROLES), rng.choice(VERBS), rng.choice(SPOTS)
    past = verb + ("d" if verb.endswith("e") else "ed")
    rest, place = f"near the {spot}.", f"near the {spot}"
    forms = {"past": past, "future": f"will {verb}", "present": f"{verb}s"}
    tenses = rng.sample(["past", "future"], 2)
    ask = (
        "Put this into the {x} tense: {s}",
        "Rewrite in the {x} tense: {s}",
        "{s} Say it in the {x} tense.",
    )
    also = ("Now use the {x} tense.", "And in the {x} tense?", "Change that to the {x} tense.")

    def put(tense: str) -> Answer:
        return lambda decide: f"The {who} {forms[decide(tense, [*forms])]} {rest}"

    def negative(decide: Decide) -> str:
        helper = {"past": "did not", "future": "will not", "present": "does not"}
        return f"The {who} {helper[decide(tenses[0], [*helper])]} {verb} {place}."

    sentence = f"The {who} {verb}s {rest}"
    first = say(rng, ask, put(tenses[0]), x=tenses[0], s=sentence)
    second = say(rng, also, put(tenses[1]), x=tenses[1])
    if rng.random() < 0.5:
        second = say(
            rng, ("Now make it negative.", "Deny it.", "Say the opposite with not."), negative
        )
    return first, second


def comparing(rng: random.Random) -> tuple[Turn, Turn]:
    """Which of two numbers is larger, then the other way round."""
    a, b = rng.sample(range(2, 100), 2)
    high, low = str(max(a, b)), str(min(a, b))
    ask = (
        "Which number is {x}, {a} or {b}?",
        "Name the {x} one of {a} and {b}.",
        "{a} or {b}: which is {x}?",
    )
    also = ("And which is {x}?", "Now name the {x} one.", "Which of them is {x}?")

    def bigger(x: str) -> Answer:
        numbers, pair = [high, low], (high, low) if x == "larger" else (low, high)
        return lambda decide: (
            f"{pair[0]} is {x} than {pair[1]}."
            if decide(pair[0], numbers) == pair[0]
            else f"{pair[1]} is {x} than {pair[0]}."
        )

    x, y = rng.sample(["larger", "smaller"], 2)
    return say(rng, ask, bigger(x), x=x, a=str(a), b=str(b)), say(rng, also, bigger(y), x=y)


MIXED = (lists, lists, lists, facts, units, rewriting, comparing)
ANSWERING = (partial(facts, num_people=2), units, rewriting, rewriting)


def problem(rng: random.Random, turn: int, families: Sequence[Family] = MIXED) -> Problem:
    """A conversation up to the answer of the given turn; earlier answers are right ones."""
    family = rng.choice(families)
    first, second = family(rng)
    system: list[Message] = []
    if rng.random() < 0.3:
        system = [{"role": "system", "content": rng.choice(SYSTEMS)}]
    asked = [*system, {"role": "user", "content": first.request}]
    keys = {"request": first.request, "template": f"{_name(family)}|{first.template}"}
    if turn == 1:
        return Problem("chat", asked, first.answer, keys)
    asked += [
        {"role": "assistant", "content": first.answer(right)},
        {"role": "user", "content": second.request},
    ]
    keys["template"] += f"|{second.template}"
    return Problem("chat", asked, second.answer, keys)


def _name(family: Family) -> str:
    return family.func.__name__ if isinstance(family, partial) else family.__name__
