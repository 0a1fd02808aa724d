"""Spider: the official rule on hand-made results, hostile queries, bad data, the bundled set."""

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mtad import demo
from mtad.errors import DataError
from mtad.tasks import BUNDLED, Exported, Item, find
from mtad.tasks.spider import AUTHORS_TEMPLATE, TEMPLATE, Spider, kind
from mtad.tasks.sql_match import (
    TooManyOrdersError,
    equal_authors,
    equal_official,
    prepared,
)
from mtad.tasks.sql_run import Limits, QueryError, num_expansions, opened, run
from recipes.bundled_tasks import spider as recipe
from recipes.demo_pair.corpus import NUM_BUCKETS
from recipes.demo_pair.words import bucket

PETS = """
CREATE TABLE pets (pet_id INT, name TEXT, kind TEXT, weight REAL, age INT);
INSERT INTO pets VALUES
    (1, 'Rex', 'dog', 12.5, 3), (2, 'Tom', 'cat', 4.0, 3), (3, 'Ada', 'dog', 12.5, NULL),
    (4, 'Bob', 'fish', 0.25, 1), (5, 'Eve', 'cat', 5.0, 7), (6, 'Rex', 'cat', 4.0, NULL);
"""
TABLES = {
    "db_id": "pets",
    "table_names_original": ["pets"],
    "column_names_original": [[-1, "*"], [0, "pet_id"], [0, "name"], [0, "age"]],
}
LIMITS = Limits(5.0, 1000)
NUMBERS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 100000) "


def write(folder: Path, dev: Any, tables: Any = (TABLES,), script: str = PETS) -> Path:
    path = folder / "database" / "pets" / "pets.sqlite"
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as database:
        database.executescript(script)
    (folder / "dev.json").write_text(json.dumps(dev))
    (folder / "tables.json").write_text(json.dumps(tables))
    return folder


def entry(query: str, question: str = "What?") -> dict[str, str]:
    return {"db_id": "pets", "question": question, "query": query}


def item(query: str) -> Item:
    return Item("0000", ("What?",), "pets", "simple", entry(query))


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return write(tmp_path / "pets", [entry("SELECT name FROM pets")])


@pytest.fixture
def value(pets: Path) -> Callable[..., float | None]:
    def scored(gold: str, answer: str, **options: Any) -> float | None:
        return Spider(pets, **options).score(item(gold), [answer]).value

    return scored


