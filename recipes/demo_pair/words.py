"""The vocabulary of the synthetic worlds: domains, values, made-up words, and the split by hash.

Nothing here knows about prompts, tokens or models.
"""

import random
import zlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Domain:
    """A small world: plural table names, columns that hold text, columns that hold numbers."""

    name: str
    tables: tuple[str, ...]
    texts: tuple[str, ...]
    numbers: tuple[str, ...]


def _domain(name: str, tables: str, texts: str, numbers: str) -> Domain:
    return Domain(name, tuple(tables.split()), tuple(texts.split()), tuple(numbers.split()))


DOMAINS = (
    _domain(
        "music",
        "singers concerts albums songs bands festivals",
        "name genre country label language",
        "age year sales duration rating",
    ),
    _domain(
        "school",
        "students teachers courses classes exams schools",
        "name subject city grade major",
        "age score credits year hours",
    ),
    _domain(
        "shop",
        "customers orders products stores brands coupons",
        "name category city status color",
        "price stock quantity discount weight",
    ),
    _domain(
        "sport",
        "players teams matches coaches stadiums leagues",
        "name position country sponsor city",
        "age goals points capacity salary",
    ),
    _domain(
        "travel",
        "airlines flights airports pilots hotels tourists",
        "name city country status class",
        "price distance duration rating capacity",
    ),
    _domain(
        "library",
        "books authors readers publishers loans branches",
        "title name genre language city",
        "pages year price copies age",
    ),
    _domain(
        "hospital",
        "doctors patients nurses wards clinics visits",
        "name gender city specialty status",
        "age cost duration beds salary",
    ),
    _domain(
        "company",
        "employees departments managers projects offices clients",
        "name role city status level",
        "salary age budget bonus hours",
    ),
    _domain(
        "film",
        "movies actors directors cinemas studios tickets",
        "title name genre country language",
        "year length budget rating price",
    ),
    _domain(
        "farm",
        "farmers fields animals crops barns tractors",
        "name species region color type",
        "weight area age yield price",
    ),
    _domain(
        "bank",
        "accounts branches loans cards clients payments",
        "name type city status currency",
        "balance amount rate year fees",
    ),
    _domain(
        "garage",
        "cars drivers mechanics races engines repairs",
        "name model brand color country",
        "speed price weight year power",
    ),
    _domain(
        "food",
        "restaurants recipes cooks dishes waiters menus",
        "name cuisine city style taste",
        "price calories rating seats minutes",
    ),
    _domain(
        "space",
        "planets stars rockets missions astronauts moons",
        "name type country agency color",
        "mass distance radius year crew",
    ),
)
HELDOUT_DOMAINS = (
    _domain(
        "museum",
        "museums artists paintings visitors tours guides",
        "title name style country theme",
        "year price height width age",
    ),
    _domain(
        "harbor",
        "ships captains harbors cargos sailors islands",
        "name type flag region status",
        "length weight speed depth crew",
    ),
    _domain(
        "city",
        "buildings streets parks bridges buses citizens",
        "name owner material district color",
        "height length floors age cost",
    ),
)
ALL_DOMAINS = DOMAINS + HELDOUT_DOMAINS

PEOPLE = tuple(
    "Anna Ben Clara David Emma Frank Grace Henry Ivy Jack Kate Leo Mia Noah Olga Paul Rosa Sam "
    "Tina Victor Wendy Adam Bella Carl Diana Eric Fiona George Helen Ian Julia Kevin Laura Mark "
    "Nina Oscar Peter Ruth Simon Tara".split()
)
PLACES = tuple(
    "Paris London Rome Berlin Madrid Oslo Vienna Lisbon Tokyo Cairo Delhi Boston Dallas Denver "
    "Miami Quebec France Spain Italy Germany Norway Japan India Brazil Canada Mexico Kenya Chile "
    "Poland Greece Sweden Turkey Austria Peru Egypt China".split()
)
KINDS = tuple(
    "Red Blue Green Black White Gold Silver Large Small Modern Classic Open Closed Active New Old "
    "Public Private Simple Royal North South East West Basic Premium Junior Senior Rock Jazz Pop "
    "Drama Comedy Summer Winter Spring".split()
)
NOUNS = tuple(
    "apple pear plum grape lemon melon bread milk cheese honey river lake hill forest garden house "
    "door window table chair lamp book pen paper cup plate spoon knife coat hat shoe glove dog cat "
    "horse sheep cow goat bird fish tree rose stone sand rain snow wind cloud sun moon train boat "
    "bike car road bridge tower wall clock bell drum flute".split()
)
UNSEEN_TABLES = tuple(
    "glaciers violins lawyers tunnels kittens deserts wizards jewels zeppelins hunters".split()
)
UNSEEN_TEXTS = tuple("nickname texture emblem dialect fabric motto habitat profession".split())
UNSEEN_NUMBERS = tuple("altitude voltage humidity wages latitude torque turnover ranking".split())
UNSEEN_VALUES = tuple(
    "Zurich Bogota Quincy Humbert Velvet Turquoise Falcon Jupiter Wolfgang Oxford".split()
)

_ONSETS = "b bl br c ch d dr f fl g gl gr h j k kl l m n p pl pr qu r s sh sk st t tr v w z".split()
_VOWELS = "a e i o u ai ea oo ou".split()
_CODAS = ["", "b", "ck", "d", "g", "l", "m", "n", "nd", "p", "r", "rk", "st", "t", "x"]
_UNSEEN = {word.lower() for word in UNSEEN_TABLES + UNSEEN_TEXTS + UNSEEN_NUMBERS + UNSEEN_VALUES}


def made_up(rng: random.Random) -> str:
    """A pronounceable word of two syllables that means nothing, never one of the unseen words."""
    syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(2)]
    word = "".join(syllables)
    return word if word not in _UNSEEN and word + "s" not in _UNSEEN else made_up(rng)


def bucket(key: str, num_buckets: int) -> int:
    """A stable hash of `key` in 0 … num_buckets − 1; Python's own hash changes with each run."""
    return zlib.crc32(key.encode()) % num_buckets


def value_for(rng: random.Random, column: str) -> str:
    """A text value that suits the column: a person, a place, or a kind of thing."""
    if column in {"name", "owner"}:
        return rng.choice(PEOPLE)
    return rng.choice(PLACES if column in {"city", "country", "region", "flag"} else KINDS)
