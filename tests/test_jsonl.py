"""Lines on disk: whole or absent, whatever kills the writer."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import mtad
from mtad.cli.generate.prompts import read_prompts
from mtad.errors import DataError
from mtad.jsonl import JsonLines, cut_off_end, read_lines, text_lines
from mtad.tasks.human_eval import HumanEval
from mtad.tasks.mt_bench import MTBench
from mtad.tasks.perplexity import Perplexity

ROWS = [{"n": i, "text": "é\u2028\u0085\r\n"} for i in range(3)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row for row, _ in read_lines(path)]


def write(path: Path, rows: list[dict[str, Any]], **how: Any) -> None:
    with JsonLines(path, **how) as lines:
        lines.append(rows)


def test_lines_end_at_newlines_only(path: Path) -> None:
    write(path, ROWS)
    assert rows_of(path) == ROWS
    assert path.read_bytes().count(b"\n") == len(ROWS)
    assert [place for _, place in read_lines(path)] == [f"{path}, line {n}" for n in (1, 2, 3)]


@pytest.mark.parametrize("synced", [False, True])
def test_a_file_is_gone_on_with_at_every_cut(path: Path, synced: bool) -> None:
    write(path, ROWS, synced=synced)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        num_whole = whole[:size].count(b"\n")
        rest = whole[:size].rpartition(b"\n")[2]
        assert rows_of(path) == ROWS[:num_whole]
        assert cut_off_end(path) == rest
        write(path, ROWS[num_whole:], synced=synced)
        assert path.read_bytes() == whole


def test_a_cut_line_of_several_blocks_is_found_and_removed(path: Path) -> None:
    path.write_bytes(b'{"n": 0}\n' + b"x" * 200_000)
    assert len(cut_off_end(path)) == 200_000
    with JsonLines(path):
        assert path.read_bytes() == b'{"n": 0}\n'
    path.write_bytes(b"x" * 200_000)
    with JsonLines(path):
        assert path.read_bytes() == b""


def test_lines_can_be_replaced_and_dropped(path: Path) -> None:
    with JsonLines(path) as lines:
        lines.append(ROWS)
        lines.replace(ROWS[1:])
        lines.append(ROWS[:1])
        with pytest.raises(DataError, match="another program is writing"):
            JsonLines(path)
    assert rows_of(path) == [*ROWS[1:], ROWS[0]]
    write(path, ROWS[:1], overwrite=True)
    assert rows_of(path) == ROWS[:1]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


class HalfFull:
    """A disk with room for some bytes; `says_so` if it refuses instead of taking a part."""

    def __init__(self, lines: JsonLines, room: int, says_so: bool) -> None:
        self.stream, self.room, self.says_so = lines._stream, room, says_so

    def write(self, data: bytes) -> int:
        taken = self.stream.write(data[: self.room])
        if self.says_so:
            raise OSError(28, "No space left on device")
        return taken

    def truncate(self, size: int) -> int:
        return self.stream.truncate(size)

    def close(self) -> None:
        self.stream.close()


@pytest.mark.parametrize("says_so", [True, False])
def test_a_full_disk_leaves_whole_lines(path: Path, says_so: bool) -> None:
    with JsonLines(path) as lines:
        lines.append(ROWS[:1])
        before, free = path.read_bytes(), lines._stream
        lines._stream = HalfFull(lines, 7, says_so)  # type: ignore[assignment]
        with pytest.raises(OSError, match=r"No space left|only part of a line"):
            lines.append(ROWS[1:2])
        assert path.read_bytes() == before
        lines._stream = free
        lines.append(ROWS[2:])
    assert rows_of(path) == [ROWS[0], ROWS[2]]


def test_a_value_that_json_lacks_adds_no_line(path: Path) -> None:
    with JsonLines(path) as lines, pytest.raises(ValueError, match="JSON compliant"):
        lines.append([{"n": 1}, {"n": float("inf")}])
    assert path.read_bytes() == b""


def test_a_closed_file_takes_no_lines(path: Path) -> None:
    lines = JsonLines(path)
    lines.close()
    with pytest.raises(ValueError, match="closed"):
        lines.append(ROWS)


def test_threads_do_not_tear_each_others_lines(path: Path) -> None:
    with JsonLines(path) as lines:

        def write_some() -> None:
            for n in range(50):
                lines.append([{"n": n, "text": "x" * 5000}])

        threads = [threading.Thread(target=write_some) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(row["n"] for row in rows_of(path)) == sorted([*range(50)] * 8)


def test_another_program_is_refused(path: Path) -> None:
    code = f"from mtad.jsonl import *; from pathlib import Path; JsonLines(Path({str(path)!r}))"
    with JsonLines(path, advice="wait"):
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert second.returncode != 0
    assert f"another program is writing to {path}; wait for it" in second.stderr
    write(path, ROWS)  # free again


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b'{"a": 1}\n{"a": \n{"a": 3}\n', "line 2 is damaged"),
        (b"\xff\n", "line 1 is damaged"),
        (b"[" * 100_000 + b"\n", "line 1 is damaged"),
        (b"[1]\n", "line 1 is not a JSON object"),
    ],
)
def test_a_damaged_line_is_named(path: Path, text: bytes, complaint: str) -> None:
    path.write_bytes(text)
    with pytest.raises(DataError, match=complaint):
        rows_of(path)


def test_a_missing_file_says_what_to_do(path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read: No such .*run the step that writes it"):
        rows_of(path)


def test_packed_lines_are_read_and_not_appended_to(path: Path) -> None:
    text = json.dumps(ROWS[0]).encode() + b"\n"
    xz = path.with_name("rows.jsonl.xz")
    xz.write_bytes(lzma.compress(text))
    assert rows_of(path) == ROWS[:1]
    assert cut_off_end(path) == b""
    with pytest.raises(DataError, match="xz -d"):
        JsonLines(path)
    path.write_bytes(text)
    with pytest.raises(DataError, match="delete the one that is stale"):
        rows_of(path)
    path.unlink()
    xz.write_bytes(lzma.compress(text * 50)[:-30])
    with pytest.raises(DataError, match="damaged or cut off"):
        rows_of(path)


# --- lines that people wrote


BREAKS = ["\u2028", "\u2029", "\x85"]
"""What str.splitlines takes for the end of a line and JSON allows within a string."""


@pytest.mark.parametrize("between", BREAKS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_people_s_lines_end_at_newlines_only(path: Path, between: str, end: str) -> None:
    text = f"a{between}b{between}"
    row = json.dumps({"prompt": text}, ensure_ascii=False)
    path.write_bytes(f"{row}{end}{end} {end}{row}".encode())
    found = [(number, json.loads(line)["prompt"]) for number, line in text_lines(path)]
    assert found == [(1, text), (4, text)]


def test_a_byte_order_mark_is_no_text(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf{}\n")
    assert [*text_lines(path)] == [(1, "{}")]


def test_another_encoding_is_named_with_its_place(path: Path) -> None:
    path.write_bytes('{"prompt": "caf\xe9"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8: invalid continuation byte at byte 15; save"):
        [*text_lines(path)]


def test_nothing_splits_at_what_json_has_no_line_end_for() -> None:
    """str.splitlines splits at ten characters; only a newline ends a line of these files."""
    source = Path(mtad.__file__).parent
    found = [
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if "splitlines(" in path.read_text(encoding="utf-8")
    ]
    assert found == ["tasks/python_answer.py"]  # lines of Markdown and Python


@pytest.mark.parametrize("between", BREAKS)
def test_every_file_of_people_s_lines_is_read_so(tmp_path: Path, between: str) -> None:
    text = f"a{between}b"
    rows: dict[str, dict[str, Any]] = {
        "prompts.jsonl": {"prompt": text},
        "question.jsonl": {"question_id": 1, "category": "c", "turns": [text, text]},
        "HumanEval.jsonl": dict.fromkeys(
            ("task_id", "prompt", "entry_point", "canonical_solution", "test"), text
        ),
    }
    for name, row in rows.items():
        content = json.dumps(row, ensure_ascii=False) + "\n"
        (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    [item] = read_prompts(tmp_path / "prompts.jsonl", (), False)
    assert item.text == text
    assert Perplexity(data=tmp_path).prompts()[0].turns == (text,)
    assert MTBench(data=tmp_path).prompts()[0].turns == (text, text)
    assert HumanEval(data=tmp_path / "HumanEval.jsonl").prompts()[0].record["prompt"] == text
