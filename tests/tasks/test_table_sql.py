"""Table SQL: the prompt, the score by what a query finds, damaged data, the bundled tables."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from mtad.bench.split import split
from mtad.errors import DataError
from mtad.tasks import BUNDLED, Item, find
from mtad.tasks.sql_run import built
from mtad.tasks.table_sql import TableSQL
from recipes.bundled_tasks import table_sql as generator

DATA = BUNDLED / "table_sql"
PETS = {
    "table": "pets",
    "create": "CREATE TABLE pets (name TEXT, kind TEXT, age INTEGER);",
    "rows": [["Rex", "dog", 3], ["Tom", "cat", 5], ["Ada", "dog", 7]],
    "examples": [{"question": "How many pets are there?", "query": "SELECT COUNT(*) FROM pets;"}],
}
ROW = {
    "table": "pets",
    "question": "Show the name of all pets whose kind is dog.",
    "query": "SELECT name FROM pets WHERE kind = 'dog';",
}
SORTED = {**ROW, "question": "Sort.", "query": "SELECT name FROM pets ORDER BY age;"}


def write(folder: Path, tables: list[Any], rows: list[Any]) -> Path:
    for name, lines in {"tables.jsonl": tables, "test.jsonl": rows}.items():
        (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path, [PETS], [ROW, SORTED])


def test_registered_under_its_name() -> None:
    assert find("table_sql") is TableSQL


def test_prompt_is_the_table_solved_questions_and_the_question(data: Path) -> None:
    task = TableSQL(data, chat=False, num_examples=1)
    assert task.prompt(task.prompts()[0], []) == (
        "Write one SQLite query per question.\n"
        f"{PETS['create']}\n\n"
        "Question: How many pets are there?\nSQL: SELECT COUNT(*) FROM pets;\n\n"
        "Question: Show the name of all pets whose kind is dog.\nSQL:"
    )
    assert task.stops == (";", "\nQuestion:")


def test_without_examples_the_table_stands_before_the_question(data: Path) -> None:
    task = TableSQL(data, num_examples=0)
    (message,) = task.prompt(task.prompts()[0], [])
    assert isinstance(message, dict)
    assert message["content"].startswith(f"Write one SQLite query per question.\n{PETS['create']}")
    assert task.stops == ()


@pytest.mark.parametrize(
    "answer",
    [
        ROW["query"],
        " SELECT name FROM pets WHERE kind = 'dog'",
        "select p.name from pets p where p.kind like 'DOG'",
        "```sql\nSELECT name FROM pets WHERE kind = 'dog';\n```",
        "```\nSELECT name\nFROM pets\nWHERE kind = 'dog'\n```\nIt lists the dogs.",
        "SQL: SELECT name FROM pets WHERE kind = 'dog';\n\nQuestion: How old is Rex?",
        "The query is:\n\nSELECT name FROM pets WHERE kind = 'dog'\n\nIt lists the dogs.",
    ],
)
def test_right_answers_score_1(data: Path, answer: str) -> None:
    task = TableSQL(data, num_examples=1)
    assert task.score(task.prompts()[0], [answer]).value == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Rex and Ada",
        "SELECT name FROM pets",
        "SELECT name FROM pets WHERE kind = 'cat'",
        "SELECT name, age FROM pets WHERE kind = 'dog'",
        "SELECT title FROM pets WHERE kind = 'dog'",
        "SELECT name FROM dogs",
        "SELECT COUNT(*) FROM pets WHERE kind = 'dog'",
        "SELECT name FROM pets WHERE kind = 'dog' LIMIT 1",
        "DROP TABLE pets",
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n",
    ],
)
def test_wrong_answers_score_0(data: Path, answer: str) -> None:
    task = TableSQL(data, num_examples=1)
    assert task.score(task.prompts()[0], [answer]).value == 0.0


def test_order_counts_where_the_question_asks_for_it(data: Path) -> None:
    task = TableSQL(data, num_examples=1)
    item = task.prompts()[1]
    assert task.score(item, ["SELECT name FROM pets ORDER BY age"]).value == 1.0
    assert task.score(item, ["SELECT name FROM pets ORDER BY age DESC"]).value == 0.0


def test_an_answer_cannot_change_the_table_of_the_next(data: Path) -> None:
    task = TableSQL(data, num_examples=1)
    task.score(task.prompts()[0], ["DELETE FROM pets"])
    assert task.score(task.prompts()[0], [ROW["query"]]).value == 1.0


def test_a_query_of_the_data_that_fails_has_no_score(tmp_path: Path) -> None:
    write(tmp_path, [PETS], [{**ROW, "query": "SELECT nothing FROM pets"}])
    task = TableSQL(tmp_path, num_examples=1)
    score = task.score(task.prompts()[0], [ROW["query"]])
    assert score.value is None
    assert "gold query failed" in score.detail["problem"]


@pytest.mark.parametrize(
    ("table", "row", "reason"),
    [
        ({"rows": 3}, {}, "rows is 3; expected list"),
        ({"create": "CREATE TABLE pets (name TEXT);"}, {}, "the table 'pets' cannot be made"),
        ({"create": "SELECT 1"}, {}, "the table 'pets' cannot be made"),
        ({"examples": []}, {}, "num_examples is 1; it has 0"),
        ({"examples": [{"question": "a"}]}, {}, "has no text query"),
        ({}, {"table": "cars"}, "the table is 'cars'; known tables: pets"),
        ({}, {"question": None}, "has no text question"),
    ],
)
def test_damaged_data_is_named(tmp_path: Path, table: Any, row: Any, reason: str) -> None:
    write(tmp_path, [{**PETS, **table}], [{**ROW, **row}])
    with pytest.raises(DataError, match=reason):
        TableSQL(tmp_path, num_examples=1).prompts()


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match="num_examples is -1; give 0 or more"):
        TableSQL(DATA, num_examples=-1)


# --- the bundled tables ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundled() -> list[Item]:
    return TableSQL(DATA).prompts()


def test_bundled_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    generator.write(tmp_path)
    for path in DATA.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_splits_share_no_table(bundled: list[Item]) -> None:
    parts = split(bundled, 100, 500)
    assert (len(parts["dev"]), len(parts["test"])) == (100, 500)
    assert not {item.group for item in parts["dev"]} & {item.group for item in parts["test"]}


def test_no_question_is_asked_twice_or_shown(bundled: list[Item]) -> None:
    asked = [(item.group, item.turns[0]) for item in bundled]
    assert len({*asked}) == len(asked) == 600
    shown = {
        (item.group, e["question"])
        for item in bundled
        for e in item.record["table_entry"]["examples"]
    }
    assert shown and not shown & {*asked}


def test_gold_queries_score_1_and_find_something(bundled: list[Item]) -> None:
    task = TableSQL(DATA)
    for item in bundled[::8]:  # the generator runs each of them, too
        score = task.score(item, [item.record["query"]])
        assert score.value == 1.0
        assert score.detail["gold_rows"] > 0


def test_most_other_queries_about_the_table_score_0(bundled: list[Item]) -> None:
    task = TableSQL(DATA)
    pairs = [*itertools.pairwise(bundled)][::8]
    wrong = [task.score(a, [b.record["query"]]).value for a, b in pairs if a.group == b.group]
    assert sum(wrong) / len(wrong) < 0.03


def test_rows_are_told_apart_by_their_numbers() -> None:
    for line in (DATA / "tables.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        with built(entry["create"], entry["table"], entry["rows"]) as database:
            names = [row[1] for row in database.execute(f"PRAGMA table_info({entry['table']})")]
        for column in zip(names, *entry["rows"], strict=True):
            if isinstance(column[1], int):
                assert len({*column[1:]}) == len(entry["rows"]), column
