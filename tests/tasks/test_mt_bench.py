"""MT-Bench: FastChat's files in and out, scores of known answers, and the bundled questions."""

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from support.benchmarks import sample, score  # noqa: E402
from support.real_data import real_data  # noqa: E402

from mtad import demo  # noqa: E402
from mtad.bench import choose  # noqa: E402
from mtad.bench.report import Results, Summary, TaskInfo  # noqa: E402
from mtad.bench.report.metrics import QUALITY  # noqa: E402
from mtad.engine.stats import Stats  # noqa: E402
from mtad.errors import DataError, JudgeError  # noqa: E402
from mtad.tasks import BUNDLED, Exported, Item, Score, find  # noqa: E402
from mtad.tasks.endpoint_judge import EndpointJudge  # noqa: E402
from mtad.tasks.judge import Grade, Turn  # noqa: E402
from mtad.tasks.mt_bench import MTBench  # noqa: E402
from recipes.bundled_tasks import mt_bench as generator  # noqa: E402
from recipes.demo_pair import corpus  # noqa: E402
from recipes.demo_pair.presets import PRESETS  # noqa: E402

DATA = BUNDLED / "mt_bench"
QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["Write a line.", "Now another."]},
    {"question_id": 111, "category": "math", "turns": ["What is 2+2?", "Twice that?"]},
]
NOTHING = {"unparsed_judgments": 0.0, "ratings_in_single_brackets": 0.0}
RIGHT = {81: ["A line.", "Another line."], 111: ["4", "8"]}


