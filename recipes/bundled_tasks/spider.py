"""The bundled mini-Spider: databases with held-out schemas, ten questions each.

`python -m recipes.bundled_tasks.spider` writes it. The rows are drawn again until most
single mistakes in a query change what it finds.
"""

import itertools
import json
import random
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from mtad.demo import heldout
from mtad.tasks import BUNDLED
from mtad.tasks.sql_match import equal_official, is_ordered
from recipes.demo_pair import sql
from recipes.demo_pair.corpus import heldout_keys
from recipes.demo_pair.english import Writer
from recipes.demo_pair.problem import Problem
from recipes.demo_pair.schema import Schema, Table, random_schema, random_value

FOLDER = BUNDLED / "spider"
SEED = 20
NUM_DATABASES, NUM_QUESTIONS = 30, 10
PROMPT = "{schema}\n-- {question}\nSQL:"
MIN_SEEN = 0.9
_NUM_DRAWN, _NUM_FILLS = 10, 60
_COMPARISON = re.compile(r"(?:\w+\.)?(\w+) (?:[<>!]?=|[<>]) ('[^']*'|\d+)")

Rows = list[tuple[Any, ...]]
Tables = dict[str, Rows]


def question(problem: Problem) -> str:
    """The question alone, without schema and frame."""
    return str(problem.prompt).split("\n-- ")[1].removesuffix("\nSQL:")


def problems(rng: random.Random, schema: Schema) -> list[Problem]:
    """Questions with different answers; every second one also follows a held-out template."""
    found: dict[str, Problem] = {}
    known = {item["prompt"] for item in heldout("sql")}
    while len(found) < _NUM_DRAWN:
        problem = _problem(rng, schema)
        is_wanted = len(found) % 2 == 1 or "template" in heldout_keys(problem)
        if is_wanted and problem.prompt not in known:
            found.setdefault(problem.reference, problem)
    return [*found.values()]


def _problem(rng: random.Random, schema: Schema) -> Problem:
    intent = rng.choice(sql.INTENTS)
    asked = intent(Writer(rng, schema, rng.choice(schema.tables)))
    prompt = PROMPT.format(schema=schema.create(), question=f"{asked.question}.")
    keys = {"schema": schema.key, "template": f"{intent.__name__}|{asked.template}"}
    return Problem("sql", prompt, asked.query, keys | {"domain": schema.domain})


def mistakes(problem: Problem) -> Iterator[str]:
    """The query with one decision wrong, for every decision and every wrong option.

    A missing DISTINCT is no mistake, as the official rule takes DISTINCT out.
    """
    options: list[list[str]] = []

    def listed(choice: str, allowed: Any) -> str:
        options.append([other for other in allowed if other != choice and "DISTINCT" not in choice])
        return choice

    problem.answer(listed)
    for place, others in enumerate(options):
        for other in others:
            yield _with(problem, place, other)


def _with(problem: Problem, place: int, option: str) -> str:
    """The query with another option at one of its decisions."""
    places = itertools.count()
    return problem.answer(lambda choice, _: option if next(places) == place else choice)


def fill(rng: random.Random, schema: Schema, asked: list[Problem]) -> Tables:
    """Rows for both tables: the questions' constants and their neighbours among other values."""
    constants: dict[str, list[str]] = {}
    for column, value in _COMPARISON.findall(" ".join(p.reference for p in asked)):
        constants.setdefault(column, []).append(value)
    sizes = {table.name: rng.randint(8, 20) for table in schema.tables}
    parent = range(1, sizes[schema.parent.name] + 1)
    return {
        table.name: _rows(rng, schema, table, sizes[table.name], constants, parent)
        for table in schema.tables
    }


def _rows(
    rng: random.Random,
    schema: Schema,
    table: Table,
    size: int,
    constants: dict[str, list[str]],
    parent: range,
) -> Rows:
    columns: list[list[Any]] = [[*range(1, size + 1)]]
    columns += [_texts(rng, schema, c, size, constants.get(c, [])) for c in table.texts]
    columns += [_numbers(rng, size, constants.get(c, [])) for c in table.numbers]
    columns += [[rng.choice(parent) for _ in range(size)]] if table.parent_key else []
    return [*zip(*columns, strict=True)]


def _texts(
    rng: random.Random, schema: Schema, column: str, size: int, constants: list[str]
) -> list[str]:
    """Few different values, so that groups have several rows."""
    values = [random_value(rng, column, schema.lexicon) for _ in range(rng.randint(3, 7))]
    values += [value.strip("'") for value in constants]
    return [rng.choice(values) for _ in range(size)]


