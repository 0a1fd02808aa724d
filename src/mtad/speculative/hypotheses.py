"""The hypotheses of a search that goes on from one iteration to the next.

They are the K best texts so far, and with them the greedy text where it is pinned. What all of them
begin with is committed, and the rest of each is pending. Between two iterations they are numbers in
the ledger of the prefix; within one they are nodes of its tree. Nothing here reads a tensor back to
the host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from torch.nn.functional import pad

from mtad.core.prefix import Prefix
from mtad.sampling.truncation import NEVER
from mtad.speculative.acceptance import prefix_length


@dataclass(frozen=True)
class Searching:
    """How a search goes.

    Attributes:
        num: K, texts that are kept.
        pinned: whether the greedy text is kept beside them.
        window: most pending tokens of a text.
    """

    num: int
    pinned: bool
    window: int

    @property
    def num_texts(self) -> int:
        """Of all, M; the greedy one is the last where it is pinned."""
        return self.num + self.pinned

    @property
    def num_entries(self) -> int:
        """Numbers that they take in a row's ledger."""
        return 1 + self.num_texts * (2 + self.window)

    @property
    def reference(self) -> int:
        """The text that others may differ from in pending tokens only."""
        return self.num if self.pinned else 0


@dataclass(frozen=True)
class Hypotheses:
    """The texts of every row below the last committed token, best first, a pinned one last.

    Attributes:
        how: the search.
        tokens: (B, M, L) the pending tokens of each.
        lengths: (B, M) how many these are; texts that have not ended have equally many.
        scores: (B, M) log-probability of the whole output under the target, `NEVER` where a place
            holds no text.
        ended: (B, M) texts that end in an EOS or fill the budget.
    """

    how: Searching
    tokens: Int[Tensor, "rows texts width"]
    lengths: Int[Tensor, "rows texts"]
    scores: Float[Tensor, "rows texts"]
    ended: Bool[Tensor, "rows texts"]

    @classmethod
    def of(cls, how: Searching, prefix: Prefix) -> Hypotheses:
        """What the ledger's last entries are; 0, of a new request, is the empty text alone."""
        assert prefix.ledger is not None
        count = how.num_texts
        sizes = [1, count, count, count * how.window]
        others, lengths, scores, tokens = torch.split(prefix.ledger[:, -sum(sizes) :], sizes, dim=1)
        places = torch.arange(count, device=others.device)
        is_empty = (places > others) & (places < how.num)
        scores = scores.float().masked_fill(is_empty, NEVER)
        tokens, lengths = tokens.long().view(-1, count, how.window), lengths.long()
        return cls(how, tokens, lengths, scores, have_ended(prefix, tokens, lengths))

    def entries(self) -> Float64[Tensor, "rows entries"]:
        """The last entries of a ledger that holds them."""
        others = self.exist[:, : self.how.num].sum(1, keepdim=True) - 1
        scores = self.scores.masked_fill(~self.exist, 0.0)
        return torch.cat([others, self.lengths, scores, self.tokens.flatten(1)], dim=1).double()

    @property
    def exist(self) -> Bool[Tensor, "rows texts"]:
        """Places that hold a text."""
        return self.scores > NEVER

    @property
    def open(self) -> Bool[Tensor, "rows texts"]:
        """Texts that go on."""
        return self.exist & ~self.ended

    @property
    def depth(self) -> Int[Tensor, " rows"]:
        """Pending tokens of the texts that go on."""
        return torch.where(self.open, self.lengths, 0).amax(1)

    @property
    def twin(self) -> Bool[Tensor, "rows texts"]:
        """Which of the best the pinned text is also; none where nothing is pinned."""
        is_same = (self.num_agreeing == self.lengths) & self.exist
        places = torch.arange(is_same.shape[1], device=is_same.device)
        return is_same & (self.lengths == self.lengths[:, -1:]) & (places < self.how.reference)

    def agree(self) -> Bool[Tensor, "rows texts width"]:
        """Which tokens are those of the reference at the same place."""
        places = torch.arange(self.tokens.shape[2], device=self.tokens.device)
        held = places < self.lengths[:, :, None]
        known = slice(self.how.reference, self.how.reference + 1)
        return held & held[:, known] & (self.tokens == self.tokens[:, known])

    @property
    def num_agreeing(self) -> Int[Tensor, "rows texts"]:
        """With how many tokens of the reference each begins."""
        return prefix_length(self.agree().flatten(0, 1)).view_as(self.lengths)

    def within_window(self) -> Hypotheses:
        """Those that differ from the reference in pending tokens only."""
        longest = torch.where(self.exist, self.lengths, 0).amax(1)
        fixed = (longest - self.how.window).clamp(min=0)
        fixed = fixed.minimum(self.lengths[:, self.how.reference])[:, None]
        return replace(self, scores=self.scores.masked_fill(self.num_agreeing < fixed, NEVER))

    def num_common(self) -> Int[Tensor, " rows"]:
        """Tokens that all begin with."""
        return prefix_length((self.agree() | ~self.exist[:, :, None]).all(1))

    def picked(self, order: Int[Tensor, "rows texts"]) -> Hypotheses:
        """The texts in this order."""
        wide = order[:, :, None].expand(-1, -1, self.tokens.shape[2])
        narrow = (part.gather(1, order) for part in (self.lengths, self.scores, self.ended))
        return Hypotheses(self.how, self.tokens.gather(1, wide), *narrow)

    def after(self, count: Int[Tensor, " rows"]) -> Hypotheses:
        """What is pending once the first `count` tokens are committed.

        A pinned text that was left alone is also the best.
        """
        num = self.how.num
        order = self.scores[:, :num].sort(dim=1, descending=True, stable=True).indices
        if self.how.pinned:
            order = pad(order, (0, 1), value=num)
            is_alone = ~self.exist[:, :num].any(1, keepdim=True)
            first = order[:, :1].masked_fill(is_alone, num)
            order = torch.cat([first, order[:, 1:]], dim=1)
        texts = self.picked(order)
        places = torch.arange(self.how.window, device=count.device) + count[:, None]
        index = places.clamp(max=self.tokens.shape[2] - 1)[:, None].expand(-1, order.shape[1], -1)
        lengths = (texts.lengths - count[:, None]).clamp(min=0)
        return replace(texts, tokens=texts.tokens.gather(2, index), lengths=lengths)


def have_ended(
    prefix: Prefix, tokens: Int[Tensor, "rows texts width"], lengths: Int[Tensor, "rows texts"]
) -> Bool[Tensor, "rows texts"]:
    """Which texts end in an EOS or fill the budget."""
    end = (lengths - 1).clamp(0, tokens.shape[2] - 1)
    last = tokens.gather(2, end[:, :, None])[:, :, 0]
    is_full = prefix.num_new[:, None] + lengths >= prefix.budgets[:, None]
    return is_full | (prefix.is_eos(last) & (lengths > 0))
