"""Table SQL: questions about one small table after solved ones, scored by what the query finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from mtad.core.prompt import Prompt
from mtad.errors import DataError
from mtad.tasks.few_shot import FewShot, few_shot
from mtad.tasks.records import records
from mtad.tasks.sql_answer import find_query
from mtad.tasks.sql_match import TooManyOrdersError, equal_official, is_ordered, prepared
from mtad.tasks.sql_run import Limits, QueryError, built, run
from mtad.tasks.task import Item, Score

_LIMITS: Final = Limits(timeout_s=10.0, max_rows=1_000)
_MAX_SHOWN: Final = 500


@dataclass(frozen=True)
class TableSQL(FewShot):
    """Small tables with solved questions, and further questions about them.

    The folder holds `tables.jsonl` (`table`, `create`, `rows`, and `examples` of `question` and
    `query`) and `test.jsonl` (`table`, `question`, `query`). The questions of one table stay on one
    side of the split.

    The query of an answer is found and compared as Spider's official rule does it: the rows as
    multisets, or as lists if the query of the data says ORDER BY, up to the order of the columns
    and without DISTINCT on either side.

    Attributes:
        chat: ask through the chat template; False in plain text, for models without one.
        num_examples: solved questions about the same table before the question.
    """

    num_examples: int = 4

    name: ClassVar[str] = "table_sql"
    metric: ClassVar[str] = "execution accuracy"
    source: ClassVar[str] = "this project's recipes/bundled_tasks/table_sql.py"
    text_stops: ClassVar[tuple[str, ...]] = (";", "\nQuestion:")

    def prompts(self) -> list[Item]:
        """The questions in the order of the file, each with its table in the record.

        Raises:
            DataError: a file is missing or damaged, a table is unknown or cannot be made, or has
                too few examples.
        """
        tables = {entry["table"]: entry for entry in self._tables()}
        path = self.data / "test.jsonl"
        lines = records(path, self.source)
        return [_item(number, place, line, tables) for number, (place, line) in enumerate(lines)]

    def prompt(self, item: Item, answers: Sequence[str]) -> Prompt:
        """The table, the solved questions and the question."""
        entry = item.record["table_entry"]
        solved = [(e["question"], e["query"]) for e in entry["examples"][: self.num_examples]]
        asked = [f"Question: {question}" for question, _ in solved] + [f"Question: {item.turns[0]}"]
        asked[0] = f"Write one SQLite query per question.\n{entry['create']}\n\n{asked[0]}"
        shown = [(question, query) for question, (_, query) in zip(asked, solved, strict=False)]
        return few_shot(shown, asked[-1], "SQL:", chat=self.chat)

    def score(self, item: Item, answers: Sequence[str]) -> Score:
        """1 if the query of the answer finds what the query of the data finds, else 0."""
        gold, found = (
            prepared(sql, False) for sql in (item.record["query"], find_query(answers[0]))
        )
        detail: dict[str, Any] = {"prediction": found[:_MAX_SHOWN]}
        entry = item.record["table_entry"]
        with built(entry["create"], entry["table"], entry["rows"]) as database:
            try:
                wanted = run(database, gold, _LIMITS)
            except QueryError as error:
                return Score(None, {**detail, "problem": f"gold query failed: {error}"})
            try:
                rows = run(database, found, _LIMITS)
                equal = equal_official(wanted, rows, is_ordered(gold))
            except (QueryError, TooManyOrdersError) as error:
                return Score(0.0, {**detail, "error": str(error)[:_MAX_SHOWN]})
        return Score(float(equal), {**detail, "rows": len(rows), "gold_rows": len(wanted)})

    def _tables(self) -> list[dict[str, Any]]:
        """The tables, each tried once."""
        found = []
        for place, entry in records(self.data / "tables.jsonl", self.source):
            for key, kind in {"table": str, "create": str, "rows": list, "examples": list}.items():
                if not isinstance(entry.get(key), kind):
                    raise DataError(
                        f"{place}: {key} is {entry.get(key)!r}; expected {kind.__name__}"
                    )
            if len(entry["examples"]) < self.num_examples:
                have = len(entry["examples"])
                raise DataError(f"{place}: num_examples is {self.num_examples}; it has {have}")
            for example in entry["examples"]:
                _require_question(place, example)
            with built(entry["create"], entry["table"], entry["rows"]):
                found.append(entry)
        return found


def _item(
    number: int, place: str, record: dict[str, Any], tables: Mapping[str, dict[str, Any]]
) -> Item:
    _require_question(place, record)
    if record.get("table") not in tables:
        known = ", ".join(tables)
        raise DataError(f"{place}: the table is {record.get('table')!r}; known tables: {known}")
    return Item(
        f"{number:04d}",
        (record["question"],),
        group=record["table"],
        category=record["table"],
        record={**record, "table_entry": tables[record["table"]]},
    )


def _require_question(place: str, record: Any) -> None:
    for key in ("question", "query"):
        if not isinstance(record, dict) or not isinstance(record.get(key), str):
            raise DataError(f"{place}: {record!r} has no text {key}")
