"""The query in an answer: what models write around it, and what must not be taken for it."""

from __future__ import annotations

import sqlite3

import pytest
from support.real_data import real_data

from mtad.tasks import sql_answer
from mtad.tasks.spider import Spider
from mtad.tasks.sql_answer import find_query, is_query
from mtad.tasks.sql_match import one_line

QUERY = "SELECT name FROM clients"
FENCED = f"```sql\n{QUERY};\n```"

FOUND = {
    "the word select in prose": f"You need to select the name from clients:\n\n{QUERY};",
    "an order in prose": f"To select all names, run:\n{QUERY};",
    "prose that reads as a query": f"Please select the id from clients, so: {QUERY}",
    "a heading with 'with'": f"With this in mind, the query is {QUERY}.",
    "prose behind it": f"{QUERY}\nDon't forget; it's fine.",
    "a word behind it": "SELECT clients.name FROM clients\n\nThanks",
    "prose that selects": f"{QUERY}\n\nThis will select the name from every client.",
    "reasoning": f"<think>maybe select id from clients</think>\n{QUERY}",
    "reasoning with a fence": f"<think>\n```sql\nSELECT id FROM clients\n```\n</think>\n{FENCED}",
    "reasoning that the prompt opened": f"select id from x?\n</think>\n\n{QUERY}",
    "reasoning in other tags": f"[THINK]select id from x[/THINK]{QUERY}",
    "two thoughts": f"<think>a</think>\n<think>select b from c</think>\n{QUERY}",
    "backticks": f"`{QUERY}`",
    "two backticks": f"The query is ``{QUERY}``.",
    "a fence in one line": f"```{QUERY}```",
    "a fence in one line with its language": f"```sqlite {QUERY}```",
    "bold": f"**{QUERY}**",
    "quotes": f'Use "{QUERY}" here.',
    "a quotation": f"> {QUERY}",
    "a numbered list": f"1. {QUERY}\n2. It selects the names.",
    "a list with a fence": f"1. Run:\n\n   ```sql\n   {QUERY}\n   ```\n",
    "tildes": f"~~~sql\n{QUERY}\n~~~",
    "an indented block": "Here:\n\n    SELECT name\n    FROM clients\n\nDone.",
    "a label": f"SQL: {QUERY}",
    "a table first": f"```sql\nCREATE TABLE clients (id INT);\n```\nThe query:\n{FENCED}",
    "a table in the same fence": f"```sql\nCREATE TABLE clients (id INT);\n{QUERY};\n```",
    "another language first": f"```python\nprint('select 1 from x')\n```\n{QUERY}",
    "another language last": f"{FENCED}\n```python\nrun('select 1')\n```",
    "the output last": f"{FENCED}\n```\n| name |\n```",
    "a draft first": f"```sql\nSELECT id FROM clients\n```\nBetter:\n{FENCED}",
    "a broken draft last": f"{FENCED}\n```sql\nSELECT name FORM clients\n```",
    "a comment first": f"```sql\n-- select the name\n{QUERY}\n```",
    "a block comment first": f"```sql\n/* select id; */ {QUERY}\n```",
    "a blank line within": "SELECT name\n\nFROM clients",
    "a fence that is not closed": f"```sql\n{QUERY}",
}


@pytest.mark.parametrize("answer", FOUND.values(), ids=FOUND)
def test_the_query_is_found(answer: str) -> None:
    assert find_query(answer).replace("clients.", "") == QUERY


WHOLE = (
    "WITH a(n) AS (SELECT 1) SELECT n FROM a",
    "WITH RECURSIVE a AS (SELECT 1 AS n) SELECT n FROM a",
    "WITH a AS MATERIALIZED (SELECT 1 AS n) SELECT n FROM a",
    "WITH a AS NOT MATERIALIZED (SELECT 1 AS n) SELECT n FROM a",
    'WITH "a" AS (SELECT 1 AS n) SELECT n FROM a',
    "WITH a AS (SELECT 1), b AS (SELECT 2) SELECT * FROM a, b",
    "VALUES (1), (2)",
    "SELECT (SELECT max(id) FROM clients)",
    "SELECT name FROM clients WHERE id IN ( SELECT id FROM clients )",
    "SELECT name FROM clients ORDER BY name DESC",
    "SELECT 'a  b', 'it''s; so' FROM clients",
    "select name from clients union select 'x'",
)


