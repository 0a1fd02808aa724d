"""Rows for the tables of a held-out question, chosen so that the right query finds something."""

import random
import re
import sqlite3

from recipes.demo_pair.schema import Lexicon, Schema, Table, random_value

NUM_ROWS = 5


def fill(rng: random.Random, schema: Schema, query: str) -> str | None:
    """CREATE and INSERT statements under which the query has a result, or None after 30 tries."""
    for _ in range(30):
        statements = "\n".join([schema.create(), *_inserts(rng, schema, query)])
        if _finds_something(statements, query):
            return statements
    return None


def _inserts(rng: random.Random, schema: Schema, query: str) -> list[str]:
    texts = re.findall(r"'([^']*)'", query)
    numbers = [int(number) for number in re.findall(r" (\d+)", query)]
    inserts = []
    for table in schema.tables:
        rows = [_row(rng, table, n, schema.lexicon, texts, numbers) for n in range(1, NUM_ROWS + 1)]
        inserts.append(f"INSERT INTO {table.name} VALUES {', '.join(rows)};")
    return inserts


def _row(
    rng: random.Random,
    table: Table,
    key: int,
    lexicon: Lexicon,
    texts: list[str],
    numbers: list[int],
) -> str:
    cells = [str(key)]
    for column in table.texts:
        pool = [random_value(rng, column, lexicon), *texts]
        cells.append(f"'{rng.choice(pool)}'")
    for _ in table.numbers:
        near = [rng.choice(numbers) + rng.choice([-3, -1, 0, 0, 1, 7])] if numbers else []
        cells.append(str(rng.choice([rng.randint(1, 99), rng.randint(100, 2000), *near])))
    cells += [str(rng.randint(1, NUM_ROWS))] if table.parent_key else []
    return f"({', '.join(cells)})"


def _finds_something(statements: str, query: str) -> bool:
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(statements)
        found = connection.execute(query).fetchall()
    finally:
        connection.close()
    return bool(found) and any(cell not in (None, 0) for row in found for cell in row)
