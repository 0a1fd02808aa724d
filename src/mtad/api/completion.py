"""What comes of a prompt: its completion, the chunks that it comes in, and a prompt in progress.

Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mtad.api.guard import Lap
from mtad.engine.session import Block, Request
from mtad.engine.stats import Stats
from mtad.model.tokenizer import TextStream


@dataclass(frozen=True)
class Completion:
    """What came of one prompt.

    Attributes:
        text: the new text, cut before a stop string; empty where there is no tokenizer.
        token_ids: the new tokens only, an EOS that ended them included.
        finish_reason: "stop" (EOS or stop string) or "length" (budget).
        stats: counts, rates and times.
        seed: the seed that gives this text again; where tokens are drawn and the guard took plain
            steps (see `stats`), only the same steps would.
        blocks: the tokens iteration by iteration, with what was accepted.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    stats: Stats
    seed: int
    blocks: list[Block]

    def as_dict(self) -> dict[str, Any]:
        """The completion for JSON."""
        names = ("text", "token_ids", "finish_reason", "seed")
        return {n: getattr(self, n) for n in names} | {"stats": self.stats.as_dict()}


@dataclass(frozen=True)
class Chunk:
    """What one iteration added to one prompt's text.

    Attributes:
        index: which prompt.
        text: new text; a stop string, or a character that is not complete yet, is held back.
        block: the tokens and what was accepted.
        completion: the whole, in the last chunk of a prompt.
    """

    index: int
    text: str
    block: Block | None
    completion: Completion | None = None


@dataclass
class Running:
    """A prompt in progress.

    Attributes:
        request: what is decoded.
        stream: makes the text; None where there is no tokenizer.
        blocks: the iterations so far.
        stats: their sum.
    """

    request: Request
    stream: TextStream | None
    blocks: list[Block] = field(default_factory=list)
    stats: Stats = field(default_factory=Stats)

    @classmethod
    def of(cls, request: Request, tokenizer: Any, stops: Sequence[str] = ()) -> Running:
        """A request about to be decoded; it ends before the first of `stops`.

        Args:
            request: its `stop` is replaced.
            tokenizer: None where the text is not wanted; there can be no `stops` then.
            stops: stop strings.
        """
        if tokenizer is None:
            return cls(request, None)
        stream = TextStream(tokenizer, stops, request.prompt_ids)
        return cls(replace(request, stop=stream.push), stream)

    def take(self, block: Block, prefill_s: float, lap: Lap) -> None:
        """Add what an iteration committed."""
        self.blocks.append(block)
        self.stats.add(block, lap.is_plain)
        self.stats.prefill_s, self.stats.decode_s = prefill_s, lap.decode_s
        self.stats.fallback = lap.reason

    def completion(self) -> Completion:
        """What came of the prompt."""
        ids = [token for block in self.blocks for token in block.token_ids]
        reason = self.blocks[-1].finish_reason if self.blocks else "length"
        return Completion(
            text=self.stream.text if self.stream else "",
            token_ids=ids,
            finish_reason=reason or "length",
            stats=self.stats,
            seed=self.request.sampling.seed,
            blocks=self.blocks,
        )
