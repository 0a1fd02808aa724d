"""Spider: a schema and a question in, one SQLite query out, scored by the rows that it returns."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, get_args

from mtad.core.names import did_you_mean
from mtad.errors import DataError
from mtad.tasks.sql_answer import find_query
from mtad.tasks.sql_match import (
    TooManyOrdersError,
    equal_authors,
    equal_official,
    first_statement,
    is_ordered,
    one_line,
    prepared,
)
from mtad.tasks.sql_run import Limits, QueryError, Row, create_statements, opened, run
from mtad.tasks.task import Exported, Item, Score, Task, file_name

Match = Literal["official", "authors"]
PromptForm = Literal["auto", "authors", "create_table"]

TEMPLATE: Final = """\
Write one SQLite query that answers the question about the database.

Schema:
CREATE TABLE town (town_id INTEGER PRIMARY KEY, title TEXT, inhabitants INTEGER);
CREATE TABLE market (market_id INTEGER PRIMARY KEY, town_id INTEGER, weekday TEXT);
Question: Which towns have more than two markets? List their titles.
SQL: SELECT town.title FROM town JOIN market ON town.town_id = market.town_id \
GROUP BY town.town_id HAVING COUNT(*) > 2;

Schema:
{schema}
Question: {question}
SQL:"""
"""The prompt of a data folder that has no prompt.txt."""

AUTHORS_TEMPLATE: Final = """\
Table market, columns = [*,market_id,town_id,weekday]
Table town, columns = [*,town_id,title,inhabitants]
Question: Which towns have more than two markets? List their titles.
SQL: SELECT town.title FROM town JOIN market ON town.town_id = market.town_id \
GROUP BY town.town_id HAVING COUNT(*) > 2;

{tables}
Question: {question}
SQL:"""
"""The same example and question with schemas in the form of the MTAD authors' code."""

_PLACEHOLDER: Final = re.compile(r"\{(schema|tables|question)\}")
_MAX_SHOWN: Final = 500
_NO_ANSWER: Final = "NO ANSWER"


