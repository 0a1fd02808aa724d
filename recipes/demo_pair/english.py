"""The English side of a question about a table: phrases, conditions, forms."""

import random
from dataclasses import dataclass

from recipes.demo_pair.problem import Decide
from recipes.demo_pair.schema import Schema, Table, random_value

OPENERS = ("Show", "List", "Find", "Give me", "Return", "Tell me", "Report", "Print")
AGGREGATES = {
    "AVG": ("average", "mean"),
    "SUM": ("total", "summed"),
    "MAX": ("highest", "maximum", "largest"),
    "MIN": ("lowest", "minimum", "smallest"),
}
NUMBER_PHRASES = {
    ">": ("whose {c} is more than {v}", "with a {c} above {v}", "where the {c} exceeds {v}"),
    "<": ("whose {c} is less than {v}", "with a {c} below {v}", "where the {c} is under {v}"),
    ">=": ("whose {c} is at least {v}", "with a {c} of {v} or more"),
    "<=": ("whose {c} is at most {v}", "with a {c} of {v} or less"),
    "=": ("whose {c} is exactly {v}", "with a {c} equal to {v}"),
}
TEXT_PHRASES = {
    "=": ("whose {c} is {v}", "with the {c} {v}", "where the {c} equals {v}", "that have {c} {v}"),
    "!=": ("whose {c} is not {v}", "with a {c} other than {v}", "where the {c} differs from {v}"),
}
ORDERS = {
    "DESC": ("from highest to lowest {n}", "in descending order of {n}", "by {n}, largest first"),
    "ASC": ("from lowest to highest {n}", "in ascending order of {n}", "by {n}, smallest first"),
}
EXTREMES = {
    "DESC": ("with the highest {n}", "that has the largest {n}", "with the most {n}"),
    "ASC": ("with the lowest {n}", "that has the smallest {n}", "with the least {n}"),
}


@dataclass(frozen=True)
class Condition:
    """A comparison of a column with a constant, in English and in SQL."""

    column: str
    columns: tuple[str, ...]
    operator: str
    operators: tuple[str, ...]
    value: str
    phrase: str

    @property
    def english(self) -> str:
        """The condition as a clause that follows a noun."""
        return " " + self.phrase.format(c=self.column, v=self.value)

    def sql(self, decide: Decide, prefix: str = "") -> str:
        """The condition as decided."""
        column = decide(self.column, self.columns)
        return f"{prefix}{column} {decide(self.operator, self.operators)} {self.value}"


@dataclass(frozen=True)
class Writer:
    """Draws the parts of a question about one table; every draw comes from `rng`."""

    rng: random.Random
    schema: Schema
    table: Table

    def form(self, *forms: str) -> tuple[str, str]:
        """One of the forms behind a random opener, and its template key."""
        opener, form = self.rng.choice(OPENERS), self.rng.choice(forms)
        return f"{opener} {form}", f"{opener}|{form}"

    def condition(self, table: Table, chance: float) -> Condition | None:
        """A condition on the table, or none."""
        if self.rng.random() >= chance:
            return None
        is_text = self.rng.random() < 0.5
        columns = table.texts if is_text else table.numbers
        phrases = TEXT_PHRASES if is_text else NUMBER_PHRASES
        column, operator = self.rng.choice(columns), self.rng.choice([*phrases])
        value = self._constant(column, is_text)
        phrase = self.rng.choice(phrases[operator])
        return Condition(column, columns, operator, tuple(phrases), value, phrase)

    def _constant(self, column: str, is_text: bool) -> str:
        if is_text:
            return f"'{random_value(self.rng, column, self.schema.lexicon)}'"
        return str(self.rng.choice([self.rng.randint(2, 99), 10 * self.rng.randint(10, 200)]))
