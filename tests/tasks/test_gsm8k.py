"""GSM8K: the prompt, which number of an answer counts, and the bundled questions."""

import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from support.real_data import real_data

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from mtad import demo  # noqa: E402
from mtad.errors import DataError  # noqa: E402
from mtad.tasks import BUNDLED, Item, find  # noqa: E402
from mtad.tasks.gsm8k import GSM8K, flexible, strict  # noqa: E402
from mtad.tasks.gsm8k_examples import EXAMPLES  # noqa: E402
from recipes.bundled_tasks import gsm8k as generator  # noqa: E402
from recipes.demo_pair import corpus  # noqa: E402
from recipes.demo_pair.presets import PRESETS  # noqa: E402

DATA = BUNDLED / "gsm8k"
ROWS = [
    {"question": "Two boxes of 9 eggs: how many eggs?", "answer": "2 * 9 = <<2*9=18>>18\n#### 18"},
    {"question": "And {1000} boxes?", "answer": "1000 * 9 = 9000\n#### 9,000"},
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    lines = [json.dumps(row) for row in ROWS]
    (tmp_path / "test.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def test_registered_under_its_name() -> None:
    assert find("gsm8k") is GSM8K


def test_questions_keep_their_order(data: Path) -> None:
    items = GSM8K(data).prompts()
    assert [item.turns[0] for item in items] == [row["question"] for row in ROWS]
    assert [item.id for item in items] == ["0000", "0001"]


def test_prompt_has_eight_solved_questions_and_then_the_question(data: Path) -> None:
    task = GSM8K(data)
    prompt = task.prompt(task.prompts()[1], [])
    assert isinstance(prompt, str)
    assert prompt.endswith("\n\nQuestion: And {1000} boxes?\nAnswer:")
    parts = prompt.split("\n\n")
    assert len(parts) == 9
    for part, (question, answer) in zip(parts, EXAMPLES, strict=False):
        assert part == f"Question: {question}\nAnswer: {answer}"
    assert task.stops == ("\nQuestion:",)


def test_chat_has_the_examples_as_turns(data: Path) -> None:
    task = GSM8K(data, chat=True, num_examples=2)
    assert task.prompt(task.prompts()[0], []) == [
        {"role": "user", "content": EXAMPLES[0][0]},
        {"role": "assistant", "content": EXAMPLES[0][1]},
        {"role": "user", "content": EXAMPLES[1][0]},
        {"role": "assistant", "content": EXAMPLES[1][1]},
        {"role": "user", "content": ROWS[0]["question"]},
    ]
    assert task.stops == ()


@pytest.mark.parametrize("chat", [False, True])
def test_prompt_may_go_without_examples(data: Path, chat: bool) -> None:
    task = GSM8K(data, chat=chat, num_examples=0)
    plain = "Question: Two boxes of 9 eggs: how many eggs?\nAnswer:"
    asked = [{"role": "user", "content": ROWS[0]["question"]}] if chat else plain
    assert task.prompt(task.prompts()[0], []) == asked


@pytest.mark.parametrize("example", EXAMPLES, ids=range(8))
def test_examples_are_right(example: tuple[str, str]) -> None:
    """Every equation in a solution holds, and its last result is the answer."""
    _, solution = example
    equations = re.findall(r"([0-9 +*/-]*[0-9]) = ([0-9]+)", solution)
    assert equations
    for left, right in equations:
        assert eval(left) == int(right), left
    assert strict(solution) == flexible(solution) == equations[-1][1]
    assert solution.endswith(f"The answer is {equations[-1][1]}.")


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("2 * 9 = 18. The answer is 18.", "18"),
        ("The answer is 18", "18"),
        ("So the answer is 18.", "18"),
        ("The answer is $1,080.", "1080"),
        ("The answer is -7.", "-7"),
        ("The answer is $-7.", "-7"),
        ("The answer is 2.50.", "2.50"),
        ("2 * 9 = 18\n#### 18", "18"),
        ("####18", "18"),
        ("#### $9,000.", "9000"),
        ("The answer is 18. The answer is 5.", "18"),
        ("The answer is 18 eggs, not 20.", "18"),
        ("The answer is\n18", "18"),
        ("<think>The answer is 5.</think>\nThe answer is 18.", "18"),
        ("<think>\nThe answer is 5.", None),
        ("Eighteen: 18", None),
        ("The answer is eighteen, 18.", None),
        ("The answer is **18**.", None),
        ("", None),
    ],
)
def test_strict_takes_the_first_marked_number(answer: str, found: str | None) -> None:
    assert strict(answer) == found


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("2 * 9 = 18. The answer is 18.", "18"),
        ("They are 18 eggs.", "18"),
        ("They cost $1,080.", "1080"),
        ("They cost $1,080.50.", "1080.50"),
        ("It is **18**", "18"),
        (r"It is $\boxed{18}$.", "18"),
        (r"It is \$18.", "18"),
        (r"It is $1{,}080$.", "1080"),
        ("That is -7 degrees", "-7"),
        ("That is −7 degrees", "-7"),
        ("It lost -$7.", "-7"),
        ("It lost $-7.", "-7"),
        ("20-2", "2"),
        ("pages 5-7", "7"),
        ("(20)-2", "2"),
        ("= -2", "-2"),
        ("18%", "18"),
        ("18 eggs... and that is all...", "18"),
        ("18 eggs for $.", "18"),
        ("It takes .5 hours", ".5"),
        ("First 3, then 4, so 7", "7"),
        ("<think>It is 5.</think>\nIt is 18.", "18"),
        ("It is 5.\n</think>\nIt is 18.", "18"),
        ("[THINK]It is 18.[/THINK]", None),
        ("None at all, ...", None),
        ("", None),
    ],
)
def test_flexible_takes_the_last_number(answer: str, found: str | None) -> None:
    assert flexible(answer) == found


