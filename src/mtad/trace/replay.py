"""A trace judged again by any acceptance rule, without a model.

Each recorded iteration is judged on the text and the draft that it had. Up to and including the
first decision that differs this is what the rule would have done; beyond it the text is no longer
the one that the rule would have written, and the counts are an estimate. Knows no model.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from mtad.engine.stats import Stats, total
from mtad.engine.step import Block
from mtad.errors import DataError
from mtad.jsonl import cut_off_end
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method
from mtad.trace.format import TraceHeader, named_if_damaged, read_header, read_lines
from mtad.trace.iteration import Iteration, read_sampling
from mtad.trace.rules import Rule, able_rules, has_endpoint, judge, obstacle

__all__ = ["Difference", "Replay", "RuleReplay", "TextReplay", "replay"]

_COUNTS = (
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
    def between(cls, seen: Iteration, now: Block, has_endpoint: bool) -> Difference | None:
        """How another outcome of an iteration differs, None if it does not.

        Args:
            seen: the iteration.
            now: what the rule accepts.
            has_endpoint: whether the token after the accepted ones is known for both.
        """
        end = None if has_endpoint else -1
        was, is_now = seen.was.token_ids, now.token_ids[:end]
        if was[:end] == is_now:
            return None
        pairs = zip(was, is_now, strict=False)
        agreed = len([*itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)])
        return cls(seen.number, seen.position, was, is_now, seen.position + agreed)


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

    def add(self, method: Method, seen: Iteration) -> None:
        """Judge an iteration by the method, or note why that cannot be."""
        self.left_out = obstacle(method, seen)
        if self.left_out is not None:
            return
        now = judge(method, seen, self.now.kept)
        self.was.add(seen.was)
        self.now.add(now)
        if self.difference is None:
            self.exact.add(now)
            self.difference = Difference.between(seen, now, has_endpoint(method, seen))

    def as_dict(self) -> dict[str, Any]:
        """The text for JSON."""
        facts = {"key": self.key, "id": self.id, "method": self.method, "end": self.end}
        if self.left_out is not None:
            return facts | {"left_out": self.left_out}
        difference = None if self.difference is None else asdict(self.difference)
        return facts | _counts(self) | {"first_difference": difference}


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
    def num_different(self) -> int:
        """How many of them have a decision that differs."""
        return sum(text.difference is not None for text in self.judged)

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
        facts = {"num_texts": len(self.judged), "num_texts_that_differ": self.num_different}
        texts = [text.as_dict() for text in self.texts]
        return {"rule": rule, "total": facts | _counts(self), "texts": texts}

    def finish(self, seen: Mapping[str, Iteration]) -> None:
        """Leave out texts without a draft; refuse a rule that can judge none of the others.

        Args:
            seen: an iteration of each text by key, one with a draft if there was one.
        """
        for text in self.texts:
            is_own = self.rule.name in (None, text.method)
            has_draft = text.key in seen and seen[text.key].tree.depth > 0
            if text.left_out is None and not is_own and not has_draft:
                text.left_out = "nothing was drafted"
        if self.texts and not self.judged:
            able = ", ".join(able_rules(seen.values())) or "none"
            raise ValueError(f"{self.texts[0].left_out}; rules that can judge this trace: {able}")


def _counts(one: TextReplay | RuleReplay) -> dict[str, Any]:
    """Counts and rates of the three parts, for JSON."""
    parts = {"recorded": one.was, "replayed": one.now, "replayed_exact_part": one.exact}
    return {
        part: {name: getattr(stats, name) for name in _COUNTS}
        | {"acceptance_histogram": stats.counts()["acceptance_histogram"]}
        for part, stats in parts.items()
    }


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
    running = _Running(read_header(path), [RuleReplay(rule) for rule in rules])
    for line, place in read_lines(path):
        running.add(line, place)
    if not running.texts:
        raise DataError(f"{path} holds no text yet")
    for one in running.rules:
        one.finish(running.seen)
    return Replay(running.header, bool(cut_off_end(path)), running.rules)


@dataclass
class _Running:
    """A replay in progress.

    Attributes:
        header: of the trace.
        rules: what became of each rule so far.
        texts: the settings of each text so far and what each rule makes of it, by key.
        seen: an iteration of each text by key, one with a draft if there was one.
    """

    header: TraceHeader
    rules: list[RuleReplay]
    texts: dict[str, tuple[SamplingParams, list[TextReplay]]] = field(default_factory=dict)
    seen: dict[str, Iteration] = field(default_factory=dict)

    def add(self, line: Mapping[str, Any], place: str) -> None:
        """Add a line of the trace."""
        with named_if_damaged(place):
            key = line["key"]
            if line["type"] == "request":
                return self._open(key, line)
            if key not in self.texts:
                raise ValueError(f"no request has the key {key!r}")
            sampling, replays = self.texts[key]
            if line["type"] == "end":
                for text in replays:
                    text.end = str(line["reason"])
                return None
            seen = Iteration.of(line, sampling, self.header.vocab)
        if key not in self.seen or not self.seen[key].tree.depth:
            self.seen[key] = seen
        for one, text in zip(self.rules, replays, strict=True):
            if text.left_out is None:
                method = one.rule.method_for(seen)  # it may raise what the user is to mend
                with named_if_damaged(place), torch.inference_mode():
                    text.add(method, seen)

    def _open(self, key: str, line: Mapping[str, Any]) -> None:
        if key in self.texts:
            raise ValueError(f"there are two requests with the key {key!r}")
        facts = key, str(line["id"]), str(line["method"]["name"])
        replays = [TextReplay(*facts) for _ in self.rules]
        self.texts[key] = read_sampling(line["sampling"]), replays
        for one, text in zip(self.rules, replays, strict=True):
            one.texts.append(text)
