"""JSON extraction: the prompt, which object of an answer counts, its schema, the bundled texts."""

import json
from pathlib import Path
from typing import Any

import pytest

from mtad.bench.split import split
from mtad.errors import DataError
from mtad.tasks import BUNDLED, Item, find
from mtad.tasks.json_answer import find_object, is_same, violations
from mtad.tasks.json_extraction import JSONExtraction
from recipes.bundled_tasks import json_extraction as generator
from recipes.bundled_tasks.json_kinds import KINDS

DATA = BUNDLED / "json_extraction"
SCHEMA = {"customer": "string", "quantity": "integer", "express": "boolean"}
GOLD = {"customer": "Ada Novak", "quantity": 12, "express": True}
ROW = {
    "kind": "order",
    "schema": SCHEMA,
    "text": "Ada Novak wants 12 jars, by express.",
    "answer": GOLD,
}
EXAMPLE = {**ROW, "text": "Leon Holm: 3 jars.", "answer": {**GOLD, "customer": "Leon Holm"}}
RIGHT = json.dumps(GOLD)


def write(folder: Path, rows: list[Any], examples: list[Any]) -> Path:
    for name, lines in {"test.jsonl": rows, "examples.jsonl": examples}.items():
        (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path, [ROW], [EXAMPLE] * 3)


def test_registered_under_its_name() -> None:
    assert find("json_extraction") is JSONExtraction


def test_prompt_states_the_schema_after_solved_texts(data: Path) -> None:
    task = JSONExtraction(data, chat=False, num_examples=1)
    prompt = task.prompt(task.prompts()[0], [])
    assert isinstance(prompt, str)
    solved, _, asked = prompt.partition("\n\n")
    assert solved.endswith(f"Text: Leon Holm: 3 jars.\nJSON: {json.dumps(EXAMPLE['answer'])}")
    assert "- customer: string\n- quantity: integer\n- express: boolean\n" in asked
    assert asked.endswith("Text: Ada Novak wants 12 jars, by express.\nJSON:")
    assert task.stops


def test_chat_has_the_solved_texts_as_turns(data: Path) -> None:
    task = JSONExtraction(data, num_examples=2)
    messages = task.prompt(task.prompts()[0], [])
    assert [m["role"] for m in messages] == [*["user", "assistant"] * 2, "user"]
    assert messages[1]["content"] == json.dumps(EXAMPLE["answer"])
    assert messages[-1]["content"].endswith("Text: Ada Novak wants 12 jars, by express.")
    assert task.stops == ()


RIGHT_ANSWERS = {
    "alone": RIGHT,
    "over lines": json.dumps(GOLD, indent=2),
    "another order": '{"express": true, "quantity": 12, "customer": "Ada Novak"}',
    "white space": '{"customer": " Ada Novak ", "quantity": 12, "express": true}',
    "fence": f"```json\n{RIGHT}\n```",
    "fence without a language": f"```\n{RIGHT}\n```",
    "open fence": f"```json\n{RIGHT}",
    "prose before": f"Here is the JSON object:\n\n{RIGHT}",
    "prose with braces before": f"The text says {{something}}: {RIGHT}",
    "prose behind": f"{RIGHT}\n\nI took the {{name}} from the text.",
    "fence between prose": f"Sure!\n\n```json\n{RIGHT}\n```\nThe order is express.",
    "label": f"JSON: {RIGHT}",
    "further objects": f'{RIGHT}\n{{"customer": "B", "quantity": 1, "express": false}}',
    "reasoning": f'<think>\n{{"customer": "B"}}\n</think>\n{RIGHT}',
}
WRONG_ANSWERS = {
    "nothing": "",
    "prose": "Ada Novak wants twelve jars.",
    "another value": RIGHT.replace("12", "10"),
    "another case": RIGHT.replace("Ada", "ada"),
    "text for a number": RIGHT.replace("12", '"12"'),
    "text for true": RIGHT.replace("true", '"true"'),
    "number for true": RIGHT.replace("true", "1"),
    "null": RIGHT.replace("12", "null"),
    "a key is missing": '{"customer": "Ada Novak", "quantity": 12}',
    "a key too many": RIGHT.replace("}", ', "note": ""}'),
    "nested": f'{{"order": {RIGHT}}}',
    "a list": f"[{RIGHT.replace('12', '10')}]",
    "cut off": RIGHT[:-3],
    "comma at the end": RIGHT.replace("}", ",}"),
    "single quotes": RIGHT.replace('"', "'"),
    "a key twice": RIGHT.replace("}", ', "quantity": 12}'),
    "the wrong one first": f"{RIGHT.replace('12', '10')}\n{RIGHT}",
    "damaged before right": f"{RIGHT[:-1]},\n{RIGHT}",
    "not a number": RIGHT.replace("12", "NaN"),
}


