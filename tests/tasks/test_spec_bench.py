"""Spec-Bench: its questions in, its file of answers out, and no score."""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.real_data import real_data

from mtad.bench.report import TaskInfo
from mtad.engine.stats import Stats
from mtad.errors import DataError
from mtad.tasks import Exported, find
from mtad.tasks.spec_bench import SpecBench

ROWS: list[dict[str, Any]] = [
    {"question_id": 81, "category": "writing", "turns": ["Write a line.", "Now another."]},
    {"question_id": 161, "category": "translation", "turns": ["Guten Tag"], "reference": ["Hello"]},
    {"question_id": 481, "category": "rag", "turns": ["Why?"], "reference": [["a", "b"]]},
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    lines = [json.dumps(row) for row in ROWS]
    (tmp_path / "question.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def stats(steps: int, tokens: int, histogram: dict[int, int]) -> dict[str, Any]:
    found = Stats(num_spec_steps=steps, num_output_tokens=tokens, prefill_s=0.25, decode_s=1.0)
    found.acceptance_histogram.update(histogram)
    return found.as_dict()


def test_registered_under_its_name() -> None:
    assert find("spec_bench") is SpecBench


def test_questions_keep_order_turns_and_categories(data: Path) -> None:
    items = SpecBench(data).prompts()
    assert [(item.id, item.category, [*item.turns]) for item in items] == [
        (str(row["question_id"]), row["category"], row["turns"]) for row in ROWS
    ]


def test_a_sample_has_the_first_questions_of_each_category(tmp_path: Path) -> None:
    rows = [
        {"question_id": number, "category": category, "turns": ["Why?"]}
        for number, category in enumerate(["qa", "qa", "rag", "qa", "rag", "math"])
    ]
    (tmp_path / "question.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = {
        (number, skipped): "".join(item.id for item in SpecBench(tmp_path, True, *both).prompts())
        for both in itertools.product((1, 2, 0), (0, 1))
        for number, skipped in [both]
    }
    assert found == {
        (1, 0): "025", (2, 0): "01245", (0, 0): "012345",
        (1, 1): "14", (2, 1): "134", (0, 1): "134",
    }  # fmt: skip


def test_nothing_is_scored(data: Path) -> None:
    task = SpecBench(data)
    score = task.score(task.prompts()[0], ["a", "b"])
    assert score.value is None
    assert "speed" in score.detail["problem"] and score.detail["category"] == "writing"
    assert TaskInfo.of(task).scale is None


@pytest.mark.parametrize("chat", [True, False])
def test_second_turn_follows_the_first_answer(data: Path, chat: bool) -> None:
    task = SpecBench(data, chat=chat)
    item = task.prompts()[0]
    asked = task.prompt(item, ["Done."])
    if chat:
        said = [("user", "Write a line."), ("assistant", "Done."), ("user", "Now another.")]
        assert asked == [{"role": role, "content": text} for role, text in said]
    else:
        assert asked == (
            "Human: Write a line.\n\nAssistant: Done.\n\nHuman: Now another.\n\nAssistant:"
        )


def test_answers_come_out_in_spec_benchs_shape(data: Path) -> None:
    task = SpecBench(data)
    two, one, _ = task.prompts()
    turns = [stats(3, 7, {0: 1, 2: 2}), stats(2, 4, {1: 2})]
    samples = {
        "81": [Exported(two, ["a", "b"], None, seed, turns) for seed in (1, 0)],
        "161": [Exported(one, ["c"], None, 0, turns[:1])],
        "481": [],
    }
    ((name, text),) = task.export("mtad, tau 0.5/x", samples).items()
    assert name == "spec_bench/model_answer/mtad, tau 0.5%2Fx.jsonl"
    rows = [json.loads(line) for line in text.splitlines()]
    assert [(row["question_id"], row["category"]) for row in rows] == [
        (81, "writing"),
        (161, "translation"),
    ]
    assert {row["model_id"] for row in rows} == {"mtad, tau 0.5/x"}
    assert rows[0]["choices"][0] == {
        "index": 0,
        "turns": ["a", "b"],
        "decoding_steps": [3, 2],
        "new_tokens": [7, 4],
        "wall_time": [1.25, 1.25],
        "accept_lengths": [1, 3, 3, 2, 2],
    }
    assert [choice["index"] for choice in rows[0]["choices"]] == [0, 1]
    assert {"answer_id", "tstamp"} < rows[1].keys()


def test_missing_questions_say_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"question\.jsonl from .*hemingkx/Spec-Bench"):
        SpecBench(tmp_path).prompts()


def test_real_questions_are_read() -> None:
    items = SpecBench(real_data("spec_bench")).prompts()
    counts = Counter((item.category, len(item.turns)) for item in items)
    large = {"translation", "summarization", "qa", "math_reasoning", "rag"}
    small = {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem"}
    assert counts == {
        **{(name, 1): 80 for name in large},
        **{(name, 2): 10 for name in {*small, "humanities"}},
    }
    assert len({item.id for item in items}) == 480