def _numbers(rng: random.Random, size: int, constants: list[str]) -> list[int]:
    """Different values, so that an order by them is the only one."""
    values = {int(value) + step for value in constants for step in (-3, 0, 7)}
    values = set(rng.sample(sorted(values), min(len(values), size // 2)))
    while len(values) < size:
        values.add(rng.choice([rng.randint(1, 99), rng.randint(100, 2000)]))
    return rng.sample(sorted(values), size)


def build(schema: Schema, tables: Tables, path: str) -> sqlite3.Connection:
    """A new database with these rows."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA page_size = 512")
    for table in schema.tables:
        database.execute(table.create().removesuffix(";"))
        places = ", ".join("?" * len(tables[table.name][0]))
        database.executemany(f"INSERT INTO {table.name} VALUES ({places})", tables[table.name])
    database.commit()
    database.execute("VACUUM")
    return database


def seen(database: sqlite3.Connection, problem: Problem) -> float:
    """The share of single mistakes that change the result; 0 where the right query finds nothing.

    A question whose query leaves nothing to decide wrongly counts as 1.
    """
    gold = problem.reference
    wanted = database.execute(gold).fetchall()
    if not any(cell not in (None, 0) for row in wanted for cell in row):
        return 0.0
    caught = [_differs(database, wanted, wrong, is_ordered(gold)) for wrong in mistakes(problem)]
    return sum(caught) / len(caught) if caught else 1.0


def _differs(database: sqlite3.Connection, wanted: Rows, query: str, ordered: bool) -> bool:
    try:
        return not equal_official(wanted, database.execute(query).fetchall(), ordered)
    except sqlite3.OperationalError:
        return True


def database(rng: random.Random, schema: Schema) -> tuple[Tables, list[Problem]]:
    """Rows and questions that go together."""
    while True:
        asked = problems(rng, schema)
        for _ in range(_NUM_FILLS):
            tables = fill(rng, schema, asked)
            with closing(build(schema, tables, ":memory:")) as filled:
                good = [problem for problem in asked if seen(filled, problem) >= MIN_SEEN]
            if len(good) >= NUM_QUESTIONS:
                return tables, good[:NUM_QUESTIONS]


def schemas() -> list[Schema]:
    """Different schemas that training never saw."""
    rng, found = random.Random(f"{SEED}/schemas"), dict[str, Schema]()
    while len(found) < NUM_DATABASES:
        schema = random_schema(rng)
        if "schema" in heldout_keys(Problem("sql", "", lambda _: "", {"schema": schema.key})):
            found.setdefault(schema.key, schema)
    return [*found.values()]


def db_id(schema: Schema) -> str:
    """The name of the schema's database."""
    return f"{schema.parent.name}_{schema.child.name}"


def tables_entry(schema: Schema) -> dict[str, Any]:
    """The schema in the shape of Spider's tables.json."""
    columns: list[tuple[int, str, str]] = [(-1, "*", "text")]
    for number, table in enumerate(schema.tables):
        inside = table.create().split("(", 1)[1].removesuffix(");")
        for name, kind in (column.split() for column in inside.split(", ")):
            columns.append((number, name, {"INT": "number", "TEXT": "text"}[kind]))
    keys = [columns.index((n, t.key, "number")) for n, t in enumerate(schema.tables)]
    foreign = columns.index((1, schema.child.parent_key, "number"))
    return {
        "db_id": db_id(schema),
        "table_names": [table.name for table in schema.tables],
        "table_names_original": [table.name for table in schema.tables],
        "column_names": [[number, name.replace("_", " ")] for number, name, _ in columns],
        "column_names_original": [[number, name] for number, name, _ in columns],
        "column_types": [kind for _, _, kind in columns],
        "primary_keys": keys,
        "foreign_keys": [[foreign, keys[0]]],
    }


def write(folder: Path) -> None:
    """Write the whole set into the folder."""
    entries, dev = [], []
    for schema in schemas():
        rng = random.Random(f"{SEED}/{schema.key}")
        tables, asked = database(rng, schema)
        entries.append(tables_entry(schema))
        dev += [
            {"db_id": db_id(schema), "question": question(p), "query": p.reference} for p in asked
        ]
        path = folder / "database" / db_id(schema) / f"{db_id(schema)}.sqlite"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        build(schema, tables, str(path)).close()
    (folder / "prompt.txt").write_text(f"{PROMPT}\n")
    (folder / "tables.json").write_text(f"{json.dumps(entries, indent=1)}\n")
    (folder / "dev.json").write_text(f"{json.dumps(dev, indent=1)}\n")


if __name__ == "__main__":
    write(FOLDER)
    print(FOLDER)