@pytest.mark.parametrize("answer", RIGHT_ANSWERS.values(), ids=RIGHT_ANSWERS)
def test_right_answers_score_1(data: Path, answer: str) -> None:
    task = JSONExtraction(data)
    score = task.score(task.prompts()[0], [answer])
    assert score.value == 1.0
    assert score.detail == {"parses": True, "validates": True, "right_values": 1.0}


@pytest.mark.parametrize("answer", WRONG_ANSWERS.values(), ids=WRONG_ANSWERS)
def test_wrong_answers_score_0(data: Path, answer: str) -> None:
    task = JSONExtraction(data)
    assert task.score(task.prompts()[0], [answer]).value == 0.0


def test_detail_says_how_far_an_answer_is_right(data: Path) -> None:
    task = JSONExtraction(data)
    item = task.prompts()[0]
    wrong_type = task.score(item, [RIGHT.replace("12", '"12"')]).detail
    assert wrong_type["parses"] and not wrong_type["validates"]
    assert wrong_type["right_values"] == pytest.approx(2 / 3)
    assert wrong_type["error"] == "quantity is '12'; expected integer"
    scores = [task.score(item, [text]) for text in (RIGHT, RIGHT.replace("12", "10"), "none")]
    assert task.more({"0": scores[:1], "1": scores[1:]}) == pytest.approx(
        {"share_parses": 0.75, "share_validates": 0.75, "share_right_values": (1 + 1 / 3) / 2}
    )
    assert task.more({}) == {}


def test_no_part_of_a_damaged_object_is_taken() -> None:
    assert find_object('{"a": {"b": 1}, "c": }') is None
    assert find_object('{"a": 1} and {"a": 2}') == {"a": 1}
    assert find_object("{}") == {}


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("string", ["", "a"], [1, None, ["a"]]),
        ("integer", [0, -3], [1.5, True, "1", None]),
        ("number", [0, 1.5], [True, "1.5", None]),
        ("boolean", [True, False], [0, "true", None]),
        ("list of strings", [[], ["a"]], ["a", [1], None]),
        ("string or null", ["a", None], [1]),
        ("one of red, blue", ["red", "blue"], ["green", "red, blue", 1, None]),
        ("one of red, blue or null", ["red", None], ["null"]),
    ],
)
def test_types(kind: str, good: list[Any], bad: list[Any]) -> None:
    assert not [value for value in good if violations({"a": value}, {"a": kind})]
    assert not [value for value in bad if not violations({"a": value}, {"a": kind})]


def test_values_are_compared_by_type_and_value() -> None:
    assert is_same(1.0, 1) and is_same(["a "], ["a"]) and is_same(None, None)
    assert not is_same(1, True) and not is_same("1", 1) and not is_same(["a"], ["a", "b"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"text": ""}, "text is ''; expected a str"),
        ({"answer": [1]}, r"answer is \[1\]; expected a dict"),
        ({"schema": {"customer": "name"}}, "the type of customer is 'name'; allowed: string, "),
        ({"schema": {**SCHEMA, "total": "number"}}, "does not fit the schema: total is missing"),
        ({"kind": "letter"}, "num_examples is 1; .* has 0 of the kind 'letter'"),
    ],
)
def test_damaged_records_are_named(tmp_path: Path, change: Any, reason: str) -> None:
    write(tmp_path, [{**ROW, **change}], [EXAMPLE])
    with pytest.raises(DataError, match=reason):
        JSONExtraction(tmp_path, num_examples=1).prompts()


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match="num_examples is -1; give 0 or more"):
        JSONExtraction(DATA, num_examples=-1)


# --- the bundled texts -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundled() -> list[Item]:
    return JSONExtraction(DATA).prompts()


def test_bundled_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    generator.write(tmp_path)
    for path in DATA.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_splits_never_overlap(bundled: list[Item]) -> None:
    parts = split(bundled, 100, 500)
    asked = {stage: {item.record["text"] for item in items} for stage, items in parts.items()}
    assert (len(asked["dev"]), len(asked["test"])) == (100, 500)
    assert not asked["dev"] & asked["test"]
    shown = {example["text"] for item in bundled for example in item.record["examples"]}
    assert shown and not shown & (asked["dev"] | asked["test"])


def test_gold_answers_score_1_and_other_items_answers_0(bundled: list[Item]) -> None:
    task = JSONExtraction(DATA)
    golds = [json.dumps(item.record["answer"]) for item in bundled]
    for item, own, other in zip(bundled, golds, golds[1:] + golds[:1], strict=True):
        assert task.score(item, [own]).value == 1.0
        assert task.score(item, [other]).value == 0.0


def test_texts_say_every_value(bundled: list[Item]) -> None:
    for item in bundled:
        values = [v for v in item.record["answer"].values() if not isinstance(v, bool)]
        assert not [v for v in values if str(v) not in item.record["text"]], item.record


def test_every_template_is_used(bundled: list[Item]) -> None:
    kinds = [item.category for item in bundled]
    assert {kind: kinds.count(kind) for kind in kinds}.keys() == {kind.name for kind in KINDS}
    assert min(map(kinds.count, set(kinds))) >= 80
