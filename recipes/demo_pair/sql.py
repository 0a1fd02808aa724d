"""Text-to-SQL in Spider's form: a schema, a question in English, one SQLite query."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from recipes.demo_pair.english import AGGREGATES, EXTREMES, ORDERS, Condition, Writer
from recipes.demo_pair.problem import Decide, Problem
from recipes.demo_pair.schema import Lexicon, random_schema


@dataclass(frozen=True)
class Asked:
    """A question before it is wrapped in a prompt: its text, its query, the template it follows."""

    question: str
    query: Callable[[Decide], str]
    template: str


def where(condition: Condition | None, decide: Decide, prefix: str = "") -> str:
    """The WHERE clause, empty without a condition."""
    return f" WHERE {condition.sql(decide, prefix)}" if condition else ""


def _english(condition: Condition | None) -> str:
    return condition.english if condition else ""


def select(writer: Writer) -> Asked:
    """One column of the rows that match."""
    rng, table = writer.rng, writer.table
    condition, column = writer.condition(table, 0.8), rng.choice(table.texts + table.numbers)
    form, key = writer.form("the {c} of all {t}{w}", "the {c} of the {t}{w}", "the {c} for {t}{w}")
    columns = table.texts + table.numbers

    def query(decide: Decide) -> str:
        return f"SELECT {decide(column, columns)} FROM {table.name}{where(condition, decide)}"

    return Asked(form.format(c=column, t=table.name, w=_english(condition)), query, key)


def select_two(writer: Writer) -> Asked:
    """Two columns of the rows that match."""
    rng, table = writer.rng, writer.table
    condition, columns = writer.condition(table, 0.6), table.texts + table.numbers
    first, second = rng.sample(columns, 2)
    form, key = writer.form("the {c} and {d} of all {t}{w}", "the {c} and the {d} of the {t}{w}")

    def query(decide: Decide) -> str:
        shown = f"{decide(first, columns)}, {decide(second, columns)}"
        return f"SELECT {shown} FROM {table.name}{where(condition, decide)}"

    return Asked(form.format(c=first, d=second, t=table.name, w=_english(condition)), query, key)


def distinct(writer: Writer) -> Asked:
    """The different values of a column."""
    table, condition = writer.table, writer.condition(writer.table, 0.5)
    column = writer.rng.choice(table.texts)
    form, key = writer.form("the different {c} of the {t}{w}", "every distinct {c} of all {t}{w}")

    def query(decide: Decide) -> str:
        shown = f"SELECT {decide('DISTINCT ', ['DISTINCT ', ''])}{decide(column, table.texts)}"
        return f"{shown} FROM {table.name}{where(condition, decide)}"

    return Asked(form.format(c=column, t=table.name, w=_english(condition)), query, key)


def count(writer: Writer) -> Asked:
    """How many rows match."""
    table, condition = writer.table, writer.condition(writer.table, 0.9)
    form, key = writer.form(
        "the number of {t}{w}", "how many {t} there are{w}", "the count of {t}{w}"
    )

    def query(decide: Decide) -> str:
        tables = [table.name for table in writer.schema.tables]
        return f"SELECT COUNT(*) FROM {decide(table.name, tables)}{where(condition, decide)}"

    return Asked(form.format(t=table.name, w=_english(condition)), query, key)


def aggregate(writer: Writer) -> Asked:
    """The average, total, highest or lowest number of the rows that match."""
    rng, table = writer.rng, writer.table
    function, column = rng.choice([*AGGREGATES]), rng.choice(table.numbers)
    condition, word = writer.condition(table, 0.6), rng.choice(AGGREGATES[function])
    form, key = writer.form("the {a} {n} of all {t}{w}", "the {a} {n} of the {t}{w}")

    def query(decide: Decide) -> str:
        shown = f"{decide(function, [*AGGREGATES])}({decide(column, table.numbers)})"
        return f"SELECT {shown} FROM {table.name}{where(condition, decide)}"

    question = form.format(a=word, n=column, t=table.name, w=_english(condition))
    return Asked(question, query, f"{key}|{word}")


def top(writer: Writer) -> Asked:
    """The row or rows with the largest or smallest number."""
    rng, table = writer.rng, writer.table
    column, number, order = (
        rng.choice(table.texts),
        rng.choice(table.numbers),
        rng.choice([*ORDERS]),
    )
    limit, phrase = rng.choice([1, 1, 2, 3, 4, 5]), rng.choice(EXTREMES[order])
    one, many = "the {c} of the one of the {t} {p}", "the {c} of the {k} {t} {p}"
    form, key = writer.form(one if limit == 1 else many)

    def query(decide: Decide) -> str:
        by = f"ORDER BY {decide(number, table.numbers)} {decide(order, [*ORDERS])}"
        return f"SELECT {decide(column, table.texts)} FROM {table.name} {by} LIMIT {limit}"

    question = form.format(c=column, t=table.name, k=limit, p=phrase.format(n=number))
    return Asked(question, query, f"{key}|{phrase}")


def ordered(writer: Writer) -> Asked:
    """A column of all rows, sorted."""
    rng, table = writer.rng, writer.table
    column, number, order = (
        rng.choice(table.texts),
        rng.choice(table.numbers),
        rng.choice([*ORDERS]),
    )
    phrase, condition = rng.choice(ORDERS[order]), writer.condition(table, 0.3)
    form, key = writer.form(
        "the {c} of all {t}{w} sorted {p}", "the {c} of the {t}{w}, ordered {p}"
    )

    def query(decide: Decide) -> str:
        shown = f"SELECT {decide(column, table.texts)} FROM {table.name}{where(condition, decide)}"
        return f"{shown} ORDER BY {decide(number, table.numbers)} {decide(order, [*ORDERS])}"

    filled = phrase.format(n=number)
    question = form.format(c=column, t=table.name, w=_english(condition), p=filled)
    return Asked(question, query, f"{key}|{phrase}")


def grouped(writer: Writer) -> Asked:
    """A count or an aggregate for each value of a column."""
    rng, table = writer.rng, writer.table
    column, number = rng.choice(table.texts), rng.choice(table.numbers)
    word, function = rng.choice([(w, f) for f, ws in AGGREGATES.items() for w in ws])
    counts = rng.random() < 0.5
    what = "number of {t}" if counts else "{a} {n} of the {t}"
    form, key = writer.form(f"the {what} for each {{c}}", f"the {what} per {{c}}")

    def query(decide: Decide) -> str:
        group = decide(column, table.texts)
        named = "" if counts else decide(function, [*AGGREGATES])
        shown = "COUNT(*)" if counts else f"{named}({decide(number, table.numbers)})"
        return f"SELECT {group}, {shown} FROM {table.name} GROUP BY {group}"

    question = form.format(t=table.name, c=column, a=word, n=number)
    return Asked(question, query, f"{key}|{word}")


def having(writer: Writer) -> Asked:
    """The values of a column that occur more or less often than a number."""
    rng, table = writer.rng, writer.table
    column, limit = rng.choice(table.texts), rng.randint(1, 3)
    operator, word = rng.choice([(">", "more than"), ("<", "fewer than"), (">=", "at least")])
    form, key = writer.form("each {c} that has {o} {k} {t}", "every {c} shared by {o} {k} {t}")

    def query(decide: Decide) -> str:
        group = decide(column, table.texts)
        test = f"COUNT(*) {decide(operator, ['>', '<', '>='])} {limit}"
        return f"SELECT {group} FROM {table.name} GROUP BY {group} HAVING {test}"

    question = form.format(c=column, o=word, k=limit, t=table.name)
    return Asked(question, query, f"{key}|{word}")


def beyond_average(writer: Writer) -> Asked:
    """A column of the rows above or below the average, by a subquery."""
    rng, table = writer.rng, writer.table
    column, number = rng.choice(table.texts), rng.choice(table.numbers)
    operator, word = rng.choice([(">", "above"), ("<", "below")])
    form, key = writer.form(
        "the {c} of {t} whose {n} is {o} the average", "the {c} of all {t} {o} the average {n}"
    )

    def query(decide: Decide) -> str:
        chosen, compare = decide(number, table.numbers), decide(operator, [">", "<"])
        test = f"{chosen} {compare} (SELECT AVG({chosen}) FROM {table.name})"
        return f"SELECT {decide(column, table.texts)} FROM {table.name} WHERE {test}"

    question = form.format(c=column, t=table.name, n=number, o=word)
    return Asked(question, query, f"{key}|{word}")


def joined(writer: Writer) -> Asked:
    """A column of the child table under a condition on its parent."""
    parent, child = writer.schema.tables
    condition = writer.condition(parent, 1.0)
    column = writer.rng.choice(child.texts + child.numbers)
    form, key = writer.form("the {c} of {t} that belong to {p}{w}", "the {c} of the {t} of {p}{w}")

    def query(decide: Decide) -> str:
        shown = f"{child.name}.{decide(column, child.texts + child.numbers)}"
        link = f"{child.name}.{parent.key} = {parent.name}.{parent.key}"
        tables = f"{child.name} JOIN {parent.name} ON {link}"
        return f"SELECT {shown} FROM {tables}{where(condition, decide, f'{parent.name}.')}"

    question = form.format(c=column, t=child.name, p=parent.name, w=_english(condition))
    return Asked(question, query, key)


INTENTS = (select, select, select_two, distinct, count, count, aggregate, aggregate)
INTENTS += (top, ordered, grouped, grouped, having, beyond_average, joined, joined)


def problem(rng: random.Random, lexicon: Lexicon) -> Problem:
    """A question about a random schema."""
    schema = random_schema(rng, lexicon)
    intent = rng.choice(INTENTS)
    asked = intent(Writer(rng, schema, rng.choice(schema.tables)))
    prompt = f"{schema.create()}\n-- {asked.question}.\nSQL:"
    keys = {"schema": schema.key, "template": f"{intent.__name__}|{asked.template}"}
    keys |= {"domain": schema.domain}
    return Problem(
        "sql", prompt, lambda decide: " " + asked.query(decide), keys, {"schema": schema}
    )


def pick_lexicon(rng: random.Random) -> Lexicon:
    """Mostly known words; one schema in five is of made-up words, which teaches copying."""
    return "known" if rng.random() < 0.8 else "made_up"
