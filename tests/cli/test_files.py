"""`--prompt-file`: many prompts, conversations, answers on disk, and runs that were cut off."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from support.command import SHORT, answer, cli, refused, without_loading
from support.saved_pair import pair

from mtad.cli.generate.answers import AnswerFile
from mtad.cli.generate.many import line_seed


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    return without_loading(monkeypatch)


LINES = [
    {"task_id": "T/0", "prompt": "the cat"},
    "der Bär",
    {"messages": [{"role": "user", "content": "hi"}]},
    {"question_id": 81, "category": "writing", "turns": ["one", "two", "three"]},
    "last",
]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "prompts.jsonl", LINES)


def write_lines(path: Path, values: list[Any]) -> Path:
    path.write_text("".join(json.dumps(v) + "\n" for v in values), encoding="utf-8")
    return path


def read_lines(text: str) -> dict[int, dict[str, Any]]:
    records = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert len({r["index"] for r in records}) == len(records)
    return {r["index"]: r for r in records}


def untimed(records: dict[int, dict[str, Any]]) -> dict[int, Any]:
    """What has to be equal when the same lines are answered again."""
    return {
        i: (r.get("token_ids"), [c["token_ids"] for c in r.get("choices", [])], r["run"], r["seed"])
        for i, r in records.items()
    }


def test_many_prompts(loads: list[Any], prompts: Path) -> None:
    result = cli("generate", "--prompt-file", prompts, *SHORT)
    records = read_lines(result.stdout)
    assert set(records) == {0, 1, 2, 3, 4}
    assert "answered 5 ·" in result.stderr and "seed 3" in result.stderr
    first = records[0]
    assert (first["task_id"], first["prompt"]) == ("T/0", "the cat")
    assert first["seed"] == line_seed(3, 0) != records[1]["seed"]
    single = answer("the cat", *SHORT[2:], "--seed", str(first["seed"]))
    assert first["token_ids"] == single["token_ids"]
    assert first["text"] == single["text"]
    assert records[2]["messages"] == LINES[2]["messages"]
    assert first["run"]["method"] == single["method"]
    assert first["run"]["sampling"]["max_new_tokens"] == 12
    assert first["run"]["models"]["target"] == "demo"


def test_conversations_see_their_earlier_answers(loads: list[Any], prompts: Path) -> None:
    record = read_lines(cli("generate", "--prompt-file", prompts, *SHORT).stdout)[3]
    assert (record["question_id"], record["category"]) == (81, "writing")
    assert {"answer_id", "model_id", "tstamp"} <= set(record)
    (choice,) = record["choices"]
    assert choice["new_tokens"] == [12, 12, 12]
    assert len(choice["decoding_steps"]) == len(choice["wall_time"]) == 3
    assert sum(choice["accept_lengths"]) == 36
    chat: list[dict[str, str]] = []
    for turn, question in enumerate(("one", "two", "three")):
        chat.append({"role": "user", "content": question})
        (expected,) = pair().generate(
            chat, seed=record["seed"] + turn, max_new_tokens=12, ignore_eos=True
        )
        assert choice["turns"][turn] == expected.text
        chat.append({"role": "assistant", "content": expected.text})


@pytest.mark.slow
def test_answers_do_not_depend_on_the_batch(loads: list[Any], prompts: Path) -> None:
    runs = [
        read_lines(cli("generate", "--prompt-file", prompts, *SHORT, "--max-batch-size", n).stdout)
        for n in ("1", "2", "16")
    ]
    assert untimed(runs[0]) == untimed(runs[1]) == untimed(runs[2])


@pytest.mark.slow
def test_plain_prompts_as_chats(loads: list[Any], prompts: Path) -> None:
    flags = ["--chat", "--system", "be brief"]
    records = read_lines(cli("generate", "--prompt-file", prompts, *flags, *SHORT).stdout)
    system = {"role": "system", "content": "be brief"}
    assert records[1]["messages"] == [system, {"role": "user", "content": "der Bär"}]
    assert records[2]["messages"][0] == system
    message = refused("generate", "--prompt-file", prompts, "--system", "x", *SHORT, code=1)
    assert "line 1: it is not a chat, and --system needs one" in message


@pytest.mark.slow
def test_going_on(loads: list[Any], prompts: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    command = ["generate", "--prompt-file", prompts, *SHORT, "--max-batch-size", "2"]
    assert cli(*command, "--output", whole).stdout == ""
    lines = whole.read_bytes().split(b"\n")
    cut.write_bytes(b"\n".join(lines[:2]) + b"\n" + lines[2][: len(lines[2]) // 2])
    result = cli(*command, "--output", cut)
    assert "2 of 5 answers are in" in result.stderr
    again = cut.read_bytes()
    assert again.startswith(b"\n".join(lines[:2]) + b"\n")
    assert untimed(read_lines(again.decode())) == untimed(read_lines(whole.read_text("utf-8")))
    loads.clear()
    assert cli(*command, "--output", cut).exit_code == 0
    assert cut.read_bytes() == again
    assert loads == [], "nothing is left to do, so nothing is loaded"


@pytest.mark.slow
def test_going_on_keeps_the_random_seed(loads: list[Any], prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    command = ["generate", "--prompt-file", prompts, *SHORT[2:], "--output", output]
    cli(*command)
    before = output.read_text("utf-8")
    output.write_text("".join(before.splitlines(keepends=True)[:1]), encoding="utf-8")
    cli(*command)
    assert untimed(read_lines(output.read_text("utf-8"))) == untimed(read_lines(before))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of answers to the prompts."""
    folder = tmp_path_factory.mktemp("answers")
    output = folder / "answers.jsonl"
    file = write_lines(folder / "prompts.jsonl", LINES)
    with pytest.MonkeyPatch.context() as patch:
        without_loading(patch)
        cli("generate", "--prompt-file", file, *SHORT, "--output", output)
    return output.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--top-k 5", "it was made with sampling.top_k = 0, now it is 5"),
        ("--accept-threshold 0.75", "method.options.accept_threshold = 0.5, now it is 0.75"),
        ("--method bild", "method.name = 'mtad', now it is 'bild'"),
        ("--seed 4", "seed = 3, now it is 4"),
        ("--chat", "chat.chat = False, now it is True"),
        ("--dtype float32", "models.dtype = 'auto', now it is 'float32'"),
    ],
)
def test_other_conditions_are_not_mixed(
    loads: list[Any], prompts: Path, answers: bytes, tmp_path: Path, flags: str, message: str
) -> None:
    output = tmp_path / "answers.jsonl"
    output.write_bytes(answers)
    command = ["generate", "--prompt-file", prompts, *SHORT, "--output", output]
    said = refused(*command, *flags.split())
    assert message in said and "choose another --output, or --overwrite" in said
    assert output.read_bytes() == answers
    assert cli(*command, *flags.split(), "--overwrite").exit_code == 0
    assert set(read_lines(output.read_text("utf-8"))) == {0, 1, 2, 3, 4}


