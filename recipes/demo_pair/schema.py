"""Random database schemas: known words in new combinations, made-up words, or unseen words."""

import random
from dataclasses import dataclass
from typing import Literal

from recipes.demo_pair import words

Lexicon = Literal["known", "made_up", "unseen"]


@dataclass(frozen=True)
class Table:
    """A table: its plural name, its columns, and the key of the table it belongs to, if any."""

    name: str
    texts: tuple[str, ...]
    numbers: tuple[str, ...]
    parent_key: str = ""

    @property
    def key(self) -> str:
        """The name of the identifying column."""
        return f"{self.name.removesuffix('s')}_id"

    def create(self) -> str:
        """The CREATE TABLE statement."""
        columns = [f"{self.key} INT", *(f"{name} TEXT" for name in self.texts)]
        columns += [f"{name} INT" for name in self.numbers]
        columns += [f"{self.parent_key} INT"] if self.parent_key else []
        return f"CREATE TABLE {self.name} ({', '.join(columns)});"


@dataclass(frozen=True)
class Schema:
    """Two tables of which the second belongs to the first, and where their words come from."""

    parent: Table
    child: Table
    domain: str
    lexicon: Lexicon

    @property
    def tables(self) -> tuple[Table, Table]:
        """Both tables, parent first."""
        return (self.parent, self.child)

    @property
    def key(self) -> str:
        """What makes two schemas the same for the split: the pair of table names."""
        return f"{self.parent.name} {self.child.name}"

    def create(self) -> str:
        """The CREATE TABLE statements, one a line."""
        return "\n".join(table.create() for table in self.tables)


def random_schema(rng: random.Random, lexicon: Lexicon = "known") -> Schema:
    """A schema of one domain, or of words mixed from all of them."""
    names, texts, numbers, domain = _vocabulary(rng, lexicon)
    parent, child = rng.sample(names, 2)
    first = _table(rng, parent, texts, numbers)
    second = _table(rng, child, texts, numbers, first.key)
    return Schema(first, second, domain, lexicon)


def random_value(rng: random.Random, column: str, lexicon: Lexicon) -> str:
    """A text value from the lexicon."""
    if lexicon == "known":
        return words.value_for(rng, column)
    unseen = lexicon == "unseen"
    return rng.choice(words.UNSEEN_VALUES) if unseen else words.made_up(rng).capitalize()


def _table(
    rng: random.Random, name: str, texts: list[str], numbers: list[str], parent_key: str = ""
) -> Table:
    num_texts, num_numbers = rng.choice([(1, 2), (2, 1), (2, 2), (3, 1)])
    chosen = tuple(rng.sample(texts, num_texts)), tuple(rng.sample(numbers, num_numbers))
    return Table(name, *chosen, parent_key)


def _vocabulary(
    rng: random.Random, lexicon: Lexicon
) -> tuple[list[str], list[str], list[str], str]:
    if lexicon == "made_up":
        made = [*dict.fromkeys(words.made_up(rng) for _ in range(14))][:9]
        return [f"{name}s" for name in made[:2]], made[2:6], made[6:], "made up"
    if lexicon == "unseen":
        unseen = words.UNSEEN_TABLES, words.UNSEEN_TEXTS, words.UNSEEN_NUMBERS
        return [*unseen[0]], [*unseen[1]], [*unseen[2]], "unseen"
    if rng.random() < 0.5:
        return (*_mixed(rng), "mixed")
    domain = rng.choice(words.ALL_DOMAINS)
    return [*domain.tables], [*domain.texts], [*domain.numbers], domain.name


def _mixed(rng: random.Random) -> tuple[list[str], list[str], list[str]]:
    tables, texts, numbers = (rng.sample(words.ALL_DOMAINS, 4) for _ in range(3))
    return (
        [rng.choice(domain.tables) for domain in tables],
        sorted({rng.choice(domain.texts) for domain in texts} | {"name", "title", "type"}),
        sorted({rng.choice(domain.numbers) for domain in numbers} | {"year", "age", "price"}),
    )