@pytest.mark.parametrize("query", WHOLE)
@pytest.mark.parametrize(
    "form", ["{}", "The query:\n\n{}\n\nIt works.", "```sql\n{};\n```", "`{}`"]
)
def test_no_part_of_a_query_is_taken_for_it(query: str, form: str) -> None:
    assert find_query(form.format(query)) == query


@pytest.mark.parametrize(
    "answer",
    [
        "(SELECT id FROM clients) UNION SELECT 7",
        "(SELECT id FROM clients) UNION ALL (SELECT 7)",
        "```sql\n(SELECT id FROM clients ORDER BY id LIMIT 1) UNION (SELECT 7)\n```",
        "((SELECT id FROM clients)) EXCEPT (SELECT 8)",
    ],
)
def test_operands_in_parentheses_run(answer: str) -> None:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE clients AS SELECT 7 AS id")
    assert {*database.execute(find_query(answer))} == {(7,)}


@pytest.mark.parametrize(
    "answer",
    [
        "SELECT name FORM clients WHERE id IN (SELECT id FROM clients)",
        "SELECT name FORM clients WHERE id IN (\n  SELECT id FROM clients\n)",
        "SELECT count(*)\nFORM clients",
        "```sql\nSELECT name FORM clients WHERE id = (SELECT 1)\n```",
        "I do not know.",
        "<think>\nI would select the name from clients",
        "",
    ],
)
def test_no_query_is_made_of_what_is_none(answer: str) -> None:
    assert not is_query(find_query(answer))


@pytest.mark.parametrize(
    "answer", ["select from x, " * 5000, "(select " * 5000, "select 'a', b from c where \n" * 1000]
)
def test_long_nonsense_is_parsed_in_bounds(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []
    monkeypatch.setattr(sql_answer, "is_query", lambda text: parsed.append(len(text)))
    assert sql_answer.find_query(answer).startswith(answer[:7])
    assert len(parsed) <= 2 * 100 * 101 and max(parsed) <= 5000


def test_planning_an_answer_fills_no_memory() -> None:
    clauses = [
        "c0 AS (SELECT 1)",
        *(f"c{n} AS (SELECT * FROM c{n - 1}, c{n - 1})" for n in range(1, 40)),
    ]
    assert is_query(f"WITH {', '.join(clauses)} SELECT * FROM c39")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 'a  b'",
        "SELECT 'a\nb'",
        "SELECT 'a\tb', 'c'",
        "SELECT x FROM\n(SELECT 'a\r\nb' AS x)",
    ],
)
def test_a_query_in_one_line_means_the_same(query: str) -> None:
    line, database = one_line(query), sqlite3.connect(":memory:")
    assert not set("\n\r\t") & set(line)
    assert [*database.execute(line)] == [*database.execute(query)]


@pytest.mark.parametrize("chat", [False, True])
def test_real_queries_are_found_whole(chat: bool) -> None:
    spider = Spider(real_data("spider"), chat=chat)
    form = "Sure:\n\n```sql\n{}\n```\n" if chat else " {};"
    for item in spider.prompts():
        query = item.record["query"]
        assert (
            spider.prediction(form.format(query)) == " ".join(query.rstrip("; ").split())
            or "  " in query
        )


def test_gold_queries_of_the_real_set_score_one() -> None:
    spider = Spider(real_data("spider"))
    items = spider.prompts()
    assert len(items) > 900
    wrong = [i.id for i in items if spider.score(i, [i.record["query"]]).value != 1.0]
    assert wrong == []
