"""A trace judged again by any acceptance rule, without a model.

Each recorded iteration is judged on the text and the draft that it had. Up to and including the
first decision that differs this is what the rule would have done; beyond it the text is no longer
the one that the rule would have written, and the counts are an estimate. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from mtad.engine.stats import Stats, total
from mtad.engine.step import Block
from mtad.errors import DataError
from mtad.jsonl import cut_off_end, damaged
from mtad.sampling.params import SamplingParams
from mtad.trace.format import TraceHeader, read_header, read_lines
from mtad.trace.iteration import Iteration, sampling_read
from mtad.trace.rules import Outcome, Rule, able_rules, judge, obstacle, recorded

__all__ = ["Difference", "Replay", "RuleReplay", "TextReplay", "replay"]

_FIGURES = (
    "num_spec_steps",
    "num_draft_tokens",
    "num_accepted_draft_tokens",
    "mean_acceptance_length",
    "draft_acceptance_rate",
    "acceptance_rate_per_position",
)


@dataclass(frozen=True)
class Difference:
    """The first decision of a text that differs.

    Attributes:
        iteration: its number, from 1 on.
        position: output tokens before it.
        recorded, replayed: the tokens of the block, the accepted ones and the one after them.
        num_exact_tokens: output tokens that both rules agree on.
    """

    iteration: int
    position: int
    recorded: tuple[int, ...]
    replayed: tuple[int, ...]
    num_exact_tokens: int

    @classmethod
    def between(cls, seen: Iteration, was: Outcome, is_now: Outcome) -> Difference | None:
        """How two outcomes of an iteration differ, None if they do not."""
        a, b = was.tokens, is_now.tokens
        same = a == b if is_now.knows_endpoint else a[:-1] == b[:-1]
        if same:
            return None
        b = b if is_now.knows_endpoint else b[:-1]
        agreed = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
        agreed = min(len(a), len(b)) if agreed is None else agreed
        return cls(seen.number, seen.position, a, b, seen.position + agreed)


@dataclass
class TextReplay:
    """What a rule makes of one text.

    Attributes:
        key: of the text, in the trace.
        id: of its request.
        method: that was recorded.
        was, now: what was accepted, and what the rule accepts.
        exact: the latter, up to and including the first decision that differs.
        difference: that decision.
        left_out: why the rule cannot judge the text; its counts mean nothing then.
        end: how the text ended; None where the trace ends before.
    """

    key: str
    id: str
    method: str
    was: Stats = field(default_factory=Stats)
    now: Stats = field(default_factory=Stats)
    exact: Stats = field(default_factory=Stats)
    difference: Difference | None = None
    left_out: str | None = None
    end: str | None = None

    def take(self, seen: Iteration, was: Outcome, is_now: Outcome) -> None:
        """Add an iteration."""
        self.was.add(_block(was))
        self.now.add(_block(is_now))
        if self.difference is None:
            self.exact.add(_block(is_now))
            self.difference = Difference.between(seen, was, is_now)

    def as_dict(self) -> dict[str, Any]:
        """The text for JSON."""
        facts = {"key": self.key, "id": self.id, "method": self.method, "end": self.end}
        if self.left_out is not None:
            return facts | {"left_out": self.left_out}
        return (
            facts
            | _figures(self.was, self.now, self.exact)
            | {"first_difference": _told(self.difference)}
        )


@dataclass
class RuleReplay:
    """What a rule makes of a trace.

    Attributes:
        rule: the rule.
        texts: in the order of their first lines.
    """

    rule: Rule
    texts: list[TextReplay] = field(default_factory=list)

    @property
    def judged(self) -> list[TextReplay]:
        """The texts that the rule can judge."""
        return [text for text in self.texts if text.left_out is None]

    @property
    def was(self) -> Stats:
        """What was accepted, over all texts that are judged."""
        return total(text.was for text in self.judged)

    @property
    def now(self) -> Stats:
        """What the rule accepts."""
        return total(text.now for text in self.judged)

    @property
    def exact(self) -> Stats:
        """The latter, of each text up to and including the first decision that differs."""
        return total(text.exact for text in self.judged)

    def as_dict(self) -> dict[str, Any]:
        """The replay for JSON."""
        rule = {"method": self.rule.name, "options": dict(self.rule.options)}
        changed = sum(text.difference is not None for text in self.judged)
        facts = {"num_texts": len(self.judged), "num_texts_that_differ": changed}
        whole = facts | _figures(self.was, self.now, self.exact)
        return {"rule": rule, "total": whole, "texts": [text.as_dict() for text in self.texts]}


@dataclass(frozen=True)
class Replay:
    """A trace judged again.

    Attributes:
        header: of the trace.
        is_cut: whether its last line was cut off; everything before it is judged.
        rules: by rule.
    """

    header: TraceHeader
    is_cut: bool
    rules: list[RuleReplay]


def replay(path: Path, rules: Sequence[Rule]) -> Replay:
    """What each rule makes of every text of a trace.

    Raises:
        DataError: no trace, a damaged one, or one without a text.
        ValueError: none of its texts can be judged by a rule; the message names those that can.
    """
    fold = _Fold(read_header(path), [RuleReplay(rule) for rule in rules])
    for line, place in read_lines(path):
        fold.take(line, place)
    if not fold.samplings:
        raise DataError(f"{path} holds no text yet")
    for one in fold.rules:
        fold.finish(one)
    return Replay(fold.header, bool(cut_off_end(path)), fold.rules)


@dataclass
class _Fold:
    """A replay in progress.

    Attributes:
        header: of the trace.
        rules: what became of each rule so far.
        samplings: settings of the texts so far, by key.
        places: of the texts in a rule's list, by key.
        drafted: an iteration of each text that drafted something.
    """

    header: TraceHeader
    rules: list[RuleReplay]
    samplings: dict[str, SamplingParams] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    drafted: dict[str, Iteration] = field(default_factory=dict)

    def take(self, line: Mapping[str, Any], place: str) -> None:
        """Add a line of the trace."""
        seen: Iteration | None = None
        with _blaming(place):
            key = line["key"]
            if line["type"] == "request":
                self._open(key, line)
            elif key not in self.samplings:
                raise ValueError(f"no request has the key {key!r}")
            elif line["type"] == "end":
                for one in self.rules:
                    one.texts[self.places[key]].end = str(line["reason"])
            else:
                seen = Iteration.of(line, self.header.vocab)
        if seen is not None:
            self._judge(key, seen, place)

    def _open(self, key: str, line: Mapping[str, Any]) -> None:
        if key in self.samplings:
            raise ValueError(f"there are two requests with the key {key!r}")
        self.samplings[key], self.places[key] = sampling_read(line["sampling"]), len(self.places)
        for one in self.rules:
            one.texts.append(TextReplay(key, str(line["id"]), str(line["method"]["name"])))

    def _judge(self, key: str, seen: Iteration, place: str) -> None:
        if seen.tree.depth:
            self.drafted.setdefault(key, seen)
        was = recorded(seen)
        for one in self.rules:
            text = one.texts[self.places[key]]
            if text.left_out is not None:
                continue
            method = one.rule.method_for(seen)
            text.left_out = obstacle(method, seen)
            if text.left_out is None:
                with _blaming(place), torch.inference_mode():
                    text.take(seen, was, judge(method, seen, self.samplings[key]))

    def finish(self, one: RuleReplay) -> None:
        """Leave out texts without a draft; refuse a rule that can judge none of the others."""
        for text in one.texts:
            is_own = one.rule.name in (None, text.method)
            if text.left_out is None and not is_own and text.key not in self.drafted:
                text.left_out = "nothing was drafted"
        if one.texts and not one.judged:
            able = list(able_rules(self.drafted.values())) or ["none"]
            raise ValueError(
                f"{one.texts[0].left_out}; rules that can judge this trace: {', '.join(able)}"
            )


@contextmanager
def _blaming(place: str) -> Iterator[None]:
    """Blame the line at `place` for what cannot be made of it."""
    try:
        yield
    except (LookupError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise damaged(place, error) from error


def _block(outcome: Outcome) -> Block:
    """The outcome as the statistics count it."""
    counts = outcome.num_accepted, outcome.num_drafted, outcome.depth
    return Block(0, outcome.tokens, *counts, None)


def _figures(was: Stats, now: Stats, exact: Stats) -> dict[str, Any]:
    parts = {"recorded": was, "replayed": now, "replayed_exact_part": exact}
    return {name: _figures_of(stats) for name, stats in parts.items()}


def _figures_of(stats: Stats) -> dict[str, Any]:
    histogram = stats.counts()["acceptance_histogram"]
    return {n: getattr(stats, n) for n in _FIGURES} | {"acceptance_histogram": histogram}


def _told(difference: Difference | None) -> dict[str, Any] | None:
    return None if difference is None else asdict(difference)
