"""The file of `--output`: one answer per line, and how a run that was cut off resumes.

Every line holds the conditions it was made under, so a file never mixes two settings. A line
without its newline is half-written and made again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtad.api.pair import Completion
from mtad.cli.generate.prompts import Item
from mtad.cli.printing import print_json
from mtad.core.options import jsonable
from mtad.errors import DataError
from mtad.jsonl import JsonLines, cut_off_end, read_lines

Record = dict[str, Any]
_BEGINNING = b'{"index": '
_FIELDS = {"index": int, "prompt_sha256": str, "run": dict}


class AnswerFile:
    """Where answers are appended, flushed line by line.

    Args:
        path: the file; None for stdout.
        overwrite: forget what is there.

    Raises:
        ValueError: the file holds something else than answers.
    """

    def __init__(self, path: Path | None, overwrite: bool = False) -> None:
        self.path, self._overwrite = path, overwrite
        self.records: list[Record] = []
        self.num_written = 0
        self._lines: JsonLines | None = None
        if path is not None and path.exists() and not overwrite:
            self._read(path)

    @property
    def seed(self) -> int | None:
        """The seed that the answers were made with."""
        return self.records[0]["run"]["seed"] if self.records else None

    def done(self, items: Sequence[Item], conditions: Record) -> set[int]:
        """Indices of the items that are answered.

        Raises:
            ValueError: the answers are to other prompts, or made under other conditions.
        """
        digests = {item.index: item.digest for item in items}
        for record in self.records:
            if record["run"] != conditions:
                raise self._error(_difference(record["run"], conditions))
            if digests.get(record["index"]) != record["prompt_sha256"]:
                raise self._error(f"its answer {record['index']} is to another prompt")
        return {record["index"] for record in self.records}

    def __enter__(self) -> AnswerFile:
        if self.path is not None:
            self._lines = JsonLines(self.path, overwrite=self._overwrite)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lines is not None:
            self._lines.close()

    def write(self, record: Record) -> None:
        """Append one answer."""
        if self._lines is not None:
            self._lines.append([jsonable(record)])
        else:
            print_json(record)
        self.num_written += 1

    def _read(self, path: Path) -> None:
        try:
            for row, place in read_lines(path):
                if any(type(row.get(name)) is not kind for name, kind in _FIELDS.items()):
                    raise DataError(f"{place} is not an answer")
                self.records.append(row)
            if not _BEGINNING.startswith(cut_off_end(path)[: len(_BEGINNING)]):
                raise DataError(f"{path} ends with something else")
        except DataError as error:
            raise self._error(f"its line {len(self.records) + 1} is not an answer") from error

    def _error(self, reason: str) -> ValueError:
        return ValueError(
            f"{self.path} cannot be continued: {reason}; choose another --output, or --overwrite"
        )


def _difference(recorded: Record, now: Record) -> str:
    """The first condition that differs."""
    before, after = _flat(recorded), _flat(now)
    name = next(n for n in {**before, **after} if before.get(n) != after.get(n))
    return f"it was made with {name} = {before.get(name)!r}, now it is {after.get(name)!r}"


def _flat(record: Record, prefix: str = "") -> Record:
    flat: Record = {}
    for name, value in record.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {}
        flat |= inner or {prefix + name: value}
    return flat


def record_of(
    item: Item, completions: Sequence[Completion], seed: int, conditions: Record
) -> Record:
    """The answer to one line: FastChat's keys for a conversation, plain ones for a prompt."""
    head = {"index": item.index} | item.labels
    tail = {"seed": seed, "prompt_sha256": item.digest, "run": conditions}
    if item.is_conversation:
        return head | _conversation(item, completions, conditions) | tail
    body = completions[0].as_dict()
    asked = {"prompt": item.text} if item.text is not None else {"messages": item.prompt([])}
    return head | asked | body | tail


def _conversation(item: Item, completions: Sequence[Completion], conditions: Record) -> Record:
    """What FastChat's judge and Spec-Bench's scripts read, and the statistics of every turn."""
    choice = {
        "index": 0,
        "turns": [c.text for c in completions],
        "decoding_steps": [c.stats.num_spec_steps for c in completions],
        "new_tokens": [len(c.token_ids) for c in completions],
        "wall_time": [c.stats.prefill_s + c.stats.decode_s for c in completions],
        "accept_lengths": [len(b.token_ids) for c in completions for b in c.blocks],
        "token_ids": [c.token_ids for c in completions],
        "finish_reasons": [c.finish_reason for c in completions],
        "stats": [c.stats.as_dict() for c in completions],
    }
    identity = json.dumps([item.index, item.digest, conditions], sort_keys=True)
    return {
        "answer_id": hashlib.sha256(identity.encode()).hexdigest()[:22],
        "model_id": f"{conditions['models']['target']} · {conditions['method']['name']}",
        "choices": [choice],
        "tstamp": time.time(),
    }