RULE = {
    "the same query": ("SELECT name FROM pets", "SELECT name FROM pets", 1, 1),
    "another way to the same rows": (
        "SELECT name FROM pets WHERE age > 2",
        "SELECT name FROM pets WHERE age >= 3",
        1,
        1,
    ),
    "other rows": ("SELECT name FROM pets WHERE age > 2", "SELECT name FROM pets", 0, 0),
    "order without ORDER BY": (
        "SELECT pet_id FROM pets",
        "SELECT pet_id FROM pets ORDER BY pet_id DESC",
        1,
        1,
    ),
    "order with ORDER BY": (
        "SELECT pet_id FROM pets ORDER BY pet_id",
        "SELECT pet_id FROM pets ORDER BY pet_id DESC",
        0,
        1,
    ),
    "order by in small letters": (
        "select pet_id from pets order by pet_id",
        "SELECT pet_id FROM pets ORDER BY pet_id DESC",
        0,
        1,
    ),
    "a row less of several equal ones": (
        "SELECT kind FROM pets",
        "SELECT kind FROM pets WHERE pet_id > 1",
        0,
        1,
    ),
    "other numbers of equal rows": (
        "SELECT kind FROM pets WHERE pet_id IN (1, 3, 2)",
        "SELECT kind FROM pets WHERE pet_id IN (1, 2, 5)",
        0,
        1,
    ),
    "DISTINCT forgotten": ("SELECT DISTINCT kind FROM pets", "SELECT kind FROM pets", 1, 1),
    "DISTINCT in a count": ("SELECT COUNT(DISTINCT kind) FROM pets", "SELECT 6", 1, 0),
    "NULL is NULL": (
        "SELECT age FROM pets WHERE name = 'Ada'",
        "SELECT NULL FROM pets LIMIT 1",
        1,
        1,
    ),
    "NULL is not 0": ("SELECT age FROM pets WHERE name = 'Ada'", "SELECT 0", 0, 0),
    "NULL is not an empty text": ("SELECT NULL", "SELECT ''", 0, 0),
    "1 is 1.0": ("SELECT 1", "SELECT 1.0", 1, 0),
    "close is not equal": ("SELECT 0.3", "SELECT 0.1 + 0.2", 0, 0),
    "a number is not its text": ("SELECT 1", "SELECT '1'", 0, 0),
    "text is not bytes": ("SELECT 'a'", "SELECT X'61'", 0, 0),
    "letter case": ("SELECT 'Rex'", "SELECT 'rex'", 0, 0),
    "columns in another order": (
        "SELECT name, age FROM pets",
        "SELECT age, name FROM pets",
        1,
        1,
    ),
    "columns in another order, ordered rows": (
        "SELECT name, age FROM pets ORDER BY pet_id",
        "SELECT age, name FROM pets ORDER BY pet_id",
        1,
        1,
    ),
    "cells exchanged in some rows only": (
        "SELECT 1, 2 UNION ALL SELECT 3, 4",
        "SELECT 2, 1 UNION ALL SELECT 3, 4",
        0,
        1,
    ),
    "the same cells in other rows": (
        "SELECT 1, 2 UNION ALL SELECT 3, 4",
        "SELECT 1, 4 UNION ALL SELECT 3, 2",
        0,
        0,
    ),
    "a column more": ("SELECT name FROM pets", "SELECT name, age FROM pets", 0, 0),
    "a column twice": ("SELECT 1, 2", "SELECT 1, 1", 0, 0),
    "a column once that should be there twice": ("SELECT 1, 1", "SELECT 1, 2", 0, 0),
    "both empty, other columns": (
        "SELECT name FROM pets WHERE age > 99",
        "SELECT name, age FROM pets WHERE age < 0",
        1,
        1,
    ),
    "one empty": ("SELECT name FROM pets", "SELECT name FROM pets WHERE age < 0", 0, 0),
    "torn operator": (
        "SELECT name FROM pets WHERE age >= 3",
        "SELECT name FROM pets WHERE age > = 3",
        1,
        0,
    ),
    "a query that fails": ("SELECT name FROM pets", "SELECT nam FROM pets", 0, 0),
    "no answer": ("SELECT name FROM pets WHERE age > 99", "", 0, 0),
    "no SQL": ("SELECT name FROM pets", "I do not know", 0, 0),
}


@pytest.mark.parametrize("case", RULE)
def test_rule(case: str, value: Callable[..., float | None]) -> None:
    gold, predicted, official, authors = RULE[case]
    assert value(gold, predicted) == official
    assert value(gold, predicted, match="authors") == authors


def test_distinct_counts_if_it_is_kept(value: Callable[..., float | None]) -> None:
    gold, predicted = "SELECT DISTINCT kind FROM pets", "SELECT kind FROM pets"
    assert value(gold, predicted, keep_distinct=True) == 0
    assert value(gold, gold, keep_distinct=True) == 1
    count = "SELECT COUNT(DISTINCT kind) FROM pets"
    assert value(count, "SELECT 3", keep_distinct=True) == 1


def test_prepared_leaves_quoted_words_and_names() -> None:
    kept = "SELECT 'distinct', \"distinct\", distinct_id, x_distinct WHERE a IS DISTINCT FROM 1"
    assert prepared(kept, keep_distinct=False) == kept
    assert prepared("SELECT dIstinct a", keep_distinct=False).split() == ["SELECT", "a"]
    assert prepared("a < = YEAR(CURDATE())", keep_distinct=True) == "a <= 2020"


