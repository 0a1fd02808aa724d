"""Flags that hold a text to a form, for one prompt and for a file of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.command import answer, cli, refused, without_loading

SHORT = ["--seed", "3", "--max-new-tokens", "40"]


@pytest.fixture(autouse=True)
def loads(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    return without_loading(monkeypatch)


def file_of(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_each_flag_is_kept(tmp_path: Path) -> None:
    schema = file_of(tmp_path / "s.json", json.dumps({"enum": [11, 22]}))
    grammar = file_of(tmp_path / "g.lark", 'start: "ab" | "cd"')
    for flags, texts in (
        (["--json-schema", schema], {"11", "22"}),
        (["--grammar", grammar], {"ab", "cd"}),
        (["--regex", "x|yy"], {"x", "yy"}),
        (["--choice", "no", "--choice", "yes"], {"no", "yes"}),
    ):
        found = answer("Hello", *SHORT, *flags)
        assert found["text"] in texts and found["finish_reason"] == "stop"


def test_answers_to_a_file_are_continued_in_the_same_form_alone(tmp_path: Path) -> None:
    prompts = file_of(tmp_path / "p.jsonl", '{"prompt": "a"}\n{"prompt": "b"}\n')
    output = str(tmp_path / "answers.jsonl")
    command = ["generate", "--prompt-file", prompts, "--output", output, *SHORT]
    assert cli(*command, "--choice", "no", "--choice", "yes").exit_code == 0
    lines = [json.loads(line) for line in Path(output).read_text().splitlines()]
    assert {line["text"] for line in lines} <= {"no", "yes"}
    assert lines[0]["run"]["sampling"]["grammar"] == {"kind": "choice", "source": '["no", "yes"]'}
    assert cli(*command, "--choice", "no", "--choice", "yes").exit_code == 0
    assert "cannot be continued" in refused(*command, "--choice", "no")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--regex", "a", "--choice", "b"], "give one of --regex and --choice"),
        (["--regex", "(a"], "unclosed group"),
        (["--regex", "a+", "--min-new-tokens", "3"], "min_new_tokens bans tokens"),
        (["--json-schema", "no-such-file.json"], "no-such-file.json"),
    ],
)
def test_what_cannot_be_kept_is_refused(flags: list[str], message: str) -> None:
    found = cli("generate", "Hello", *SHORT, *flags)
    assert found.exit_code != 0 and found.stdout == ""
    assert message in " ".join(found.stderr.replace("│", " ").split())


def test_a_file_that_is_no_schema_is_named(tmp_path: Path, loads: list[dict[str, Any]]) -> None:
    path = file_of(tmp_path / "s.json", "{")
    assert "the JSON schema is not JSON" in refused("generate", "x", "--json-schema", path)
    assert not loads  # found out before the models are loaded