@dataclass(frozen=True)
class Spider(Task):
    """The development set of Spider, or any set in its layout.

    The folder holds `dev.json` (db_id, question, query), `tables.json` and
    `database/<db_id>/<db_id>.sqlite`. A `prompt.txt` beside them takes the place of `TEMPLATE`
    unless `prompt_form` says otherwise. It has to name {question}, and {schema} for the CREATE
    TABLE statements or {tables} for one line per table as the MTAD authors write a schema.

    The official rule compares the rows of both queries: equal as multisets, or as lists if the gold
    query says ORDER BY, up to the order of the columns. Like the official script, it first takes
    every DISTINCT out of both queries unless `keep_distinct`. It looks at the one database
    that Spider comes with and not at the larger test suites. A prediction that fails or exceeds a
    limit scores 0. A gold query that does has no score, and the problem says why.

    Attributes:
        prompt_form: "create_table" for `TEMPLATE`, "authors" for `AUTHORS_TEMPLATE` with one line
            of columns per table, sorted by name, or "auto": prompt.txt if it is there, else
            "create_table".
        match: "official", or "authors" for the laxer rule of MTAD's authors: sets of rows with
            sorted cells, whatever their order, on unchanged queries.
        keep_distinct: leave DISTINCT in, for the official rule; the flag of the official script.
        timeout_s: seconds that one query may take.
        max_rows: rows that one query may find.
    """

    match: Match = "official"
    keep_distinct: bool = False
    timeout_s: float = 30.0
    max_rows: int = 100_000
    prompt_form: PromptForm = "auto"

    name: ClassVar[str] = "spider"
    metric: ClassVar[str] = "execution accuracy"
    stops: ClassVar[tuple[str, ...]] = (";", "\nSchema:", "\nQuestion:")
    source: ClassVar[str] = "https://yale-lily.github.io/spider"

    def __post_init__(self) -> None:
        """Refuse impossible options; in a chat, words before the query may have semicolons."""
        for option, choices in (("match", Match), ("prompt_form", PromptForm)):
            if (given := getattr(self, option)) not in get_args(choices):
                near, allowed = did_you_mean(given, get_args(choices)), ", ".join(get_args(choices))
                raise ValueError(f"{option} is {given!r}{near}; allowed are {allowed}")
        if self.timeout_s <= 0 or self.max_rows < 1:
            given = f"timeout_s={self.timeout_s:g} and max_rows={self.max_rows}"
            raise ValueError(f"{given} were given; give more than 0 s and at least 1 row")
        if self.chat:
            object.__setattr__(self, "stops", ())

    def prompts(self) -> list[Item]:
        """The questions in the order of dev.json, grouped by database.

        Raises:
            DataError: a file is missing or damaged, and which.
        """
        records = self._read("dev.json", ("db_id", "question", "query"))
        tables = {entry["db_id"]: entry for entry in self._read("tables.json", ("db_id",))}
        template = self._template()
        schemas = {db_id: self._schema(db_id, tables) for db_id in _db_ids(records)}
        return [
            Item(
                id=f"{number:04d}",
                turns=(_filled(template, schemas[record["db_id"]], record["question"]),),
                group=record["db_id"],
                category=kind(record["query"]),
                record=record,
            )
            for number, record in enumerate(records)
        ]

    def score(self, item: Item, answers: Sequence[str]) -> Score:
        """1 if the predicted query returns what the gold query returns, else 0.

        Raises:
            DataError: the database is missing or damaged.
        """
        gold, found = self._query(item.record["query"]), self.prediction(answers[0])
        detail: dict[str, Any] = {"prediction": found[:_MAX_SHOWN]}
        limits = Limits(self.timeout_s, self.max_rows)
        with opened(self._database(item.record["db_id"])) as database:
            try:
                wanted = run(database, gold, limits)
            except QueryError as error:
                return Score(None, {**detail, "problem": f"gold query failed: {error}"})
            detail["gold_rows"] = len(wanted)
            try:
                rows = run(database, self._query(found), limits)
            except QueryError as error:
                return Score(0.0, {**detail, "error": str(error)[:_MAX_SHOWN]})
        return self._compared(gold, wanted, rows, {**detail, "rows": len(rows)})

    def prediction(self, answer: str) -> str:
        """The query in an answer, one statement in one line: see `sql_answer` for the order."""
        return find_query(answer)

    def export(self, run: str, samples: Mapping[str, Sequence[Exported]]) -> dict[str, str]:
        """Predictions, one a line, and the gold queries beside them in the same order.

        With several seeds there is one file of predictions for each, numbered from the second on.
        """
        items = {key: samples[key][0].item for key in sorted(samples) if samples[key]}
        records = [item.record for item in items.values()]
        gold = [f"{one_line(first_statement(r['query']))}\t{r['db_id']}" for r in records]
        files = {"spider/gold.sql": _lines(gold)}
        stem = file_name(run) if run != "gold" else "%67old"
        seeds = sorted({sample.seed for key in items for sample in samples[key]})
        for seed in seeds:
            answers = [_answer(samples[key], seed) for key in items]
            end = "" if seed == seeds[0] else f".seed{seed}"
            predicted = [one_line(self.prediction(a)) or _NO_ANSWER for a in answers]
            files[f"spider/{stem}{end}.sql"] = _lines(predicted)
        return files

    def _compared(
        self, gold: str, wanted: list[Row], rows: list[Row], detail: dict[str, Any]
    ) -> Score:
        """The score of two results under the rule of the task."""
        try:
            if self.match == "authors":
                equal = equal_authors(wanted, rows)
            else:
                equal = equal_official(wanted, rows, is_ordered(gold))
        except TooManyOrdersError as error:
            return Score(None, {**detail, "problem": str(error)})
        return Score(float(equal), detail)

    def _query(self, sql: str) -> str:
        """The query that the rule runs."""
        return sql if self.match == "authors" else prepared(sql, self.keep_distinct)

    def _read(self, file: str, keys: tuple[str, ...]) -> list[dict[str, Any]]:
        """The entries of one of the JSON files."""
        path = self.data / file
        if not path.is_file():
            raise DataError(
                f"there is no {path}; get Spider from {self.source} and unpack it so that"
                f" {self.data} holds dev.json, tables.json and database/"
            )
        try:
            entries = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise DataError(f"{path} is damaged ({error}); get it again") from error
        if not _are_records(entries, keys):
            raise DataError(f"{path} is no list of entries with {', '.join(keys)} as text")
        return list(entries)

    def _template(self) -> str:
        """The prompt template."""
        path = self.data / "prompt.txt"
        if self.prompt_form == "authors":
            return AUTHORS_TEMPLATE
        if self.prompt_form == "create_table" or not path.is_file():
            return TEMPLATE
        text = path.read_text("utf-8").rstrip("\n")
        named = {*_PLACEHOLDER.findall(text)}
        if "question" not in named or named == {"question"}:
            raise DataError(f"{path} has to name {{question}} and {{schema}} or {{tables}}")
        return text

    def _database(self, db_id: str) -> Path:
        return self.data / "database" / db_id / f"{db_id}.sqlite"

    def _schema(self, db_id: str, tables: Mapping[str, Any]) -> dict[str, str]:
        """The values of the placeholders for questions about a database."""
        path = self._database(db_id)
        with opened(path) as database:
            statements = create_statements(database)
        if not statements:
            raise DataError(f"{path} has no tables; get it again")
        if db_id not in tables:
            raise DataError(f"{self.data / 'tables.json'} has no entry for the database {db_id}")
        return {"schema": "\n".join(statements), "tables": _table_lines(tables[db_id])}


def kind(query: str) -> str:
    """The kind of a query, the first that applies: nested, join, grouped, ordered or simple."""
    words = re.findall(r"[a-z]+", first_statement(query).lower())
    if words.count("select") > 1:
        return "nested"
    marks = {"join": "join", "group": "grouped", "order": "ordered"}
    return next((name for word, name in marks.items() if word in words), "simple")


def _are_records(entries: Any, keys: tuple[str, ...]) -> bool:
    """Whether this is a list of objects with text under each of the keys."""
    return isinstance(entries, list) and all(
        isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in keys)
        for entry in entries
    )


def _db_ids(records: list[dict[str, Any]]) -> list[str]:
    return [*dict.fromkeys(record["db_id"] for record in records)]


def _filled(template: str, schema: Mapping[str, str], question: str) -> str:
    """The prompt; all placeholders are filled at once, so that braces in a question stay."""
    values = {**schema, "question": question}
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def _table_lines(entry: Mapping[str, Any]) -> str:
    """One line per table with its columns, sorted by name, as the MTAD authors write a schema."""
    names = entry.get("table_names_original", [])
    columns = entry.get("column_names_original", [])
    lines = [
        f"Table {name}, columns = [{','.join(['*', *(c for at, c in columns if at == number)])}]"
        for number, name in enumerate(names)
    ]
    return "\n".join(sorted(lines))


def _answer(samples: Sequence[Exported], seed: int) -> str:
    return next((sample.answers[0] for sample in samples if sample.seed == seed), "")


def _lines(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
