"""What comes of a prompt: its completion, the chunks that it comes in, and a text in progress.

Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mtad.engine.session import Block, Request
from mtad.engine.stats import Drafted, Stats
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


def with_text(
    request: Request, tokenizer: Any, stops: Sequence[str] = (), **options: Any
) -> tuple[Request, TextStream | None]:
    """A request whose text ends before the first of `stops`, and what makes that text.

    Args:
        request: its `stop` is set where there are stop strings, or it has a grammar; no stop
            string counts within its `min_new_tokens`.
        tokenizer: None where the text is not wanted; there can be no `stops` then.
        stops: stop strings.
        options: further ones of `TextStream`.
    """
    if tokenizer is None:
        return request, None
    least = request.sampling.min_new_tokens
    stream = TextStream(tokenizer, stops, request.prompt_ids, min_tokens=least, **options)
    return with_ends(request, stream), stream


def with_ends(request: Request, stream: TextStream) -> Request:
    """A request that ends where a stop string or its grammar does, with what the stream has."""
    grammar = request.grammar
    if grammar is None:
        return replace(request, stop=stream.push) if stream.stops else request

    def stop(token: int) -> bool:
        ends = grammar.push(token)
        return stream.push(token) or ends

    return replace(request, stop=stop)


@dataclass(eq=False)
class Generation:
    """A text that is being generated: its tokens block by block, their statistics and its text.

    Made of what `with_text` returns.

    Attributes:
        request: what is decoded.
        detokenizer: makes the text; None where there is no tokenizer.
        blocks: the iterations so far.
        stats: their sum.
    """

    request: Request
    detokenizer: TextStream | None = None
    blocks: list[Block] = field(default_factory=list)
    stats: Stats = field(default_factory=Stats)

    @property
    def token_ids(self) -> list[int]:
        """The new tokens so far."""
        return [token for block in self.blocks for token in block.token_ids]

    @property
    def has_stops(self) -> bool:
        """Whether stop strings may end it, so that the next iteration needs its text."""
        return self.request.stop is not None

    def append(self, block: Block, drafted: Drafted = "method") -> None:
        """Add what an iteration committed; arguments as in `Stats.add`."""
        self.blocks.append(block)
        self.stats.add(block, drafted)

    def detokenize(self, block: Block) -> str:
        """The text that is new with a block; each block is given once, in order."""
        stream = self.detokenizer
        if stream is None:
            return ""
        tokens = () if self.has_stops else block.token_ids  # else the engine pushed each already
        if self._ended_by_token(block):  # nothing has pushed it: see `clipped`
            tokens = block.token_ids[-1:] if self.has_stops else tokens
            tokens = tokens if stream.keeps_stop else tokens[:-1]
        stream.extend(tokens)
        return stream.take(last=block.finish_reason is not None)

    def _ended_by_token(self, block: Block) -> bool:
        """Whether the block's last token is one that ends a text."""
        return block.token_ids[-1:] in {(token,) for token in self.request.sampling.eos_token_ids}

    def chunk(self, index: int) -> Chunk:
        """What the last block added to the text of prompt `index`."""
        block = self.blocks[-1]
        text, is_last = self.detokenize(block), block.finish_reason is not None
        return Chunk(index, text, block, self.completion() if is_last else None)

    def completion(self) -> Completion:
        """What came of the prompt."""
        reason = self.blocks[-1].finish_reason if self.blocks else "length"
        return Completion(
            text=self.detokenizer.text if self.detokenizer else "",
            token_ids=self.token_ids,
            finish_reason=reason or "length",
            stats=self.stats,
            seed=self.request.sampling.seed,
            blocks=self.blocks,
        )
