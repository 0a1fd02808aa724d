"""Closed book: the prompt, what an answer states, damaged data, the bundled questions."""

import json
from pathlib import Path
from typing import Any

import pytest

from mtad.bench.split import split
from mtad.errors import DataError
from mtad.tasks import BUNDLED, Item, find
from mtad.tasks.closed_book import ClosedBook, normalised
from recipes.bundled_tasks import closed_book as generator

DATA = BUNDLED / "closed_book"
ROW = {
    "kind": "capital",
    "group": "Brazil",
    "question": "What is the capital of Brazil?",
    "answers": ["Brasília"],
}
EXAMPLE = {**ROW, "question": "What is the capital of Mexico?", "answers": ["Mexico City"]}


def write(folder: Path, rows: list[Any], examples: list[Any]) -> Path:
    for name, lines in {"test.jsonl": rows, "examples.jsonl": examples}.items():
        (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def scored(answer: str, *right: str) -> float | None:
    item = Item("0", ("Which?",), record={"answers": list(right)})
    return ClosedBook(DATA).score(item, [answer]).value


def test_registered_under_its_name() -> None:
    assert find("closed_book") is ClosedBook


@pytest.mark.parametrize("chat", [False, True])
def test_prompt_is_solved_questions_and_the_question(tmp_path: Path, chat: bool) -> None:
    write(tmp_path, [ROW], [EXAMPLE])
    task = ClosedBook(tmp_path, chat=chat, num_examples=1)
    text = (
        "Question: What is the capital of Mexico?\nAnswer: Mexico City\n\n"
        "Question: What is the capital of Brazil?\nAnswer:"
    )
    turns = [
        {"role": "user", "content": "What is the capital of Mexico?"},
        {"role": "assistant", "content": "Mexico City"},
        {"role": "user", "content": "What is the capital of Brazil?"},
    ]
    asked = turns if chat else text
    assert task.prompt(task.prompts()[0], []) == asked
    assert task.stops == (() if chat else ("\n",))


def test_examples_are_for_plain_text_unless_asked_for() -> None:
    assert (ClosedBook(DATA).num_examples, ClosedBook(DATA, chat=False).num_examples) == (0, 3)
    assert ClosedBook(DATA, num_examples=2).num_examples == 2


RIGHT_ANSWERS = {
    "alone": ("Brasília", "Brasília"),
    "without accent": ("Brasilia", "Brasília"),
    "small letters": (" brasília.\n", "Brasília"),
    "quotes": ("“Brasília”", "Brasília"),
    "bold": ("**Brasília**", "Brasília"),
    "sentence": ("The capital of Brazil is Brasília.", "Brasília"),
    "sentence, answer first": ("Brasília is the capital of Brazil.", "Brasília"),
    "possessive": ("Brazil's capital is Brasília.", "Brasília"),
    "label": ("Answer: Brasília", "Brasília"),
    "the answer is": ("The answer is Brasília.", "Brasília"),
    "clause behind": ("The capital of Brazil is Brasília, which was founded in 1960.", "Brasília"),
    "parentheses behind": ("Brasília (Federal District)", "Brasília"),
    "sentences behind": ("Brasília. It is not Rio de Janeiro.", "Brasília"),
    "lines behind": ("Brasília\n\nQuestion: What is the capital of Peru?", "Brasília"),
    "fence": ("```\nBrasília\n```", "Brasília"),
    "reasoning": ("<think>\nRio?\n</think>\nBrasília", "Brasília"),
    "another answer": ("beneath", "below", "beneath"),
    "article": ("the yen", "yen"),
    "initials": ("H. G. Wells", "H. G. Wells"),
    "initials without points": ("HG Wells wrote it".removesuffix(" wrote it"), "H.G. Wells"),
    "written by": ("Hamlet was written by William Shakespeare.", "William Shakespeare"),
    "by": ("The book “The Raven” by Edgar Allan Poe is a poem.", "Edgar Allan Poe"),
    "adverb": ("The main language of Thailand is predominantly Thai.", "Thai"),
    "symbol": ("The chemical symbol of iron is Fe.", "Fe"),
    "quoted in a sentence": ('The plural of the word "goose" is "geese".', "geese"),
    "is called": ("A young horse is called a foal.", "foal"),
    "or": ('The opposite of "begin" is "end" or "stop".', "end"),
    "answer to this question": ("The answer to this question is: Spanish", "Spanish"),
    "colon": ("The opposite of hot: cold", "cold"),
}
WRONG_ANSWERS = {
    "nothing": ("", "Brasília"),
    "another": ("Rio de Janeiro", "Brasília"),
    "part of a word": ("Brasílias", "Brasília"),
    "more words": ("Brasília city", "Brasília"),
    "later": ("Rio de Janeiro. Or Brasília.", "Brasília"),
    "second line": ("Rio\nBrasília", "Brasília"),
    "denied": ("The capital of Brazil is not Brasília.", "Brasília"),
    "denied first": ("Brasília isn't the capital.", "Brasília"),
    "not by": ("It is not by Edgar Allan Poe.", "Edgar Allan Poe"),
    "by another": ("The book “The Raven” by Robert Poe is a poem.", "Edgar Allan Poe"),
    "a list": ("Rio de Janeiro, Brasília", "Brasília"),
    "the question": ("The capital of Brazil", "Brasília"),
    "the word itself": ('The plural of "goose" is "gooses".', "geese"),
    "reasoning only": ("<think>\nBrasília", "Brasília"),
}


@pytest.mark.parametrize("case", RIGHT_ANSWERS.values(), ids=RIGHT_ANSWERS)
def test_right_answers_score_1(case: tuple[str, ...]) -> None:
    assert scored(*case) == 1.0


@pytest.mark.parametrize("case", WRONG_ANSWERS.values(), ids=WRONG_ANSWERS)
def test_wrong_answers_score_0(case: tuple[str, ...]) -> None:
    assert scored(*case) == 0.0


def test_normalised_keeps_what_tells_answers_apart() -> None:
    assert normalised("The  Złoty.") == "zloty"
    assert normalised("Port-au-Prince") == "port au prince"
    assert normalised("N'Djamena") == normalised("N\u2019Djamena")
    assert normalised("東京") == "東京"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": " "}, "question is ' '; expected a text"),
        ({"answers": "Rio"}, "answers is 'Rio'; expected a list"),
        ({"answers": []}, r"answers is \[\]; expected a list"),
        ({"answers": ["Rio", "?"]}, r"answers has '\?'"),
        ({"kind": None}, "kind is None; expected a text"),
        ({"kind": "river"}, "num_examples is 1; .* has 0 of the kind 'river'"),
    ],
)
def test_damaged_records_are_named(tmp_path: Path, change: Any, reason: str) -> None:
    write(tmp_path, [{**ROW, **change}], [EXAMPLE])
    with pytest.raises(DataError, match=reason):
        ClosedBook(tmp_path, num_examples=1).prompts()


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match="num_examples is -1; give 0 or more"):
        ClosedBook(DATA, num_examples=-1)