def test_other_prompts_are_not_mixed(loads: list[Any], prompts: Path, tmp_path: Path) -> None:
    command = ["generate", "--prompt-file", prompts, *SHORT, "--output", tmp_path / "a.jsonl"]
    cli(*command)
    write_lines(prompts, [*LINES, "one more"])
    said = cli(*command).stderr
    assert "5 of 6 answers are in" in said and "answered 1 ·" in said
    write_lines(prompts, ["another", *LINES[1:]])
    assert "its answer 0 is to another prompt" in refused(*command)


@pytest.mark.parametrize(
    "content",
    ["my notes\n", "my notes", '{"a": 1}\n', '[1]\n{"index": 0, ', "\n", '{"indent": 4'[:9]],
)
def test_a_file_that_holds_something_else_is_left_alone(
    loads: list[Any], prompts: Path, tmp_path: Path, content: str
) -> None:
    output = tmp_path / "notes.txt"
    output.write_text(content)
    message = refused("generate", "--prompt-file", prompts, *SHORT, "--output", output)
    assert "line 1 is not an answer" in message
    assert output.read_text() == content
    assert "there is no folder" in refused(
        "generate", "--prompt-file", prompts, "--output", tmp_path / "none" / "a.jsonl"
    )
    assert "--output is the --prompt-file" in refused(
        "generate", "--prompt-file", prompts, "--output", prompts
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 3: Expecting property name"),
        ("17", "line 3: it holds a int"),
        ('{"promt": "x"}', "line 3: it has none of them"),
        ('{"prompt": "x", "turns": ["y"]}', "line 3: it has prompt and turns"),
        ('{"prompt": 3}', "line 3: its 'prompt' is 3"),
        ('{"turns": []}', "line 3: its 'turns' is []"),
        ('{"messages": [{"role": "user"}]}', "line 3: its 'messages' is"),
        ('{"messages": []}', "line 3: its 'messages' is []"),
        ('"ab\\ud800"', "line 3: its 'prompt' has a lone surrogate at index 2, '\\ud800'"),
        (
            '{"prompt": "ab\\ude00 there"}',
            "line 3: its 'prompt' has a lone surrogate at index 2",
        ),
        ('{"turns": ["a", "\\ud800"]}', "line 3: its 'turns'[1] has a lone surrogate at index 0"),
        (
            '{"messages": [{"role": "user", "content": "\\ud800"}]}',
            "line 3: its 'messages'[0].content has a lone surrogate at index 0",
        ),
        ('{"prompt": "a", "category": "b\\ud800"}', "line 3: category has a lone surrogate"),
    ],
)
def test_a_malformed_line(loads: list[Any], tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(f'"fine"\n\n{line}\n"fine"\n')
    said = refused("generate", "--prompt-file", path, code=1)
    assert message in said and 'expected {"prompt"' in said and "p.jsonl" in said
    assert loads == []


@pytest.mark.slow
def test_a_prompt_file_without_prompts_or_text(loads: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("\n")
    assert "has no prompts" in refused("generate", "--prompt-file", path, code=1)
    path.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in refused("generate", "--prompt-file", path, code=1)


def test_an_error_while_decoding_names_the_lines(loads: list[Any], prompts: Path) -> None:
    flags = ["--max-batch-size", "1", "--max-new-tokens", "5000"]
    message = refused("generate", "--prompt-file", prompts, *flags, code=1)
    assert "prompts.jsonl, lines 1 to 4: request 0: the prompt has" in message


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(
    loads: list[Any], prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, written = tmp_path / "answers.jsonl", AnswerFile.write
    command = ["generate", "--prompt-file", prompts, "--output", output, *SHORT]
    command += ["--max-batch-size", "1"]

    def write(file: AnswerFile, record: dict[str, Any]) -> None:
        """Ctrl-C is pressed after the second answer."""
        written(file, record)
        if record["index"] == 1:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as pressing:
        pressing.setattr(AnswerFile, "write", write)
        result = cli(*command)
    assert result.exit_code == 130
    assert "interrupted after 2 of 5 answers; they are in" in result.stderr
    assert set(read_lines(output.read_text("utf-8"))) == {0, 1}
    assert "2 of 5 answers are in" in cli(*command).stderr
    assert set(read_lines(output.read_text("utf-8"))) == {0, 1, 2, 3, 4}