def test_columns_are_paired_whole() -> None:
    gold = [(a, b, c) for a in range(4) for b in range(4) for c in (0, a)]
    turned = [(c, a, b) for a, b, c in gold]
    broken = [*turned[:-1], (turned[-1][1], turned[-1][0] + 1, turned[-1][2])]
    assert equal_official(gold, turned[::-1], ordered=False)
    assert not equal_official(gold, turned[::-1], ordered=True)
    assert not equal_official(gold, broken, ordered=False)


def test_columns_with_equal_cells_need_the_right_pairing() -> None:
    gold = [(1, 2, 1, 2), (2, 1, 1, 2), (1, 1, 2, 2)]
    found = [(2, 1, 2, 1), (2, 1, 1, 2), (2, 2, 1, 1)]
    assert equal_official(gold, found, ordered=False)
    assert not equal_official(gold, [(1, 2, 1, 2), (2, 1, 1, 2), (2, 1, 1, 2)], ordered=False)


def test_many_equal_columns_take_no_time() -> None:
    start = time.monotonic()
    rows = [(n,) * 40 for n in range(50)]
    assert equal_official(rows, rows[::-1], ordered=False)
    assert time.monotonic() - start < 2


def test_giving_up_on_columns_is_no_zero(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtad.tasks.sql_match._MAX_ROW_VISITS", 3)
    with pytest.raises(TooManyOrdersError):
        equal_official([(1, 2), (2, 1)], [(1, 2), (2, 1)], ordered=False)
    score = Spider(pets).score(
        item("SELECT 1, 2 UNION SELECT 2, 1"), ["SELECT 1, 2 UNION SELECT 2, 1"]
    )
    assert score.value is None
    assert "too many ways" in score.detail["problem"]


def test_authors_compare_sets_of_rows() -> None:
    assert equal_authors([(1, "a"), (1, "a")], [("a", 1)])
    assert not equal_authors([(1, "a")], [("1", "a")])


@pytest.mark.parametrize("match", ["official", "authors"])
def test_failing_gold_is_reported(match: Any, pets: Path) -> None:
    score = Spider(pets, match=match).score(item("SELECT missing FROM pets"), ["SELECT 1"])
    assert score.value is None
    assert score.detail["problem"] == "gold query failed: no such column: missing"


def test_detail_says_what_was_compared(pets: Path) -> None:
    task = Spider(pets)
    detail = task.score(item("SELECT name FROM pets"), ["SELECT 1;" + "x" * 600]).detail
    assert detail == {"prediction": "SELECT 1", "rows": 1, "gold_rows": 6}
    failed = task.score(item("SELECT name FROM pets"), ["SELECT " + "x" * 600]).detail
    assert len(failed["prediction"]) == 500
    assert failed["error"].startswith("no such column")


ANSWERS = {
    " SELECT a\nFROM b;\nSELECT c": "SELECT a FROM b",
    "SELECT ';' -- ; no\nFROM b": "SELECT ';' FROM b",
    "SELECT 'it''s; \"so\"', \"x;y\" FROM [a;b] /* ; */ WHERE 1;2": (
        "SELECT 'it''s; \"so\"', \"x;y\" FROM [a;b] WHERE 1"
    ),
    "\n\nSELECT a\n\nQuestion: b": "SELECT a",
    "Here:\n```sql\nSELECT a\n\nFROM b;\n```\nIt selects a.": "SELECT a FROM b",
    "```\nSELECT a": "SELECT a",
    "```sqlite SELECT a```": "SELECT a",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_prediction_is_the_first_query(answer: str, tmp_path: Path) -> None:
    assert " ".join(Spider(tmp_path).prediction(answer).split()) == ANSWERS[answer]


def test_chats_are_cut_by_no_stop(tmp_path: Path) -> None:
    """A semicolon in prose before the query would be the end of the answer."""
    answer = "Two tables matter; here it is.\n\n```sql\nSELECT a FROM b;\n```\nDone;"
    chat, plain = Spider(tmp_path, chat=True), Spider(tmp_path)
    assert chat.stops == () and chat.prediction(answer) == "SELECT a FROM b"
    assert plain.stops == Spider.stops and ";" in plain.stops


HOSTILE = {
    "DELETE FROM pets": "not authorized",
    "UPDATE pets SET age = 1": "not authorized",
    "INSERT INTO pets (name) VALUES ('x') RETURNING name": "not authorized",
    "DROP TABLE pets": "not authorized",
    "CREATE TEMP TABLE x AS SELECT 1": "not authorized",
    "ATTACH 'stolen.sqlite' AS s": "not authorized",
    "PRAGMA table_info(pets)": "not authorized",
    "SELECT * FROM pragma_database_list": "not authorized",
    "VACUUM INTO 'copy.sqlite'": "authoriz",
    "BEGIN": "not authorized",
    "SELECT load_extension('evil')": "not authorized",
    "SELECT LOAD_EXTENSION('evil')": "not authorized",
    "SELECT zeroblob(2000000000)": "not authorized",
    "SELECT printf('%.*c', 1000000000, 'x')": "not authorized",
    "SELECT hex(hex(hex(hex(hex(hex('" + "x" * 19000 + "'))))))": "too big",
    "SELECT '" + "x" * 30000 + "'": "too",
    NUMBERS + "SELECT x FROM n": "more than 1000 rows",
    NUMBERS + "SELECT group_concat(hex(hex(hex(hex(x))))) FROM n": "too big",
    "SELECT 1\0": "null character",
    "SELECT '\ud800'": "encode",
    "-- nothing": "no query",
}


@pytest.mark.parametrize("query", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_queries_are_refused(
    query: str, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pets)
    path = pets / "database" / "pets" / "pets.sqlite"
    before = path.read_bytes()
    with opened(path) as database, pytest.raises(QueryError, match=HOSTILE[query]):
        run(database, query, LIMITS)
    assert path.read_bytes() == before
    assert sorted(p.name for p in pets.iterdir()) == ["database", "dev.json", "tables.json"]
    assert [p.name for p in path.parent.iterdir()] == ["pets.sqlite"]


RUNAWAY = (
    "SELECT COUNT(*) FROM " + ", ".join(f"pets p{n}" for n in range(20)),
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT COUNT(*) FROM n",
    NUMBERS + "SELECT a.x FROM n a JOIN n b ORDER BY a.x * b.x % 1009",
    NUMBERS + "SELECT SUM(length(hex(a.x))) FROM n a JOIN n b",
)


@pytest.mark.parametrize("query", RUNAWAY)
def test_runaway_queries_stop_in_time(query: str, pets: Path) -> None:
    start = time.monotonic()
    score = Spider(pets, timeout_s=0.3).score(item("SELECT 1"), [query])
    assert score.value == 0
    assert score.detail["error"] == "took longer than 0.3 s"
    assert time.monotonic() - start < 2


LONG = "hex(hex(hex('" + "3" * 6200 + "')))"
SLOW_CALLS = (
    f"SELECT trim(hex(hex(hex(hex({LONG})))), replace(substr({LONG}, 16000), '3', 'b') || '3')",
    f"SELECT trim({LONG}, replace(hex(hex(hex('{'3' * 510}'))), '3', 'b') || '3')",
    f"SELECT replace(a, substr(a, 1, 25000) || 'b', 'c') FROM (SELECT {LONG} AS a)",
    f"SELECT a LIKE '{'%3_' * 300}b' FROM (SELECT {LONG} AS a)",
)


@pytest.mark.parametrize("query", SLOW_CALLS, ids=range(len(SLOW_CALLS)))
def test_one_call_cannot_last(query: str, pets: Path) -> None:
    """A single call is not interrupted, so that only the length of its texts bounds it."""
    start = time.monotonic()
    score = Spider(pets, timeout_s=0.1).score(item("SELECT 1"), [query])
    assert score.value == 0
    assert time.monotonic() - start < 4


def test_texts_of_usual_length_are_read_whole(pets: Path) -> None:
    with opened(pets / "database" / "pets" / "pets.sqlite") as database:
        database.execute("UPDATE pets SET name = hex(zeroblob(20000))")
        rows = run(database, "SELECT name FROM pets", LIMITS)
    assert rows == [("0" * 40_000,)] * 6


def test_a_result_within_the_limits_is_whole(pets: Path) -> None:
    with opened(pets / "database" / "pets" / "pets.sqlite") as database:
        assert len(run(database, NUMBERS + "SELECT x FROM n LIMIT 1000", LIMITS)) == 1000


MEMORY = f"""
import sys
from pathlib import Path
from mtad.tasks.sql_run import Limits, QueryError, opened, run
chain = "WITH c0(x) AS (SELECT 1)" + "".join(
    f", c{{k}}(x) AS (SELECT p.x FROM c{{k - 1}} p, c{{k - 1}} q)" for k in range(1, 27))
wide = "WITH w(t) AS MATERIALIZED (SELECT hex(hex(hex(hex(hex('{"x" * 1500}'))))))"
for query in (
    chain + " SELECT * FROM c26",
    wide + ", n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 9999) SELECT x || t FROM n, w",
    "{NUMBERS} SELECT a.x, b.x, hex(a.x * b.x) FROM n a, n b ORDER BY 3",
    "SELECT printf('%.*c', 900000000, 'x')",
):
    with opened(Path(sys.argv[1])) as database:
        try:
            run(database, query, Limits(1.0, 100_000))
        except QueryError as error:
            print(error)
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_memory_stays_bounded(pets: Path) -> None:
    path = pets / "database" / "pets" / "pets.sqlite"
    command = [sys.executable, "-c", MEMORY, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    *errors, kilobytes = done.stdout.splitlines()
    late = "took longer than 1 s"
    bulky = "more than 100000 rows or 64 MiB"
    often = "its WITH clauses use each other too often"
    assert errors == [often, bulky, late, "not authorized to use function: printf"]
    assert int(kilobytes) < 250_000


def test_expansions_bound_chains_of_with_clauses() -> None:
    assert num_expansions("SELECT a FROM b") == 1
    assert num_expansions("WITH t AS (SELECT 1 x) SELECT t.x, T.x FROM t") == 1
    assert (
        num_expansions("WITH t AS (SELECT 1), u(a, b) AS (SELECT * FROM t, t) SELECT * FROM u x, U")
        == 4
    )
    nested = "WITH a AS (WITH a AS (SELECT 1) SELECT * FROM a, a) SELECT * FROM a, a"
    assert num_expansions(nested) == 16
    assert num_expansions('WITH "a"(x) AS NOT MATERIALIZED (SELECT 1) SELECT * FROM [a], `a`') == 2


@pytest.mark.slow
def test_scores_do_not_depend_on_threads() -> None:
    task = Spider(BUNDLED / "spider")
    items = task.prompts()
    answers = [items[n - n % 3].record["query"] for n in range(len(items))]
    alone = [task.score(item, [answer]) for item, answer in zip(items, answers, strict=True)]
    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(task.score, items, [[answer] for answer in answers])] == alone


def test_text_that_is_no_utf8_loses_its_bad_bytes(tmp_path: Path) -> None:
    script = PETS + "INSERT INTO pets (name) VALUES (CAST(X'41FF42' AS TEXT));"
    task = Spider(write(tmp_path / "set", [entry("SELECT name FROM pets")], script=script))
    assert task.score(item("SELECT name FROM pets WHERE kind IS NULL"), ["SELECT 'AB'"]).value == 1


def test_a_database_with_a_write_ahead_log_and_an_odd_path(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "a?b#c %20", [entry("SELECT 1")], script="PRAGMA journal_mode=WAL;" + PETS
    )
    changed = (folder / "database" / "pets").stat().st_mtime_ns
    assert Spider(folder).score(item("SELECT COUNT(*) FROM pets"), ["SELECT 6"]).value == 1
    assert (folder / "database" / "pets").stat().st_mtime_ns == changed  # no file came and went
    assert [p.name for p in (folder / "database" / "pets").iterdir()] == ["pets.sqlite"]


def test_default_prompt_shows_schema_example_and_question(tmp_path: Path) -> None:
    question = "Which {schema} has {tables}?"
    task = Spider(write(tmp_path / "set", [entry("SELECT 1", question)]))
    (found,) = task.prompts()
    statement = "CREATE TABLE pets (pet_id INT, name TEXT, kind TEXT, weight REAL, age INT);"
    assert found.turns == (TEMPLATE.replace("{schema}", statement).replace("{question}", question),)
    assert (found.id, found.group, found.category) == ("0000", "pets", "simple")
    assert found.record == entry("SELECT 1", question)


def test_the_worked_example_is_right() -> None:
    example = TEMPLATE.split("Schema:\n")[1]
    schema, query = example.split("Question:")[0], example.split("SQL: ")[1].split(";")[0]
    assert f"SQL: {query};\n\n" in AUTHORS_TEMPLATE
    for line in AUTHORS_TEMPLATE.splitlines()[:2]:
        name, columns = re.fullmatch(r"Table (\w+), columns = \[\*,(.*)\]", line).groups()
        (created,) = re.findall(rf"CREATE TABLE {name} \((.*)\);", schema)
        assert [c.split()[0] for c in created.split(", ")] == columns.split(",")
    rows = "INSERT INTO town VALUES (1, 'A', 9), (2, 'B', 9), (3, 'B', 9);"
    rows += "INSERT INTO market VALUES (1, 1, 'x'), (2, 1, 'y'), (3, 1, 'z'), (4, 2, 'x'),"
    rows += "(5, 2, 'x'), (6, 3, 'x');"
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(schema + rows)
        assert database.execute(query).fetchall() == [("A",)]


def test_own_prompt_with_one_line_per_table(pets: Path) -> None:
    (pets / "prompt.txt").write_text("{tables}\n{question}\n")
    (found,) = Spider(pets).prompts()
    assert found.turns == ("Table pets, columns = [*,pet_id,name,age]\nWhat?",)


PARENTS = {
    "db_id": "pets",
    "table_names_original": ["pets", "Owner"],
    "column_names_original": [[-1, "*"], [0, "pet_id"], [1, "owner_ID"], [0, "name"]],
}


def test_prompt_in_the_form_of_the_authors(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", [entry("SELECT 1", "How {many}?")], tables=[PARENTS])
    (found,) = Spider(folder, prompt_form="authors").prompts()
    example, _, asked = found.turns[0].rpartition("\n\n")
    assert asked == (
        "Table Owner, columns = [*,owner_ID]\nTable pets, columns = [*,pet_id,name]\n"
        "Question: How {many}?\nSQL:"
    )
    lines = example.split("\n")
    assert [line.split()[0] for line in lines] == ["Table", "Table", "Question:", "SQL:"]
    assert lines[:2] == sorted(lines[:2]) and lines[-1].endswith(";")
    assert "CREATE" not in found.turns[0]


@pytest.mark.parametrize(
    ("form", "start"), [("auto", "mine"), ("create_table", "Write one"), ("authors", "Table ")]
)
def test_prompt_forms_beside_an_own_prompt(form: Any, start: str, pets: Path) -> None:
    assert Spider(pets).prompts()[0].turns[0].startswith("Write one")
    (pets / "prompt.txt").write_text("mine: {tables}\n{question}\n")
    assert Spider(pets, prompt_form=form).prompts()[0].turns[0].startswith(start)


def test_unknown_prompt_form_is_refused(pets: Path) -> None:
    task = Spider(pets)
    object.__setattr__(task, "prompt_form", "mine")  # past the type checker of the tests
    with pytest.raises(ValueError, match="'mine'; allowed are auto, authors, create_table"):
        task.__post_init__()


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no dev.json": (lambda f: (f / "dev.json").unlink(), "yale-lily.github.io/spider"),
    "no tables.json": (lambda f: (f / "tables.json").unlink(), "tables.json"),
    "broken JSON": (
        lambda f: (f / "dev.json").write_text('[{"db_id": "pets"'),
        "dev.json is damaged",
    ),
    "not UTF-8": (lambda f: (f / "dev.json").write_bytes(b"[\xff]"), "dev.json is damaged"),
    "not a list": (lambda f: (f / "dev.json").write_text("{}"), "db_id, question, query"),
    "no query": (
        lambda f: (f / "dev.json").write_text('[{"db_id": "pets", "question": "?"}]'),
        "db_id, question, query",
    ),
    "no such database": (
        lambda f: (f / "dev.json").write_text('[{"db_id": "x", "question": "?", "query": ""}]'),
        "no database .*x.sqlite",
    ),
    "not SQLite": (
        lambda f: (f / "database/pets/pets.sqlite").write_text("version https://git-lfs" * 99),
        "pets.sqlite is not a SQLite database",
    ),
    "empty file": (
        lambda f: (f / "database/pets/pets.sqlite").write_bytes(b""),
        "pets.sqlite has no tables",
    ),
    "unknown to tables.json": (lambda f: (f / "tables.json").write_text("[]"), "no entry .* pets"),
    "prompt without question": (
        lambda f: (f / "prompt.txt").write_text("{schema}"),
        "has to name {question}",
    ),
    "prompt without schema": (
        lambda f: (f / "prompt.txt").write_text("{question}"),
        "{schema} or {tables}",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_sets_are_named(case: str, pets: Path) -> None:
    assert len(Spider(pets).prompts()) == 1
    damage, message = DAMAGE[case]
    damage(pets)
    with pytest.raises(DataError, match=message):
        Spider(pets).prompts()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout_s": 0.0}, "more than 0 s"),
        ({"max_rows": 0}, "at least 1 row"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str, pets: Path) -> None:
    with pytest.raises(ValueError, match=message):
        Spider(pets, **options)


def test_export_has_a_line_per_question() -> None:
    items = [Item(f"{n:04d}", ("?",), record=entry(f"SELECT {n}\n FROM pets;")) for n in range(3)]
    texts = {
        0: ["SELECT\n1;", "```sql\nSELECT 'a\tb' -- x\n, 2\n```", ""],
        1: ["SELECT 4", None, "SELECT 5"],
    }
    samples = {
        item.id: [
            Exported(item, [text], None, seed, [])
            for seed in texts
            if (text := texts[seed][n]) is not None
        ]
        for n, item in reversed([*enumerate(items)])
    }
    files = Spider(Path("unused")).export("greedy", samples)
    gold = "".join(f"SELECT {n} FROM pets\tpets\n" for n in range(3))
    assert files == {
        "spider/gold.sql": gold,
        "spider/greedy.sql": "SELECT 1\nSELECT ('a'||char(9)||'b') , 2\nNO ANSWER\n",
        "spider/greedy.seed1.sql": "SELECT 4\nNO ANSWER\nSELECT 5\n",
    }


@pytest.mark.parametrize(
    ("run", "name"), [("../../x", "%2E.%2F..%2Fx"), ("gold", "%67old"), ("a, b", "a, b")]
)
def test_export_stays_in_its_folder(run: str, name: str) -> None:
    asked = Item("0000", ("?",), record=entry("SELECT 1"))
    samples = {"0000": [Exported(asked, ["SELECT 2"], None, seed, []) for seed in (0, 1)]}
    files = Spider(Path("unused")).export(run, samples)
    assert [*files] == ["spider/gold.sql", f"spider/{name}.sql", f"spider/{name}.seed1.sql"]
    assert files["spider/gold.sql"] == "SELECT 1\tpets\n"


def test_unknown_rule_is_refused_at_once(pets: Path) -> None:
    task = Spider(pets)
    object.__setattr__(task, "match", "exact")  # past the type checker of the tests
    with pytest.raises(ValueError, match="'exact'; allowed are official, authors"):
        task.__post_init__()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT a FROM b WHERE c = 'select join'", "nested"),
        ("SELECT a FROM b WHERE c > (SELECT AVG(c) FROM b)", "nested"),
        ("SELECT a FROM b JOIN c GROUP BY d ORDER BY e", "join"),
        ("SELECT a FROM b GROUP BY d ORDER BY e", "grouped"),
        ("SELECT a FROM b ORDER BY e", "ordered"),
        ("SELECT a FROM b", "simple"),
    ],
)
def test_kind(query: str, expected: str) -> None:
    assert kind(query) == expected


def dump(folder: Path) -> dict[str, Any]:
    """Everything in a set: the text files, and each database as statements."""
    files: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".sqlite":
            with closing(sqlite3.connect(path)) as database:
                files[name] = [*database.iterdump()]
        else:
            files[name] = path.read_text()
    return files


@pytest.mark.slow
def test_the_bundled_set_is_what_its_recipe_writes(tmp_path: Path) -> None:
    recipe.write(tmp_path)
    assert dump(tmp_path) == dump(BUNDLED / "spider")


def bundled() -> tuple[Spider, list[Item]]:
    task = find("spider")(BUNDLED / "spider")
    assert isinstance(task, Spider)
    return task, task.prompts()


def test_bundled_prompts_are_new_to_the_embedded_pair() -> None:
    _, items = bundled()
    prompts = {item.turns[0] for item in items}
    known = {i["prompt"] for name in ("sql", "sql_unseen_words") for i in demo.heldout(name)}
    assert len(prompts) == len(items) == 300
    assert not prompts & known
    for text in prompts:
        names = [line.split()[2] for line in text.splitlines()[:2]]
        assert bucket(f"schema:{' '.join(names)}", NUM_BUCKETS["schema"]) == 0
        assert text.endswith("\nSQL:")


def test_bundled_tables_agree_with_the_databases() -> None:
    folder = BUNDLED / "spider"
    entries = json.loads((folder / "tables.json").read_text())
    assert len(entries) == 30
    for found in entries:
        with opened(folder / f"database/{found['db_id']}/{found['db_id']}.sqlite") as database:
            columns = [[-1, "*", "text"]]
            for number, table in enumerate(found["table_names_original"]):
                for row in database.execute(f"PRAGMA table_info({table})"):
                    columns.append([number, row[1], {"INT": "number", "TEXT": "text"}[row[2]]])
        types, names = found["column_types"], found["column_names_original"]
        assert [[*name, kind] for name, kind in zip(names, types, strict=True)] == columns
        ((child, parent),) = found["foreign_keys"]
        assert names[child][1] == names[parent][1]
        assert names[child][0] != names[parent][0] == names[found["primary_keys"][0]][0]


@pytest.mark.slow
def test_bundled_gold_queries_score_one_and_each_others_seldom() -> None:
    task, items = bundled()
    gold = [item.record["query"] for item in items]
    assert all(task.score(i, [f" {q};"]).value == 1 for i, q in zip(items, gold, strict=True))
    turned = [gold[n + 1 if n % 10 < 9 else n - 9] for n in range(300)]
    scores = [task.score(i, [q]).value for i, q in zip(items, turned, strict=True)]
    assert None not in scores
    assert sum(score or 0 for score in scores) <= 3


ALTERED = {
    "SELECT ": ("select  ", 300, 300),
    "COUNT(*)": ("COUNT(1)", 72, 72),
    "DISTINCT ": ("", 33, 33),
    " > ": (" < ", 45, 0),
    " DESC": (" ASC", 21, 0),
    "AVG(": ("SUM(", 56, 0),
    " LIMIT 1": (" LIMIT 2", 6, 0),
}


@pytest.mark.parametrize("old", ALTERED)
def test_altered_answers_have_a_known_score(old: str) -> None:
    new, num_asked, num_right = ALTERED[old]
    task, items = bundled()
    asked = [item for item in items if old in item.record["query"]]
    answers = [item.record["query"].replace(old, new) for item in asked]
    scores = [task.score(i, [a]).value for i, a in zip(asked, answers, strict=True)]
    assert (len(scores), sum(score or 0 for score in scores)) == (num_asked, num_right)