@pytest.mark.parametrize(
    ("answer", "values"),
    [
        ("The answer is 9,000.", (1.0, 1.0)),
        ("The answer is $9000", (1.0, 1.0)),
        ("The answer is 9000. For 2 boxes it is 18.", (1.0, 0.0)),
        ("That makes 9000 eggs.", (0.0, 1.0)),
        ("The answer is 9000.0.", (0.0, 0.0)),
        ("The answer is 900.", (0.0, 0.0)),
        ("", (0.0, 0.0)),
    ],
)
def test_scores_of_known_answers(data: Path, answer: str, values: tuple[float, float]) -> None:
    for extraction, value in zip(("strict", "flexible"), values, strict=True):
        task = GSM8K(data, extraction=extraction)
        score = task.score(task.prompts()[1], [answer])
        assert score.value == value
        assert score.detail["gold"] == "9000"
        assert score.detail["right"] == {"strict": values[0], "flexible": values[1]}


def test_report_shows_both_extractions(data: Path) -> None:
    task = GSM8K(data)
    one, other = task.prompts()
    scores = {
        "0000": [task.score(one, ["The answer is 18."]), task.score(one, ["18 eggs"])],
        "0001": [task.score(other, ["9000 eggs"])],
    }
    assert task.more(scores) == {"exact_match_strict": 0.25, "exact_match_flexible": 1.0}
    assert task.more({}) == {}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_examples": 9}, "num_examples is 9; allowed are 0 to 8"),
        ({"num_examples": -1}, "num_examples is -1; allowed are 0 to 8"),
        ({"extraction": "loose"}, "extraction is 'loose'; allowed are flexible, strict"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        GSM8K(DATA, **options)


def test_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"test\.jsonl from .*openai/grade-school-math"):
        GSM8K(tmp_path).prompts()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "no JSON"),
        ("7", "not a JSON object"),
        ('{"answer": "#### 1"}', "question is None"),
        ('{"question": " ", "answer": "#### 1"}', "question is ' '"),
        ('{"question": "a"}', "answer is None"),
        ('{"question": "a", "answer": "nothing"}', '"#### N"'),
    ],
)
def test_damaged_line_is_named(data: Path, line: str, reason: str) -> None:
    path = data / "test.jsonl"
    path.write_text(f"{json.dumps(ROWS[0])}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=reason) as raised:
        GSM8K(data).prompts()
    assert str(raised.value).startswith(f"{path}, line 3")


def test_line_separators_of_unicode_end_no_line(data: Path) -> None:
    row = {"question": "One\u2028two\u0085 three?", "answer": "#### 6"}
    text = json.dumps(row, ensure_ascii=False)
    (data / "test.jsonl").write_text(text, encoding="utf-8", newline="\n")
    assert GSM8K(data).prompts()[0].turns == ("One\u2028two\u0085 three?",)


def test_real_answers_are_right_and_others_are_not() -> None:
    task = GSM8K(real_data("gsm8k"))
    items = task.prompts()
    assert len(items) == 1319
    for item in items:
        own = task.score(item, [item.record["answer"]])
        assert own.detail["right"] == {"strict": 1.0, "flexible": 1.0}
        gold = own.detail["gold"]
        said = task.score(item, [f"It is so.\nThe answer is ${int(gold):,}."])
        assert said.detail["right"] == {"strict": 1.0, "flexible": 1.0}
        wrong = task.score(item, [f"The answer is {int(gold) + 1}."])
        assert wrong.detail["right"] == {"strict": 0.0, "flexible": 0.0}


def test_examples_are_no_real_questions() -> None:
    asked = {item.turns[0] for item in GSM8K(real_data("gsm8k")).prompts()}
    assert not asked & {question for question, _ in EXAMPLES}


def bundled() -> list[Item]:
    return GSM8K(DATA).prompts()


def test_bundled_file_is_what_the_generator_writes(tmp_path: Path) -> None:
    generator.write(tmp_path)
    assert (tmp_path / "test.jsonl").read_bytes() == (DATA / "test.jsonl").read_bytes()


def test_bundled_set_is_asked_in_chats_without_examples() -> None:
    task = GSM8K(DATA)
    items = task.prompts()
    assert len({item.turns for item in items}) == len(items) == 60
    first = items[0]
    assert task.prompt(first, []) == [{"role": "user", "content": first.turns[0]}]
    assert GSM8K(DATA, num_examples=1).prompt(first, [])[0]["content"] == EXAMPLES[0][0]


def test_bundled_answers_have_known_scores() -> None:
    task = GSM8K(DATA)
    for item in task.prompts():
        sentence = item.record["answer"].partition("\n")[0]
        assert task.score(item, [sentence]).value == 1.0
        assert task.score(item, [sentence.replace(" are ", " are 1")]).value == 0.0


def test_bundled_questions_were_never_trained_on() -> None:
    """By the rule that keeps them out, and by looking at what training does see."""
    asked = {item.turns[0] for item in bundled()}
    rule = [corpus.bucket(f"request:{text}", corpus.NUM_BUCKETS["request"]) for text in asked]
    assert set(rule) == {0}
    odds = {"chat": 1.0, "answering": 2.0}
    examples = itertools.islice(corpus.training_examples(PRESETS["gpu"].seed, 0.2, odds), 2000)
    assert not asked & {m["content"] for problem, _ in examples for m in problem.prompt}
    heldout = {m["content"] for item in demo.heldout("chat") for m in item["messages"]}
    assert not asked & heldout