# --- the bundled questions -------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundled() -> list[Item]:
    return ClosedBook(DATA, num_examples=3).prompts()


def test_bundled_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    generator.write(tmp_path)
    for path in DATA.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_splits_never_overlap(bundled: list[Item]) -> None:
    parts = split(bundled, 100, 500)
    assert 100 <= len(parts["dev"]) < 104
    assert len(parts["test"]) == 500
    assert not {item.group for item in parts["dev"]} & {item.group for item in parts["test"]}


def test_no_question_is_asked_twice_or_shown(bundled: list[Item]) -> None:
    asked = [item.turns[0] for item in bundled]
    assert len({*asked}) == len(asked)
    shown = {example["question"] for item in bundled for example in item.record["examples"]}
    assert shown and not shown & {*asked}


def test_every_right_answer_scores_1_and_others_0(bundled: list[Item]) -> None:
    task = ClosedBook(DATA)
    for item, other in zip(bundled, bundled[1:] + bundled[:1], strict=True):
        for answer in item.record["answers"]:
            assert task.score(item, [answer]).value == 1.0
            assert task.score(item, [f"It is {answer}."]).value == 1.0
        right = {normalised(answer) for answer in item.record["answers"]}
        if normalised(other.record["answers"][0]) not in right:
            assert task.score(item, [other.record["answers"][0]]).value == 0.0


def test_repeating_the_question_scores_0(bundled: list[Item]) -> None:
    task = ClosedBook(DATA)
    for item in bundled:
        if item.record["group"] not in item.record["answers"]:
            sentence = item.turns[0].removeprefix("What is ").rstrip("?")
            assert task.score(item, [sentence]).value == 0.0
            assert task.score(item, [f"{item.record['group']} is a word."]).value == 0.0