def write(folder: Path, rows: Sequence[Any], name: str = "question.jsonl") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def reference_row(number: int, turns: Sequence[str]) -> dict[str, Any]:
    return {"question_id": number, "choices": [{"index": 0, "turns": list(turns)}]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(tmp_path, QUESTIONS)
    rows = [reference_row(number, turns) for number, turns in RIGHT.items()]
    write(tmp_path, rows, "reference_answer/gpt-4.jsonl")
    return tmp_path


class Scripted:
    """A judge that gives the listed ratings in turn, and remembers what it was shown."""

    def __init__(self, ratings: Sequence[float | None]) -> None:
        self.ratings = iter(ratings)
        self.references: list[Sequence[str] | None] = []
        self.answers: list[list[str]] = []
        self.said: list[str] = []
        self.padding = "x" * 5000

    def grade(self, turn: Turn) -> Grade:
        self.references.append(turn.reference)
        self.answers.append([*turn.answers])
        rating = next(self.ratings)
        opening = f"turn {turn.number} of {turn.question[0]}"
        self.said.append(f"{opening} {self.padding} Rating: [[{rating}]]")
        return Grade(rating, self.said[-1], "" if rating else "no rating")


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the endpoint judge give the ratings it is called with."""

    def use(*ratings: float | None) -> Scripted:
        fake = Scripted(ratings)
        monkeypatch.setattr(EndpointJudge, "grade", lambda _, turn: fake.grade(turn))
        return fake

    return use


def test_registered_under_its_name() -> None:
    assert find("mt_bench") is MTBench


def test_questions_keep_order_and_fields(data: Path) -> None:
    items = MTBench(data).prompts()
    assert [item.id for item in items] == ["81", "111"]
    assert [item.turns for item in items] == [tuple(q["turns"]) for q in QUESTIONS]
    assert [item.category for item in items] == ["writing", "math"]
    assert [item.record["reference"] for item in items] == [*RIGHT.values()]


def test_reference_of_the_question_is_read_where_the_folder_has_none(tmp_path: Path) -> None:
    write(tmp_path, [QUESTIONS[0], QUESTIONS[1] | {"reference": ["4", "8"]}])
    items = MTBench(tmp_path).prompts()
    assert [item.record["reference"] for item in items] == [None, ["4", "8"]]


def test_references_of_the_judge_go_first(data: Path) -> None:
    write(data, [reference_row(111, ["four", "eight"])], "reference_answer/zeta.jsonl")
    assert MTBench(data, judge="other").prompts()[1].record["reference"] == ["4", "8"]
    assert MTBench(data, judge="zeta").prompts()[1].record["reference"] == ["four", "eight"]


def test_missing_questions_say_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"question\.jsonl.*lm-sys/FastChat") as raised:
        MTBench(tmp_path / "nowhere").prompts()
    assert str(tmp_path / "nowhere") in str(raised.value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"question_id": 1, "turns": ["a", ', "no JSON"),
        ("\udcff", "no JSON"),
        ("[1]", "not a JSON object"),
        ({"category": "math", "turns": ["a", "b"]}, "question_id is None"),
        ({"question_id": 1.5, "category": "math", "turns": ["a", "b"]}, "question_id is 1.5"),
        ({"question_id": 1, "category": "math"}, "turns is None"),
        ({"question_id": 1, "category": "math", "turns": []}, "turns is"),
        ({"question_id": 1, "category": "math", "turns": ["a", " "]}, "none empty"),
        ({"question_id": 1, "category": "math", "turns": ["a", 2]}, "turns is"),
        ({"question_id": 1, "category": "math", "turns": "ab"}, "turns is 'ab'"),
        ({"question_id": 1, "turns": ["a", "b"]}, "category is None"),
        (
            {"question_id": 1, "category": "m", "turns": ["a", "b"], "reference": "r"},
            "reference is 'r'",
        ),
        (
            {"question_id": 1, "category": "m", "turns": ["a"], "reference": [["r", 1]]},
            "reference is",
        ),
        (QUESTIONS[0], "81 occurs twice"),
    ],
)
def test_damaged_line_is_named(tmp_path: Path, line: Any, reason: str) -> None:
    path = tmp_path / "question.jsonl"
    text = line if isinstance(line, str) else json.dumps(line)
    whole = json.dumps(QUESTIONS[0]) + "\n\n" + text + "\n"
    path.write_bytes(whole.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=reason) as raised:
        MTBench(tmp_path).prompts()
    assert str(raised.value).startswith(f"{path}, line 3")


def test_empty_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [""])
    with pytest.raises(DataError, match="is empty"):
        MTBench(tmp_path).prompts()


@pytest.mark.parametrize(
    "line",
    [
        "{",
        {"question_id": 81},
        {"question_id": 81, "choices": []},
        {"question_id": 81, "choices": [{"turns": [1, 2]}]},
        {"question_id": 81, "choices": 7},
    ],
)
def test_damaged_reference_is_named(data: Path, line: Any) -> None:
    path = write(data, [reference_row(81, ["a", "b"]), line], "reference_answer/a.jsonl")
    with pytest.raises(DataError) as raised:
        MTBench(data).prompts()
    assert str(raised.value).startswith(f"{path}, line 2")


def test_chat_asks_turn_by_turn(data: Path) -> None:
    task = MTBench(data)
    item = task.prompts()[0]
    first = {"role": "user", "content": "Write a line."}
    answer = {"role": "assistant", "content": "Done."}
    second = {"role": "user", "content": "Now another."}
    assert task.prompt(item, []) == [first]
    assert task.prompt(item, ["Done."]) == [first, answer, second]
    assert task.stops == ()


def test_transcript_asks_without_a_template(data: Path) -> None:
    task = MTBench(data, chat=False)
    item = task.prompts()[0]
    assert task.prompt(item, []) == "Human: Write a line.\n\nAssistant:"
    assert task.prompt(item, [" Done.\n"]) == (
        "Human: Write a line.\n\nAssistant: Done.\n\nHuman: Now another.\n\nAssistant:"
    )
    assert task.stops == ("\nHuman:",)


@pytest.mark.parametrize(
    ("answers", "ratings", "value"),
    [
        (RIGHT[111], [10.0, 10.0], 10.0),
        (["4", "nine"], [10.0, 1.0], 5.5),
        (["five", "nine"], [1.0, 1.0], 1.0),
        (["8", "4"], [1.0, 1.0], 1.0),
    ],
)
def test_reference_judge_scores_known_answers(
    data: Path, answers: list[str], ratings: list[float], value: float
) -> None:
    task = MTBench(data, judge="reference")
    score = task.score(task.prompts()[1], answers)
    assert score.value == value
    assert score.detail["ratings"] == ratings
    assert score.detail["judge"] == "reference"
    assert "problem" not in score.detail


def test_endpoint_judge_sees_references_where_the_category_needs_them(
    data: Path, scripted: Any
) -> None:
    task = MTBench(data, judge="grader")
    fake = scripted(7.0, 4.5, 2.0, 3.0)
    values = [task.score(item, ["a", "b"]).value for item in task.prompts()]
    assert values == [5.75, 2.5]
    assert fake.references == [None, None, RIGHT[111], RIGHT[111]]


def test_questions_may_have_any_number_of_turns(tmp_path: Path) -> None:
    turns = [["One?"], ["One?", "Two?"], ["One?", "Two?", "Three?"]]
    rows = [{"question_id": n, "category": "c", "turns": t} for n, t in enumerate(turns, 1)]
    write(tmp_path, rows)
    write(
        tmp_path, [reference_row(n, t) for n, t in enumerate(turns, 1)], "reference_answer/r.jsonl"
    )
    task = MTBench(tmp_path, judge="reference")
    items = task.prompts()
    assert [[*item.turns] for item in items] == turns
    scores = {item.id: [task.score(item, item.turns)] for item in items}
    scores["3"] = [task.score(items[2], ("One?", "Two?", "Four!"))]
    assert [found[0].value for found in scores.values()] == [10.0, 10.0, 7.0]
    metrics = task.more(scores)
    assert [metrics[f"turn_{n}"] for n in (1, 2, 3)] == [10.0, 10.0, 1.0]
    samples = {item.id: [exported(task, item, item.turns)] for item in items}
    judged = rows_of(task.export("run", samples)["mt_bench/model_judgment/run_single.jsonl"])
    assert [row["turn"] for row in judged] == [1, 1, 2, 1, 2, 3]
    assert task.prompt(items[0], []) == [{"role": "user", "content": "One?"}]


def test_lists_of_right_answers_are_read_and_are_no_reference_for_a_judge(tmp_path: Path) -> None:
    """Spec-Bench's questions about documents have a list of right answers for each turn."""
    row = {"question_id": 1, "turns": ["Why?"], "reference": [["because", "for"]]}
    write(tmp_path, [row | {"category": "rag"}])
    MTBench(tmp_path, judge="grader", judge_base_url="http://127.0.0.1:9/v1").check()
    with pytest.raises(JudgeError, match=r"question 1 \(rag\) has no reference"):
        MTBench(tmp_path, judge="reference").check()


@pytest.mark.parametrize(
    ("ratings", "value", "problem"),
    [
        ((9.0, None), 9.0, "turn 2: no rating"),
        ((None, 4.0), 4.0, "turn 1: no rating"),
        ((5.0, 7.0), 6.0, None),
        ((None, None), None, "turn 1: no rating; turn 2: no rating"),
    ],
)
def test_turn_without_a_rating_leaves_the_other_turn_its_own(
    data: Path,
    scripted: Any,
    ratings: tuple[float | None, ...],
    value: float | None,
    problem: str | None,
) -> None:
    task = MTBench(data, judge="grader")
    scripted(*ratings)
    score = task.score(task.prompts()[0], ["a", "b"])
    assert (score.value, score.detail.get("problem")) == (value, problem)
    assert score.detail["ratings"] == [*ratings]


def test_means_are_those_of_fastchats_show_result(data: Path, scripted: Any) -> None:
    """Which takes all rows of the judgment file but those with the score -1."""
    write(data, [*QUESTIONS, {"question_id": 5, "category": "c", "turns": ["Why?"]}])
    task = MTBench(data, judge="grader")
    scripted(9.0, None, 5.0, 7.0, 3.0)
    samples = {
        item.id: [exported(task, item, ["a", "b"][: len(item.turns)])] for item in task.prompts()
    }
    judged = rows_of(task.export("run", samples)["mt_bench/model_judgment/run_single.jsonl"])
    rated = [row for row in judged if row["score"] != -1]
    assert [row["score"] for row in rated] == [9.0, 5.0, 7.0, 3.0]

    scores = {key: [one.score for one in group if one.score] for key, group in samples.items()}
    metrics = task.more(scores)
    for turn in (1, 2):
        wanted = fmean(row["score"] for row in rated if row["turn"] == turn)
        assert metrics[f"turn_{turn}"] == wanted
    assert metrics["unparsed_judgments"] == 1.0
    rows = [sample(item=key, task="mt_bench") for key in scores]
    values = [group[0] for group in scores.values()]
    results = Results(
        rows,
        [score(r, v.value, detail=v.detail) for r, v in zip(rows, values, strict=True)],
        {"mt_bench": TaskInfo.of(task)},
    )
    mean = Summary(results).estimate("base", QUALITY, "mt_bench").value
    assert mean == fmean(row["score"] for row in rated) == 6.0
    found = choose._mean_score(results.scores)
    assert found == 6.0, "options are chosen by the same mean"


def test_seeds_of_an_item_are_averaged_before_its_ratings_count() -> None:
    """An item with two seeds weighs no more than one with one."""
    ratings = {("a", 0): [2.0, 4.0], ("a", 1): [6.0, None], ("b", 0): [9.0, 9.0]}
    rows = [sample(item=item, task="mt_bench", seed=seed) for item, seed in ratings]
    scored = [
        score(row, fmean(v for v in given if v is not None), detail={"ratings": given})
        for row, given in zip(rows, ratings.values(), strict=True)
    ]
    results = Results(rows, scored, {"mt_bench": TaskInfo("score", (1.0, 10.0))})
    mean = Summary(results).estimate("base", QUALITY, "mt_bench").value
    assert mean == pytest.approx(((2 + 4 + 6) / 2 + 9 + 9) / (3 / 2 + 2))


def test_rating_in_single_brackets_is_counted(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter(["In step [3] it fails.", "Rating: [[8]]", "See [2].", "No."])
    monkeypatch.setattr(EndpointJudge, "_judgment", lambda *_: next(said, "No."))
    task = MTBench(data, judge="grader")
    scores = {item.id: [task.score(item, ["a", "b"])] for item in task.prompts()}
    assert [found[0].detail["ratings"] for found in scores.values()] == [[3.0, 8.0], [2.0, None]]
    assert [found[0].detail["in_single_brackets"] for found in scores.values()] == [[1], [1]]
    assert task.more(scores) == {
        "unparsed_judgments": 1.0,
        "ratings_in_single_brackets": 2.0,
        "turn_1": 2.5,
        "turn_2": 8.0,
    }


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        ("<think>\nTwo and two?\n</think>\n\n4", "4"),
        ("Two and two?\n</think>\n4", "4"),
        ("[THINK]Two and two?[/THINK]4", "4"),
        ("<think>\nTwo and two", ""),
        ("Use `<think>` tags.", "Use `<think>` tags."),
    ],
)
def test_judge_sees_the_answer_without_its_reasoning(
    data: Path, scripted: Any, answer: str, seen: str
) -> None:
    task = MTBench(data, judge="grader")
    fake = scripted(7.0, 7.0)
    item = task.prompts()[0]
    one = exported(task, item, [answer, answer])
    assert [[text.strip() for text in texts] for texts in fake.answers] == [[seen, seen]] * 2
    files = task.export("run", {item.id: [one]})
    assert (
        rows_of(files["mt_bench/model_answer/run.jsonl"])[0]["choices"][0]["turns"] == [answer] * 2
    )
    asked = rows_of(files["mt_bench/model_judgment/run_single.jsonl"])[0]["user_prompt"]
    assert "Two and two" not in asked
    right = MTBench(data, judge="reference").score(task.prompts()[1], [answer, "8"])
    assert right.detail["ratings"][0] == (10.0 if seen == "4" else 1.0)


