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
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
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
from mtad.trace.record import TokenText, TracedRow, finite, record_of

_LOG = logging.getLogger(__name__)


class TraceWriter(AbstractContextManager["TraceWriter"]):
    """A file of iterations that one program appends to, from any thread.

    When the disk is full, or gone, that is logged once and nothing more is written: decoding must
    not fail for its trace.

    Args:
        path: the file, made if it is not there; one that is there must have the same header.
        header: its first line.
        laws: whether to keep the target's logits and the draft's log-probabilities, 4 bytes for
            each token of the vocabulary and each node before compression. Without them only rules
            that compare the probabilities of drafted tokens can be replayed.
        prompts: whether to keep the prompts' token ids.

    Attributes:
        error: why writing stopped, if it did.

    Raises:
        DataError: the file is something else, or another program writes to it.
    """

    def __init__(
        self, path: Path, header: TraceHeader, *, laws: bool = True, prompts: bool = False
    ) -> None:
        self.path, self.laws, self.prompts = path, laws, prompts
        self.error: str | None = None
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}
        self._lines = JsonLines(path, advice="wait for it, or give another file")
        try:
            is_new = _is_new(path, header)
        except BaseException:
            self._lines.close()
            raise
        if is_new:
            self._write(header.as_dict())

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
        with self._lock:
            self._numbers[key] = 0
        self._write(line)
        return key

    def iteration(self, key: str, record: Mapping[str, Any], row: TracedRow) -> None:
        """Write an iteration of the text `key`.

        Args:
            key: what `request` returned.
            record: what `record_of` made of the iteration.
            row: the iteration.
        """
        if self.error:
            return
        with self._lock:
            number = self._numbers[key] = self._numbers[key] + 1
        line = {"type": "iteration", "key": key, "number": number}
        line |= {"method": method_line(row.method), "record": record}
        line |= {"decision": _decision(row.seen.verdict), "tree": _tree(row)}
        self._write(line | ({"laws": _laws(row.seen)} if self.laws else {}))

    def end(self, key: str, reason: str, error: str | None = None) -> None:
        """Write how the text `key` ended: a finish reason, or another word for it."""
        with self._lock:
            number = self._numbers.pop(key)
        line = {"type": "end", "key": key, "num_iterations": number, "reason": reason}
        self._write(line | ({} if error is None else {"error": error}))

    def close(self) -> None:
        """Close the file and let others write to it."""
        self._lines.close()

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        """Append a line, unless an earlier one failed."""
        with self._lock:
            if self.error:
                return
            try:
                self._lines.append([line])
            except (OSError, ValueError) as error:  # ValueError: it is closed
                self.error = str(error)
                _LOG.error("the trace %s ends here, it cannot be written: %s", self.path, error)


class SessionTrace:
    """Writes the iterations of a session, which runs eagerly from now on.

    Args:
        writer: the file.
        session: its method may change from one iteration to the next.
        texts: names of the requests and the requests, in the session's order.
        text_of: makes the text of a token.
    """

    def __init__(
        self,
        writer: TraceWriter,
        session: Session,
        texts: Sequence[tuple[str, Request]],
        text_of: TokenText,
    ) -> None:
        self._writer, self._session, self._text_of = writer, session, text_of
        self._keys = [writer.request(request, session.method, name) for name, request in texts]
        for key, (_, request) in zip(self._keys, texts, strict=True):
            if not request.sampling.max_new_tokens:  # it has no iteration
                writer.end(key, "length")
        self._seen: list[Observation] = []
        session.observe = self._seen.append

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
    count = int(verdict.num_accepted)
    path = verdict.path[0, :count].tolist()
    return {"path": path, "num_accepted": count, "next_token": int(verdict.next_token)}


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
