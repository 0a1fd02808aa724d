"""How far an acceptance rule moves a token from the target's law, and how often it rejects.

The rule is asked by its own `verify` about chains of one token: for every token that the draft may
propose, below which coin it is accepted, and where it never is, what is drawn instead. Both are
monotone in the random number, so they are found by bisection, exact to `STEPS` bits. Knows no
model and no method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mtad.core.logs import exp_of, total_variation
from mtad.core.noise import Noise
from mtad.core.prefix import Prefix, select_rows
from mtad.engine.request import Request, prefix_of
from mtad.sampling.params import SamplingParams
from mtad.sampling.truncation import NEVER
from mtad.sampling.warper import Warper
from mtad.speculative.method import Method, Verdict

STEPS = 24
ALWAYS = 1 - 2.0**-40
"""A coin that only a token accepted for certain passes."""


@dataclass(frozen=True)
class Positions:
    """What target and draft say of the next token at some places, over C tokens of each place.

    Attributes:
        logits: (N, C) the target's, after biases and penalties.
        draft: (N, C) log q, that draft tokens are drawn from.
        eos: (N, E) which of the C tokens end the text, padded with -1.
        sampling: temperature, above 0, and truncation.
    """

    logits: Float[Tensor, "places tokens"]
    draft: Float[Tensor, "places tokens"]
    eos: Int[Tensor, "places stops"]
    sampling: SamplingParams

    @cached_property
    def target(self) -> Float[Tensor, "places tokens"]:
        """P, after temperature and truncation."""
        warp = Warper.of([self.sampling], self.logits.shape[1], self.logits.device)
        return exp_of(warp.truncate(self.logits[:, None])[:, 0]).double()

    @property
    def distance(self) -> Float[Tensor, " places"]:
        """TV(p, q): the least sum of bias and rejection."""
        return total_variation(self.target, exp_of(self.draft).double())

    def place(self, method: Method) -> tuple[Float[Tensor, " places"], Float[Tensor, " places"]]:
        """Bias TV(o, p) and share of rejected draft tokens, as a rule has them at each place."""
        weights = exp_of(self.draft).double()
        rows, tokens = weights.nonzero(as_tuple=True)
        accepted = _largest(lambda coin: self._ask(method, rows, tokens, coin, coin)[0], len(rows))
        kept = torch.zeros_like(weights).index_put((rows, tokens), accepted)
        rejected = weights * (1 - kept)
        rows, tokens = (rejected > 2.0 ** (2 - STEPS)).nonzero(as_tuple=True)
        law = weights * kept
        law.index_add_(0, rows, self._ends(method, rows, tokens) * rejected[rows, tokens, None])
        return total_variation(law, self.target), rejected.sum(1)

    def _ends(
        self, method: Method, rows: Int[Tensor, " drafts"], tokens: Int[Tensor, " drafts"]
    ) -> Float[Tensor, "drafts tokens"]:
        """The laws of what is drawn where these tokens are rejected."""
        possible = (self.target > 0) | (self.draft > NEVER)
        draft, last = possible[rows].nonzero(as_tuple=True)
        coin = torch.full((len(draft),), ALWAYS, dtype=torch.float64)
        below = _largest(
            lambda end: self._ask(method, rows[draft], tokens[draft], coin, end)[1] <= last,
            len(draft),
        )
        sums = torch.zeros(len(rows), possible.shape[1], dtype=torch.float64)
        sums = sums.index_put((draft, last), below).cummax(1).values
        return sums.diff(dim=1, prepend=torch.zeros(len(rows), 1, dtype=torch.float64))

    def _ask(
        self,
        method: Method,
        rows: Int[Tensor, " drafts"],
        tokens: Int[Tensor, " drafts"],
        coin: Float[Tensor, " drafts"],
        end: Float[Tensor, " drafts"],
    ) -> tuple[Bool[Tensor, " drafts"], Int[Tensor, " drafts"]]:
        """Whether the rule accepts each token, and the token after it or in its place."""
        prefix = self._prefix(method, rows)
        law, value = self.draft[rows], self.draft[rows, tokens]
        tree = prefix.root().grow(
            tokens[:, None],
            torch.zeros_like(tokens)[:, None],
            value[:, None] > NEVER,
            value[:, None],
        )
        laws = law[:, None], law[:, None]  # of the root, and of the token for rules that ask
        warp = Warper.of([self.sampling], law.shape[1], law.device)
        warp = select_rows(warp, torch.zeros_like(rows)).at(prefix)
        logits = self.logits[rows, None].expand(-1, 2, -1)
        noise = _Given(rows, rows, coin, end)
        verdict: Verdict = method.verify(replace(tree, draft_laws=laws), logits, warp, noise)
        return verdict.num_accepted > 0, verdict.next_token

    def _prefix(self, method: Method, rows: Int[Tensor, " drafts"]) -> Prefix:
        """A text of which nothing is known but what may end it."""
        text = prefix_of([Request([0, 0], self.sampling)], rows.device, method.kept)
        return replace(select_rows(text, torch.zeros_like(rows)), eos=self.eos[rows])


@dataclass(frozen=True)
class _Given(Noise):
    """Random numbers that are given: one per row for what follows a draft token, one for coins."""

    coin: Float[Tensor, " rows"]
    end: Float[Tensor, " rows"]

    def uniform(self, tag: str, *shape: int) -> Tensor:
        """The row's number."""
        values = self.end if tag == "endpoint" else self.coin
        return values.view(-1, *(1 for _ in shape)).expand(-1, *shape)


def _largest(holds: Callable[[Tensor], Tensor], count: int) -> Float[Tensor, " count"]:
    """The largest numbers from 0 to 1 up to which something holds, one each."""
    low = torch.zeros(count, dtype=torch.float64)
    for step in range(1, STEPS + 1):
        middle = low + 2.0**-step
        low = torch.where(holds(middle.clamp(max=ALWAYS)), middle, low)
    return low