def test_nothing_judged_has_no_means(data: Path) -> None:
    assert MTBench(data).more({}) == NOTHING


def test_long_judgments_are_cut(data: Path, scripted: Any) -> None:
    """Only beyond any usual length, and never at the end, where the rating stands."""
    fake = scripted(9.0, 9.0)
    task = MTBench(data, judge="grader")
    judgments = task.score(task.prompts()[0], ["a", "b"]).detail["judgments"]
    assert judgments == fake.said and len(judgments[0]) > 5000
    fake = scripted(9.0, 9.0)
    fake.padding = "x" * 30_000
    judgments = task.score(task.prompts()[0], ["a", "b"]).detail["judgments"]
    assert [len(text) for text in judgments] == [20_000, 20_000]
    assert all(said.endswith(kept) for said, kept in zip(fake.said, judgments, strict=True))
    assert judgments[1].endswith("Rating: [[9.0]]")


def test_missing_turn_is_no_score(data: Path) -> None:
    task = MTBench(data, judge="reference")
    score = task.score(task.prompts()[1], ["4"])
    assert score == Score(None, {"judge": "reference", "problem": "1 answers to 2 turns"})
    assert task.more({"111": [score]}) == NOTHING


def test_no_judge_is_refused_with_the_options(data: Path) -> None:
    task = MTBench(data)
    for refused in (task.check, lambda: task.score(task.prompts()[0], ["a", "b"])):
        with pytest.raises(JudgeError, match=r"'reference'.*judge_base_url.*judge_api_key_env"):
            refused()


