"""From logits to log-probabilities: the warper of a batch.

Log-probabilities are float32 whatever the model's dtype. The order is the one of the authors'
code and of transformers: biases and penalties, temperature, top-k, top-p, min-p. Knows no model
and no method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.sampling.params import SamplingParams
from mtad.sampling.penalties import count, penalized
from mtad.sampling.truncation import NEVER, candidates, keep_min_p, keep_top_k, keep_top_p, spread

TIES = 16
"""Tokens that may tie with the k-th, or half of k if that is more, before ties are dropped."""


@dataclass(frozen=True)
class Warper:
    """Per-row rules that turn logits into log-probabilities, the same for target and draft.

    Attributes:
        temperature, top_k, top_p, min_p, repetition, frequency, presence, min_new: (B,) each.
        bias: (B, V) added to the logits, -inf for suppressed tokens.
        used: names of the settings that some row uses; the others cost nothing.
        largest_k: the largest top-k of the rows that are not greedy, 0 if there is none.
        width: number of candidates that truncation looks at, C; 1 where all rows are greedy, V
            where some other row has no top-k.
        greedy: whether some row has temperature 0.
        vocab: V.
        prefix: the committed text, once bound with `at`.
        seen: (B, V) occurrences in prompt and output; `output`: in the output only.
        token_ids: (D,) the tokens that logits are of, ascending, once narrowed with `over`; bias,
            seen and output are then (B, D). None where logits are of the whole vocabulary.
    """

    temperature: Float[Tensor, " rows"]
    top_k: Int[Tensor, " rows"]
    top_p: Float[Tensor, " rows"]
    min_p: Float[Tensor, " rows"]
    repetition: Float[Tensor, " rows"]
    frequency: Float[Tensor, " rows"]
    presence: Float[Tensor, " rows"]
    min_new: Int[Tensor, " rows"]
    bias: Float[Tensor, "rows vocab"] | None
    used: frozenset[str]
    largest_k: int
    width: int
    greedy: bool
    vocab: int
    prefix: Prefix | None = None
    seen: Float[Tensor, "rows vocab"] | None = None
    output: Float[Tensor, "rows vocab"] | None = None
    token_ids: Int[Tensor, " tokens"] | None = None

    @classmethod
    def of(cls, params: Sequence[SamplingParams], vocab: int, device: torch.device) -> Warper:
        """The warper of a batch, one row per request."""

        def column(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor([getattr(p, name) for p in params], dtype=dtype, device=device)

        used = frozenset().union(*(p.active() for p in params))
        ks = [p.top_k for p in params if p.temperature > 0]
        largest_k = max(ks, default=0)
        width = largest_k + max(TIES, largest_k // 2) if ks else 1
        return cls(
            temperature=column("temperature"),
            top_k=column("top_k", torch.int64),
            top_p=column("top_p"),
            min_p=column("min_p"),
            repetition=column("repetition_penalty"),
            frequency=column("frequency_penalty"),
            presence=column("presence_penalty"),
            min_new=column("min_new_tokens", torch.int64),
            bias=_bias(params, vocab, device) if used & {"logit_bias", "suppress_tokens"} else None,
            used=used,
            largest_k=largest_k,
            width=min(vocab, width) if all(ks) else vocab,
            greedy=any(p.temperature == 0 for p in params),
            vocab=vocab,
        )

    @property
    def is_greedy(self) -> Bool[Tensor, "rows 1 1"]:
        """Rows of temperature 0."""
        return (self.temperature == 0)[:, None, None]

    @property
    def ledger(self) -> Float64[Tensor, "rows entries"]:
        """What the method has kept of each text, see `Method.entries`; once bound with `at`."""
        assert self.prefix is not None and self.prefix.ledger is not None
        return self.prefix.ledger

    def at(self, prefix: Prefix) -> Warper:
        """The warper for this committed text."""
        if not self.used & {"repetition_penalty", "frequency_penalty", "presence_penalty"}:
            return replace(self, prefix=prefix)
        places = torch.arange(prefix.tokens.shape[1], device=prefix.tokens.device)
        committed = places < prefix.lengths[:, None]
        in_output = committed & (places >= prefix.prompt_lengths[:, None])
        return replace(
            self,
            prefix=prefix,
            seen=count(prefix.tokens, committed, self.vocab),
            output=count(prefix.tokens, in_output, self.vocab),
        )

    def over(self, token_ids: Int[Tensor, " tokens"] | None) -> Warper:
        """The warper of logits that are of these tokens alone; None leaves it as it is.

        What it removes and renormalises is then among these tokens, and all others have none of the
        probability.
        """
        if token_ids is None:
            return self
        ids = token_ids.to(self.temperature.device)
        parts = {name: getattr(self, name) for name in ("bias", "seen", "output")}
        narrow = {n: part.index_select(1, ids) for n, part in parts.items() if part is not None}
        return replace(self, token_ids=ids, **narrow)

    def __call__(
        self,
        logits: Float[Tensor, "rows nodes tokens"],
        tree: TokenTree,
        nodes: slice | None = None,
    ) -> Float[Tensor, "rows nodes vocab"]:
        """Log-probabilities after `nodes` of the tree (all by default), -inf for removed tokens."""
        logprobs, places = self.compact(logits, tree, nodes)
        return self.dense(
            logprobs if places is None else spread(logprobs, places, logits.shape[-1])
        )

    def compact(
        self,
        logits: Float[Tensor, "rows nodes tokens"],
        tree: TokenTree,
        nodes: slice | None = None,
    ) -> tuple[Float[Tensor, "rows nodes width"], Int[Tensor, "rows nodes width"] | None]:
        """The same on candidates alone, and their places among the logits, ascending.

        No places where all logits are candidates. Ties with the k-th that find no room among
        `width` candidates, see `TIES`, are dropped. Nothing is a candidate where all that the
        logits are of is banned.
        """
        scores = self.process(logits, tree, nodes)
        places = None if self.width >= scores.shape[-1] else candidates(scores, self.width)
        kept = self.truncate(scores if places is None else scores.gather(-1, places))
        kept = kept if self.token_ids is None else kept.nan_to_num(nan=NEVER, neginf=NEVER)
        return kept, places

    def dense(
        self, logprobs: Float[Tensor, "rows nodes tokens"]
    ) -> Float[Tensor, "rows nodes vocab"]:
        """Log-probabilities of the tokens that logits are of, over the whole vocabulary."""
        if self.token_ids is None:
            return logprobs
        return spread(logprobs, self.token_ids.expand(logprobs.shape), self.vocab)

    def raw(
        self,
        logits: Float[Tensor, "rows nodes tokens"],
        tree: TokenTree,
        nodes: slice | None = None,
    ) -> Float[Tensor, "rows nodes vocab"]:
        """Log-probabilities with penalties and biases but neither temperature nor truncation."""
        return self.dense(self.raw_compact(logits, tree, nodes))

    def raw_compact(
        self,
        logits: Float[Tensor, "rows nodes tokens"],
        tree: TokenTree,
        nodes: slice | None = None,
    ) -> Float[Tensor, "rows nodes tokens"]:
        """The same of the tokens that logits are of."""
        return self.process(logits, tree, nodes).log_softmax(-1)

    def ratio_logprobs(
        self,
        ratio_on: str,
        warped: Float[Tensor, "rows nodes vocab"],
        logits: Float[Tensor, "rows nodes tokens"],
        tree: TokenTree,
        nodes: slice | None = None,
    ) -> Float[Tensor, "rows nodes vocab"]:
        """What a likelihood ratio is formed on: `warped`, or "raw" unless greedy."""
        if ratio_on == "warped":
            return warped
        return self.unless_greedy(warped, self.raw(logits, tree, nodes))

    def judging_logprobs(
        self,
        warped: Float[Tensor, "rows nodes vocab"],
        logits: Float[Tensor, "rows nodes tokens"],
        tree: TokenTree,
    ) -> Float[Tensor, "rows nodes vocab"]:
        """What a test on probabilities looks at: `warped`, but raw in rows of temperature 0.

        There the warped law is one-hot, and says nothing of how close another token is.
        """
        if not self.greedy:
            return warped
        return torch.where(self.is_greedy, self.raw(logits, tree), warped)

    def unless_greedy(self, warped: Tensor, other: Tensor) -> Tensor:
        """`warped` in rows of temperature 0, else the other."""
        return torch.where(self.is_greedy, warped, other) if self.greedy else other

    def tempered(
        self, logits: Float[Tensor, "rows nodes vocab"], tree: TokenTree
    ) -> Float[Tensor, "rows nodes vocab"]:
        """Log-probabilities with temperature but without truncation; one-hot in greedy rows."""
        logits = self.process(logits, tree, None)
        return self.one_hot_if_greedy((logits / self._divisor()).log_softmax(-1), logits)

    def truncate(
        self, scores: Float[Tensor, "rows nodes width"]
    ) -> Float[Tensor, "rows nodes width"]:
        """Temperature, top-k, top-p and min-p over the last dimension, then log-softmax.

        That dimension holds tokens, or the blocks of a text's next tokens where MTJD draws one.
        """
        logits = scores / self._divisor() if "temperature" in self.used else scores
        if self.largest_k:
            logits = keep_top_k(logits, self.top_k[:, None, None], self.largest_k)
        if "top_p" in self.used:
            logits = keep_top_p(logits, self.top_p[:, None, None])
        if "min_p" in self.used:
            logits = keep_min_p(logits, self.min_p[:, None, None])
        return self.one_hot_if_greedy(logits.log_softmax(-1), scores)

    def _divisor(self) -> Tensor:
        return torch.where(self.temperature == 0, 1.0, self.temperature)[:, None, None]

    def one_hot_if_greedy(self, logprobs: Tensor, scores: Tensor) -> Tensor:
        """Log-probabilities; in rows of temperature 0 one-hot at the largest score."""
        if not self.greedy:
            return logprobs
        best = scores.argmax(-1, keepdim=True)
        one_hot = torch.full_like(logprobs, NEVER).scatter(-1, best, 0.0)
        return torch.where(self.is_greedy, one_hot, logprobs)

    def process(self, logits: Tensor, tree: TokenTree, nodes: slice | None) -> Tensor:
        """Logits after biases, penalties and the ban on early EOS, each judged along the path."""
        nodes = nodes or slice(0, tree.num_nodes)
        if self.bias is not None:
            logits = logits + self.bias[:, None]
        if self.prefix is not None and self.seen is not None and self.output is not None:
            counts = self.seen, self.output
            strengths = self.repetition, self.frequency, self.presence
            text = self.prefix.tokens
            logits = penalized(logits, text, tree, nodes, counts, strengths, self.token_ids)
        if "min_new_tokens" in self.used and self.prefix is not None:
            num_new = self.prefix.num_new[:, None] + tree.depths[nodes]
            early = (num_new < self.min_new[:, None])[:, :, None]
            logits = logits.masked_fill(early & self._eos_mask()[:, None], NEVER)
        return logits

    def _eos_mask(self) -> Tensor:
        assert self.prefix is not None
        mask = count(self.prefix.eos.clamp(min=0), self.prefix.eos >= 0, self.vocab) > 0
        return mask if self.token_ids is None else mask.index_select(1, self.token_ids)


def _bias(params: Sequence[SamplingParams], vocab: int, device: torch.device) -> Tensor:
    bias = torch.zeros(len(params), vocab, dtype=torch.float32)
    for row, p in zip(bias, params, strict=True):
        added = [*p.logit_bias.items(), *((token, NEVER) for token in p.suppress_tokens)]
        for token, value in added:
            if not 0 <= token < vocab:
                raise ValueError(f"token id {token} is not in the vocabulary of {vocab} tokens")
            row[token] += value
    return bias.to(device)
