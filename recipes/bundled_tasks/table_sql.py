"""The bundled questions about one table: twelve tables, fifty questions each.

Values differ within a column of numbers, so that the largest is one row. Rewrite the files with

    python -m recipes.bundled_tasks.table_sql
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtad.tasks import BUNDLED
from mtad.tasks.sql_run import built
from recipes.bundled_tasks.wordlists import CITIES, COLOURS, EVENTS, FIRMS, GOODS, LAST, VENUES
from recipes.bundled_tasks.written import json_lines, write_files

NUM_QUESTIONS, NUM_EXAMPLES, NUM_ROWS = 50, 4, 12
SEED = 0

Asked = dict[str, str]


@dataclass(frozen=True)
class Theme:
    """A table.

    Attributes:
        table: its name, which is the plural of what a row is.
        label: the column that names a row, and its values.
        kinds: columns of text with few values.
        numbers: columns of whole numbers with their range.
    """

    table: str
    label: tuple[str, list[str]]
    kinds: dict[str, list[str]]
    numbers: dict[str, tuple[int, int]]

    @property
    def create(self) -> str:
        texts = ", ".join(f"{name} TEXT" for name in [self.label[0], *self.kinds])
        numbers = ", ".join(f"{name} INTEGER" for name in self.numbers)
        return f"CREATE TABLE {self.table} ({texts}, {numbers});"

    def rows(self, rng: random.Random) -> list[list[Any]]:
        """As many rows as labels, twelve at most; every value of a kind occurs."""
        labels = rng.sample(self.label[1], min(NUM_ROWS, len(self.label[1])))
        size = len(labels)
        columns = [labels]
        for values in self.kinds.values():
            column = [values[number % len(values)] for number in range(size)]
            rng.shuffle(column)
            columns.append(column)
        numbers = [rng.sample(range(low, high), size) for low, high in self.numbers.values()]
        return [list(row) for row in zip(*columns, *numbers, strict=True)]


def words(text: str) -> list[str]:
    return text.split()


THEMES = (
    Theme(
        "books",
        ("title", [f"The {c.title()} {n}" for c in COLOURS for n in ("House", "River")]),
        {"genre": words("poetry history crime fantasy"), "language": words("English Spanish")},
        {"pages": (80, 700), "year": (1950, 2020)},
    ),
    Theme(
        "employees",
        ("name", LAST),
        {"department": words("sales support finance"), "city": words("Leeds Porto Graz")},
        {"salary": (2400, 7000), "age": (20, 64)},
    ),
    Theme(
        "animals",
        ("name", words("Rex Luna Milo Nala Otis Pip Ruby Sam Tess Ivy Max Zoe Coco Finn")),
        {"species": words("dog cat rabbit"), "color": words("black white brown")},
        {"age": (1, 20), "weight": (1, 60)},
    ),
    Theme(
        "products",
        ("name", GOODS),
        {"category": words("kitchen garden office"), "color": words("red green blue")},
        {"price": (3, 200), "stock": (5, 500)},
    ),
    Theme(
        "hotels",
        ("name", [f"Hotel {name}" for name in LAST]),
        {"city": words("Lisbon Turin Cork"), "view": words("sea park street")},
        {"rooms": (10, 300), "price": (50, 400)},
    ),
    Theme(
        "films",
        ("title", [f"Return to {city}" for city in CITIES]),
        {"genre": words("drama comedy horror"), "country": words("France India Japan")},
        {"minutes": (75, 190), "year": (1960, 2024)},
    ),
    Theme(
        "flights",
        ("code", [f"MX{number}" for number in range(101, 160)]),
        {"origin": words("Izmir Quito Perth"), "destination": words("Dakar Osaka Brno")},
        {"seats": (40, 300), "minutes": (45, 800)},
    ),
    Theme(
        "players",
        ("name", LAST),
        {"team": words("Lions Hawks Bears"), "position": words("goalkeeper defender forward")},
        {"goals": (0, 40), "age": (17, 39)},
    ),
    Theme(
        "events",
        ("title", EVENTS),
        {"venue": VENUES[:3], "day": words("Friday Saturday Sunday")},
        {"visitors": (20, 900), "fee": (2, 60)},
    ),
    Theme(
        "companies",
        ("name", FIRMS),
        {"sector": words("food energy media"), "city": words("Ghent Split Halifax")},
        {"employees": (10, 2000), "founded": (1900, 2020)},
    ),
    Theme(
        "students",
        ("name", words("Ada Ben Cleo Dan Eve Finn Gus Hope Ian Jade Kim Leo Mia Ned Ola")),
        {"subject": words("physics biology music"), "school": words("Northside Hilltop")},
        {"grade": (50, 100), "absences": (0, 30)},
    ),
    Theme(
        "cars",
        (
            "model",
            [f"{name} {n}" for n in (1, 2) for name in words("Arrow Bolt Comet Dune Echo Fox")],
        ),
        {"maker": words("Norda Velta Quill"), "fuel": words("petrol diesel electric")},
        {"price": (9000, 60000), "power": (60, 400)},
    ),
)


def candidates(theme: Theme, rows: list[list[Any]]) -> Iterator[Asked]:
    """All questions about a table."""
    for kind, values in theme.kinds.items():
        yield from about_kind(theme, kind, values)
    for place, number in enumerate(theme.numbers, start=1 + len(theme.kinds)):
        yield from about_number(theme, number, sorted(row[place] for row in rows))


def about_kind(theme: Theme, kind: str, values: list[str]) -> Iterator[Asked]:
    """Questions about a column of text."""
    table, label = theme.table, theme.label[0]
    yield _asked(
        f"What are the different values of {kind}?", f"SELECT DISTINCT {kind} FROM {table};"
    )
    yield _asked(
        f"How many {table} are there for each {kind}?",
        f"SELECT {kind}, COUNT(*) FROM {table} GROUP BY {kind};",
    )
    for value in values:
        where = f"FROM {table} WHERE {kind} = '{value}';"
        yield _asked(
            f"Show the {label} of all {table} whose {kind} is {value}.", f"SELECT {label} {where}"
        )
        yield _asked(
            f"How many {table} are there whose {kind} is {value}?", f"SELECT COUNT(*) {where}"
        )
        for number in theme.numbers:
            yield _asked(
                f"What is the average of {number} for the {table} whose {kind} is {value}?",
                f"SELECT AVG({number}) {where}",
            )


def about_number(theme: Theme, number: str, known: list[int]) -> Iterator[Asked]:
    """Questions about a column of numbers, whose values are `known` in their order."""
    table, label = theme.table, theme.label[0]
    for word, function in {"largest": "MAX", "smallest": "MIN"}.items():
        yield _asked(
            f"What is the {word} {number} of all {table}?",
            f"SELECT {function}({number}) FROM {table};",
        )
    for word, order in {"largest": " DESC", "smallest": ""}.items():
        yield _asked(
            f"Show the {label} of the one of the {table} with the {word} {number}.",
            f"SELECT {label} FROM {table} ORDER BY {number}{order} LIMIT 1;",
        )
    yield _asked(
        f"Show the {label} of all {table}, sorted by {number} from small to large.",
        f"SELECT {label} FROM {table} ORDER BY {number};",
    )
    for bound in known[1:-1:2]:
        for word, sign in {"more": ">", "less": "<"}.items():
            where = f"FROM {table} WHERE {number} {sign} {bound};"
            yield _asked(
                f"Show the {label} of all {table} whose {number} is {word} than {bound}.",
                f"SELECT {label} {where}",
            )
            yield _asked(
                f"How many {table} are there whose {number} is {word} than {bound}?",
                f"SELECT COUNT(*) {where}",
            )


def _asked(question: str, query: str) -> Asked:
    return {"question": question, "query": query}


def made(theme: Theme) -> tuple[dict[str, Any], list[Asked]]:
    """The entry of a table with its solved examples, and its questions."""
    rng = random.Random(f"table_sql/{SEED}/{theme.table}")
    rows = theme.rows(rng)
    entry = {"table": theme.table, "create": theme.create, "rows": rows}
    asked = [one for one in candidates(theme, rows) if _finds(entry, one["query"])]
    rng.shuffle(asked)
    shown, rest = asked[:NUM_EXAMPLES], asked[NUM_EXAMPLES:][:NUM_QUESTIONS]
    return {**entry, "examples": shown}, [{"table": theme.table, **one} for one in rest]


def _finds(entry: dict[str, Any], query: str) -> bool:
    """Whether the query finds anything."""
    with built(entry["create"], entry["table"], entry["rows"]) as database:
        return bool(database.execute(query).fetchall())


def files() -> dict[str, str]:
    """The content of each file, by its path in the folder of the task."""
    both = [made(theme) for theme in THEMES]
    questions = (question for _, asked in both for question in asked)
    return {
        "tables.jsonl": json_lines(entry for entry, _ in both),
        "test.jsonl": json_lines(questions),
    }


def write(folder: Path) -> None:
    """Write the files of the task."""
    write_files(folder, files())


if __name__ == "__main__":
    write(BUNDLED / "table_sql")