@pytest.mark.parametrize("judge", ["reference", "grader"])
@pytest.mark.parametrize("turns", [None, ["4"], ["4", " "]])
def test_missing_reference_is_refused_by_name(
    data: Path, judge: str, turns: list[str] | None
) -> None:
    rows = [reference_row(81, RIGHT[81])] + ([reference_row(111, turns)] if turns else [])
    write(data, rows, "reference_answer/gpt-4.jsonl")
    task = MTBench(data, judge=judge, judge_base_url="http://127.0.0.1:9/v1")
    with pytest.raises(JudgeError, match=r"question 111 \(math\) has no reference"):
        task.check()


def test_check_wants_the_key(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    task = MTBench(data, judge="grader", judge_api_key_env="MY_KEY")
    with pytest.raises(JudgeError, match="MY_KEY is not set"):
        task.check()
    monkeypatch.setenv("MY_KEY", "k")
    MTBench(data, judge="grader", judge_api_key_env="MY_KEY").check()


def test_options_reach_the_judge(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "k")
    url = "http://127.0.0.1:9/v1"
    task = MTBench(data, True, "grader", url, "MY_KEY", 2, 3.0)
    assert task._judge == EndpointJudge("grader", url, "MY_KEY", 2, 3.0)


@pytest.mark.parametrize("options", [{"judge_max_retries": -1}, {"judge_timeout_s": 0.0}])
def test_impossible_options_are_refused(data: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        MTBench(data, **options)


STATS = Stats(
    num_spec_steps=3,
    num_output_tokens=7,
    num_draft_tokens=9,
    num_accepted_draft_tokens=4,
    prefill_s=0.25,
    decode_s=1.0,
)
STATS.acceptance_histogram.update({0: 1, 2: 2})


def exported(task: MTBench, item: Item, answers: Sequence[str], seed: int = 0) -> Exported:
    score = task.score(item, answers) if task.judge else None
    return Exported(item, answers, score, seed, [STATS.as_dict()] * len(answers))


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_answers_come_back_in_fastchats_shape(data: Path) -> None:
    task = MTBench(data)
    items = task.prompts()
    samples = {item.id: [exported(task, item, RIGHT[int(item.id)])] for item in items}
    (path, text), *others = task.export("mtad, tau 0.5/x", samples).items()
    assert path == "mt_bench/model_answer/mtad, tau 0.5%2Fx.jsonl"
    assert not others, "nothing was judged"
    rows = rows_of(text)
    assert [row["question_id"] for row in rows] == [81, 111]
    assert [row["category"] for row in rows] == ["writing", "math"]
    assert {row["model_id"] for row in rows} == {"mtad, tau 0.5/x"}
    assert [row["choices"][0]["turns"] for row in rows] == [*RIGHT.values()]
    assert all(isinstance(row["tstamp"], float) for row in rows)
    folder = data / "reference_answer"
    (folder / "gpt-4.jsonl").write_text(text, encoding="utf-8")
    assert [item.record["reference"] for item in task.prompts()] == [*RIGHT.values()]


def test_export_stays_in_its_folder(data: Path) -> None:
    task = MTBench(data, judge="reference")
    item = task.prompts()[1]
    names = [*task.export("../../x", {item.id: [exported(task, item, ["4", "8"])]})]
    name = "%2E.%2F..%2Fx"
    assert names == [
        f"mt_bench/model_answer/{name}.jsonl",
        f"mt_bench/model_judgment/{name}_single.jsonl",
    ]


def test_counts_are_those_that_spec_bench_reads(data: Path) -> None:
    task = MTBench(data)
    item = task.prompts()[0]
    samples = {item.id: [exported(task, item, ["b", "b"], 1), exported(task, item, ["a", "a"])]}
    (row,) = rows_of(next(iter(task.export("run", samples).values())))
    assert [choice["index"] for choice in row["choices"]] == [0, 1]
    assert [choice["turns"][0] for choice in row["choices"]] == ["a", "b"]
    choice = row["choices"][0]
    assert choice["decoding_steps"] == [3, 3]
    assert choice["new_tokens"] == [7, 7]
    assert choice["wall_time"] == [1.25, 1.25]
    assert choice["accept_lengths"] == [1, 3, 3, 1, 3, 3]
    assert sum(choice["accept_lengths"]) == sum(choice["new_tokens"])


def test_answer_ids_are_those_of_the_content(data: Path) -> None:
    task = MTBench(data)
    item = task.prompts()[0]

    def answer_id(run: str, text: str) -> str:
        files = task.export(run, {item.id: [exported(task, item, [text, text])]})
        found: str = rows_of(next(iter(files.values())))[0]["answer_id"]
        return found

    assert answer_id("run", "a") == answer_id("run", "a")
    assert len({answer_id("run", "a"), answer_id("run", "b"), answer_id("other", "a")}) == 3


def test_judgments_give_fastchats_means(data: Path, scripted: Any) -> None:
    task = MTBench(data, judge="grader")
    scripted(9.0, None, 5.0, 7.0)
    samples = {item.id: [exported(task, item, ["a", "b"])] for item in task.prompts()}
    files = task.export("run", samples)
    rows = rows_of(files["mt_bench/model_judgment/run_single.jsonl"])
    assert [(row["question_id"], row["turn"], row["score"]) for row in rows] == [
        (81, 1, 9.0),
        (81, 2, -1),
        (111, 1, 5.0),
        (111, 2, 7.0),
    ]
    assert {row["model"] for row in rows} == {"run"}
    assert [row["judge"][0] for row in rows] == ["grader"] * 4
    assert len({row["judge"][1] for row in rows}) == 4, "each kind of prompt has its name"
    assert [RIGHT[111][0] in row["user_prompt"] for row in rows[2:]] == [True, True]
    assert "Write a line." in rows[0]["user_prompt"]
    assert rows[1]["judgment"].startswith("turn 2 of Write a line.")
    kept = [row for row in rows if row["score"] != -1]
    second = [row["score"] for row in kept if row["turn"] == 2]
    assert (
        sum(second) / len(second)
        == task.more({k: [v[0].score] for k, v in samples.items()})["turn_2"]
    )


def test_reference_judgments_are_exported_too(data: Path) -> None:
    task = MTBench(data, judge="reference")
    samples = {item.id: [exported(task, item, ["4", "8"])] for item in task.prompts()}
    rows = rows_of(task.export("run", samples)["mt_bench/model_judgment/run_single.jsonl"])
    assert [row["score"] for row in rows] == [1.0, 1.0, 10.0, 10.0]
    assert rows[0]["judge"] == ["reference", "same-words"]


def test_real_questions_and_references_are_read() -> None:
    folder = real_data("mt_bench")
    task = MTBench(folder, judge="gpt-4", judge_base_url="http://127.0.0.1:9/v1")
    task.check()
    items = task.prompts()
    assert len(items) == 80
    assert {len(item.turns) for item in items} == {2}
    assert sum(item.record["reference"] is not None for item in items) == 40


def test_real_vicuna_questions_of_one_turn_are_read() -> None:
    folder = real_data("vicuna_bench")
    task = MTBench(folder, judge="gpt-4", judge_base_url="http://127.0.0.1:9/v1")
    task.check()
    assert [len(item.turns) for item in task.prompts()] == [1] * 80


def test_real_questions_of_one_and_two_turns_are_read() -> None:
    items = MTBench(real_data("spec_bench"), judge="x").prompts()
    assert [len(item.turns) for item in items].count(1) == 400
    assert [len(item.turns) for item in items].count(2) == 80


def bundled() -> list[Item]:
    return MTBench(DATA, judge="reference").prompts()


def test_bundled_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    generator.write(tmp_path)
    for name in generator.files():
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes()
    assert {path.name for path in DATA.rglob("*.jsonl")} == {"question.jsonl", "reference.jsonl"}


def test_bundled_questions_are_many_and_balanced() -> None:
    items = bundled()
    assert len(items) == len({item.turns for item in items}) == 120
    categories = [item.category for item in items]
    assert {name: categories.count(name) for name in set(categories)} == dict.fromkeys(
        ["extraction", "knowledge", "math", "writing"], 30
    )


def test_bundled_answers_have_known_scores() -> None:
    task = MTBench(DATA, judge="reference")
    task.check()
    items = task.prompts()
    right = {item.id: [task.score(item, item.record["reference"])] for item in items}
    assert {group[0].value for group in right.values()} == {10.0}
    wrong = [task.score(item, (item.record["reference"][0], "Nothing.")) for item in items[:30]]
    mixed = right | {item.id: [score] for item, score in zip(items, wrong, strict=False)}
    assert sum(group[0].value or 0.0 for group in mixed.values()) / 120 == 8.875
    assert task.more(mixed) == NOTHING | {"turn_1": 10.0, "turn_2": 7.75}


def test_bundled_openings_were_never_trained_on() -> None:
    """By the rule that keeps them out, and by looking at what training does see."""
    openings = {item.turns[0] for item in bundled()}
    rule = [corpus.bucket(f"request:{text}", corpus.NUM_BUCKETS["request"]) for text in openings]
    assert set(rule) == {0}
    odds = {"chat": 1.0, "answering": 2.0}
    examples = itertools.islice(corpus.training_examples(PRESETS["gpu"].seed, 0.2, odds), 4000)
    seen = {message["content"] for problem, _ in examples for message in problem.prompt}
    assert not openings & seen
    assert len(seen) > 2000


def test_bundled_conversations_are_not_the_heldout_ones() -> None:
    heldout = {m["content"] for item in demo.heldout("chat") for m in item["messages"]}
    assert not {item.turns[0] for item in bundled()} & heldout
