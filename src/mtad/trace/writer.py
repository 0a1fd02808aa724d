"""Appends every iteration to a file, with what a rule needs to judge it again.

A file is JSON lines. The first is a header; a `request` line comes before the `iteration` lines of
that text, and an `end` line after them; texts that share a batch are interleaved. With `laws` an
iteration keeps the target's logits after biases and penalties, whole and in float32, and the
draft's log-probabilities. Temperature, truncation and random numbers follow from
these, from the request's settings and from its seed, so that `verify` gets the same numbers again.
A kill cuts off the last line alone. Knows no model and no HTTP.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mtad import methods
from mtad.core.options import jsonable
from mtad.engine.request import Request
from mtad.engine.session import Session
from mtad.engine.step import Observation, Step
from mtad.errors import DataError
from mtad.jsonl import JsonLines, read_lines
from mtad.speculative.method import Method, Verdict
from mtad.trace.format import TraceHeader as TraceHeader
from mtad.trace.format import pack
from mtad.trace.iteration import decided
from mtad.trace.record import TokenText, TracedRow, finite, record_of

_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class _File:
    """A trace file, and why nothing more is written to it, if so."""

    lines: JsonLines
    error: str | None = None

    @classmethod
    def opened(cls, path: Path, header: TraceHeader) -> _File:
        """The file, with a header.

        Raises:
            DataError: the file is something else, or another program writes to it.
        """
        file = cls(JsonLines(path, advice="wait for it, or give another file"))
        try:
            is_new = _is_new(path, header)
        except BaseException:
            file.lines.close()
            raise
        if is_new:
            file.append(header.as_dict())
        return file

    def append(self, line: Mapping[str, Any]) -> None:
        """Append a line, unless an earlier one failed."""
        if self.error:
            return
        try:
            self.lines.append([line])
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self.error = str(error)
            path = self.lines.path
            _LOG.error("the trace %s ends here, it cannot be written: %s", path, error)


@dataclass
class _Text:
    """A text in progress: the file that has it, and how many of its iterations."""

    file: _File
    number: int = 0


class TraceWriter(AbstractContextManager["TraceWriter"]):
    """A file of iterations that one program appends to, from any thread.

    When the disk is full, or gone, that is logged once and nothing more is written: decoding must
    not fail for its trace.

    When the file was moved away, texts that begin are written to a new one; those in progress stay
    in the file where they began, so that every file can be replayed.

    Args:
        path: the file, made if it is not there; one that is there must have the same header.
        header: its first line.
        laws: whether to keep the target's logits and the draft's log-probabilities, 4 bytes for
            each token of the vocabulary and each node before compression. Without them only rules
            that compare the probabilities of drafted tokens can be replayed.
        prompts: whether to keep the prompts' token ids.

    Raises:
        DataError: the file is something else, or another program writes to it.
    """

    def __init__(
        self, path: Path, header: TraceHeader, *, laws: bool = True, prompts: bool = False
    ) -> None:
        self.path, self.laws, self.prompts = path, laws, prompts
        self._header, self._lock = header, threading.Lock()
        self._texts: dict[str, _Text] = {}
        self._file = _File.opened(path, header)
        self._is_closed = False

    @property
    def error(self) -> str | None:
        """Why writing stopped, if it did."""
        return self._file.error

    def request(self, request: Request, method: Method, request_id: str = "") -> str:
        """The key of a new text; its `request` line is written."""
        key = os.urandom(8).hex()
        line = {
            "type": "request",
            "key": key,
            "id": request_id,
            "method": method_line(method),
            "sampling": _options(request.sampling),
            "num_prompt_tokens": len(request.prompt_ids),
        }
        if self.prompts:
            line["prompt_ids"] = [int(token) for token in request.prompt_ids]
        self.reopen()
        with self._lock:
            self._texts[key] = _Text(self._file)
            self._file.append(line)
        return key

    def iteration(self, key: str, record: Mapping[str, Any], row: TracedRow) -> None:
        """Write an iteration of the text `key`.

        Args:
            key: what `request` returned.
            record: what `record_of` made of the iteration.
            row: the iteration.
        """
        text = self._texts[key]
        if text.file.error:
            return
        text.number += 1
        line = {"type": "iteration", "key": key, "number": text.number}
        line |= {"method": method_line(row.method), "record": record}
        line |= {"decision": _decision(row.seen.verdict), "tree": _tree(row)}
        line |= {"laws": _laws(row.seen)} if self.laws else {}
        with self._lock:
            text.file.append(line)

    def end(self, key: str, reason: str, error: str | None = None) -> None:
        """Write how the text `key` ended: a finish reason, or another word for it."""
        with self._lock:
            text = self._texts.pop(key)
            line = {"type": "end", "key": key, "num_iterations": text.number, "reason": reason}
            text.file.append(line | ({} if error is None else {"error": error}))
            self._let_go(text.file)

    def reopen(self) -> None:
        """Begin a new file if this one was moved away, also after an error; from any thread."""
        with self._lock:
            if self._is_closed or not self._file.lines.is_moved:
                return
            try:
                new = _File.opened(self.path, self._header)
            except (DataError, OSError) as error:
                _LOG.error("the trace goes on in the file that was moved away: %s", error)
                return
            old, self._file = self._file, new
            self._let_go(old)

    def close(self) -> None:
        """Close the file and let others write to it."""
        with self._lock:
            self._is_closed = True
            for file in {self._file, *(text.file for text in self._texts.values())}:
                file.lines.close()

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def _let_go(self, file: _File) -> None:
        """Close a file that was moved away once its last text has ended."""
        if file is not self._file and all(text.file is not file for text in self._texts.values()):
            file.lines.close()


class SessionTrace:
    """Writes the iterations of a session, which runs eagerly from now on.

    Args:
        writer: the file.
        session: its method may change from one iteration to the next.
        text_of: makes the text of a token.
    """

    def __init__(self, writer: TraceWriter, session: Session, text_of: TokenText) -> None:
        self._writer, self._session, self._text_of = writer, session, text_of
        self._keys: list[str] = []
        self._seen: list[Observation] = []
        session.observe = self._seen.append

    def begin(self, name: str, request: Request) -> None:
        """Write the next request that joined the session."""
        key = self._writer.request(request, self._session.method, name)
        self._keys.append(key)
        if not request.sampling.max_new_tokens:  # it has no iteration
            self._writer.end(key, "length")

    def take(self, step: Step) -> None:
        """Write what the last iteration did."""
        (seen,), method = self._seen, self._session.method
        self._seen.clear()
        for place, block in enumerate(step.blocks):
            key, row = self._keys[block.request], TracedRow.of(seen, place, method)
            self._writer.iteration(key, record_of(row, block, self._text_of), row)
            if block.finish_reason is not None:
                self._writer.end(key, block.finish_reason)


def method_line(method: Method) -> dict[str, Any]:
    """A method as a trace keeps it: one from elsewhere goes by its module."""
    name = methods.name_for(type(method))
    return {"name": name, "options": _options(method)}


def _options(value: Any) -> dict[str, Any]:
    return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}


def _decision(verdict: Verdict) -> dict[str, Any]:
    path, token = decided(verdict)
    return {"path": path.tolist(), "num_accepted": len(path), "next_token": token}


def _tree(row: TracedRow) -> dict[str, Any]:
    """The tree that was judged; null is minus infinity here."""
    tree = row.seen.tree
    return {
        "widths": [*tree.widths],
        "tokens": tree.tokens[0].tolist(),
        "parents": tree.parents[0].tolist(),
        "alive": tree.alive[0].tolist(),
        "draft_logprobs": finite(tree.node_logprobs[0]),
        "target_logprobs": finite(tree.token_values(row.target_logprobs)[0]),
        "previous": int(tree.previous),
        "is_selected": tree.whole is not None,
    }


def _laws(one: Observation) -> dict[str, Any]:
    """Logits after biases and penalties, width of truncation, the draft's log-probabilities."""
    logits = one.warp.process(one.logits, one.tree, None)
    drafts = [pack(level[0]) for level in one.tree.draft_logprobs]
    return {"width": one.warp.width, "logits": pack(logits[0]), "draft": drafts}


def _is_new(path: Path, header: TraceHeader) -> bool:
    """Whether the file is empty.

    Raises:
        DataError: it has another header.
    """
    try:
        there = next((row for row, _ in read_lines(path)), None)
    except DataError:
        there = {}
    if there not in (None, header.as_dict()):
        raise DataError(f"{path} is not a trace of these models; give another file")
    return there is None
