"""Cascades and other mixtures of target and draft, each context's law sampled exactly.

With p = target, q = draft, and p̃, q̃ the same but before temperature and truncation at temperature
0, a rule with threshold a makes a law π of each context:

    chow         π = p if max q̃ < 1 - a, else q
    diff         π = p if max q̃ < max p̃ - a, else q
    opt          π = p if max q̃ < max p̃ - a TV(p̃, q̃), else q
    js, kl, tv   π = p if D(p̃, q̃) > a, else q, with D the Jensen-Shannon divergence (fuzzy
                 speculative decoding), KL(q̃ | p̃) or the total variation
    token        π(v) = q(v) (1 - r(v)) + p(v) Σ_u r(u) q(u), r(v) = 1 if p̃(v) < (1 - a) max p̃
    ensemble     π = a q + (1 - a) p

    accept d_j  iff  log U_j <= log π_j(d_j) - log q_j(d_j);  stop at the first rejection
    after a rejection at j:   x ~ norm(max(π_j - q_j, 0))
    after γ acceptances:      x ~ π_(γ+1), for which the draft reads its last token, too

Lossy: the text has the law of π, not of p; it may have tokens that p's truncation removes. At
temperature 0 π is one-hot, for `ensemble` at the most likely token of a q̃ + (1 - a) p̃.

The receipt has the sum over tokens of TV(π, p). Its mean bounds the total variation between whole
texts and those of the target.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, TypeAlias

import torch
from annotated_types import Ge
from jaxtyping import Bool, Float
from torch import Tensor

from mtad.core.logs import exp_of, log_of, total_variation
from mtad.core.noise import Noise
from mtad.core.options import Count
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.model.drafter import Drafter
from mtad.sampling.truncation import NEVER
from mtad.sampling.warper import Warper
from mtad.speculative.acceptance import (
    chain_path,
    endpoint,
    passes_coin,
    prefix_length,
    speculative_endpoint_logprobs,
    spent_until,
)
from mtad.speculative.drafting import Level, sampled_tree
from mtad.speculative.facts import SHARES, Dial
from mtad.speculative.method import Method, Verdict, require

Rule: TypeAlias = Literal["chow", "diff", "opt", "js", "kl", "tv", "token", "ensemble"]
Logs: TypeAlias = Float[Tensor, "rows laws vocab"]

DEFAULTS: dict[Rule, float] = {"diff": 0.1, "opt": 0.3, "js": 0.1, "kl": 0.1, "tv": 0.1}
"""Thresholds unless one is given; 0.5 for the other rules."""
SHARED = ("chow", "diff", "token", "ensemble")
"""Rules whose threshold is at most 1."""


@dataclass(frozen=True)
class Cascade(Method):
    """Speculative cascades of Narasimhan et al., and other laws between draft and target.

    Attributes:
        num_draft_tokens: γ, draft tokens per iteration.
        rule: which law is sampled, see above.
        threshold: a, at least 0; for chow, diff, token and ensemble at most 1. The larger, the more
            is left to the draft. None is 0.5 for chow, token and ensemble, 0.3 for opt, else 0.1.
        bonus: the token after a whole draft is drawn from "mixture", or from "target", which saves
            a forward of the draft and moves the text towards p.
    """

    num_draft_tokens: Count = 4
    rule: Rule = "opt"
    threshold: Annotated[float, Ge(0)] | None = None
    bonus: Literal["mixture", "target"] = "mixture"

    name: ClassVar[str] = "cascade"
    lossless: ClassVar[bool] = False
    citation: ClassVar[str] = (
        "Narasimhan et al., ICLR 2025, arXiv 2405.19261; Holsman et al. 2025, arXiv 2502.20704"
    )
    drafting: ClassVar[tuple[str, ...]] = ("num_draft_tokens", "bonus")
    dial: ClassVar[Dial | None] = Dial("threshold", SHARES)
    entries: ClassVar[tuple[str, ...]] = ("total_variation",)

    def __post_init__(self) -> None:
        """Refuse a share above 1."""
        super().__post_init__()
        if self.rule in SHARED:
            allowed = f"a number from 0 to 1 for the rule {self.rule}"
            require(self.threshold is None or self.threshold <= 1, self, "threshold", allowed)

    @property
    def is_lossless(self) -> bool:
        """Only an ensemble with no part of the draft."""
        return self.rule == "ensemble" and self.threshold == 0

    def draft(self, lm: Drafter | None, prefix: Prefix, warp: Warper, noise: Noise) -> TokenTree:
        """A chain sampled from the draft, with its laws, that after the last token included."""
        assert lm is not None
        widths = (1,) * self.num_draft_tokens
        tree = sampled_tree(lm, prefix, warp, noise, widths, judged=True)
        if self.bonus == "target":
            return tree
        last = Level.after(lm, tree, prefix, warp).judged
        return replace(tree, draft_laws=(*tree.draft_laws, last))

    def verify(
        self,
        tree: TokenTree,
        target_logits: Float[Tensor, "rows nodes vocab"],
        warp: Warper,
        noise: Noise,
    ) -> Verdict:
        """Speculative sampling with π in place of p."""
        p, alive = warp(target_logits, tree), tree.alive[:, 1:]
        judged_p, judged_q = (
            warp.judging_logprobs(p, target_logits, tree),
            torch.cat(tree.draft_logprobs, 1),
        )
        q, count = warp.one_hot_if_greedy(judged_q, judged_q), judged_q.shape[1]
        mixed = self._mixed(p[:, :count], q, judged_p[:, :count], judged_q, warp)
        if count == tree.depth:  # where nothing is drafted p says what comes next
            mixed = torch.cat([torch.where(alive[:, :, None], mixed, p[:, :-1]), p[:, -1:]], dim=1)
        length = prefix_length(passes_coin(tree, mixed, noise))
        law = speculative_endpoint_logprobs(mixed, q[:, : tree.depth], alive, length)
        assert warp.prefix is not None
        is_end = torch.nn.functional.pad(warp.prefix.is_eos(tree.tokens[:, 1:]), (1, 0))
        bias = total_variation(exp_of(mixed), exp_of(p)).masked_fill(is_end, 0.0)
        spent = warp.ledger + spent_until(bias, length)
        return Verdict(chain_path(tree), length, endpoint(law, noise), spent)

    def _mixed(self, p: Logs, q: Logs, judged_p: Logs, judged_q: Logs, warp: Warper) -> Logs:
        """Log π; p where the draft has no token at all."""
        a = DEFAULTS.get(self.rule, 0.5) if self.threshold is None else self.threshold
        likely_p, likely_q = exp_of(judged_p), exp_of(judged_q)
        if self.is_lossless:
            return p
        if self.rule == "ensemble":
            mixed = log_of(a * likely_q + (1 - a) * likely_p)
            mixed = warp.one_hot_if_greedy(mixed, mixed)
        elif self.rule == "token":
            is_weak = likely_p < (1 - a) * likely_p.amax(-1, keepdim=True)
            weak = exp_of(q) * is_weak
            mixed = log_of(exp_of(q) - weak + exp_of(p) * weak.sum(-1, keepdim=True))
        else:
            mixed = torch.where(_wants_target(self.rule, a, likely_p, likely_q)[:, :, None], p, q)
        has_draft = judged_q.amax(-1, keepdim=True) > NEVER
        return torch.where(has_draft, mixed, p)

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """The chain and the root."""
        return self.num_draft_tokens + 1


def _wants_target(rule: Rule, a: float, p: Tensor, q: Tensor) -> Bool[Tensor, "rows laws"]:
    """Where a rule that takes one law or the other takes the target's; both as probabilities."""
    found: Tensor
    if rule == "chow":
        found = q.amax(-1) < 1 - a
    elif rule == "diff":
        found = q.amax(-1) < p.amax(-1) - a
    elif rule == "opt":
        found = q.amax(-1) < p.amax(-1) - a * total_variation(p, q)
    elif rule == "js":
        middle = (p + q) / 2
        found = (_divergence(p, middle) + _divergence(q, middle)) / 2 > a
    else:
        found = (_divergence(q, p) if rule == "kl" else total_variation(p, q)) > a
    return found


def _divergence(p: Tensor, q: Tensor) -> Float[Tensor, "rows laws"]:
    """KL(p | q), infinite where q lacks a token that p has."""
    total: Tensor = torch.where(p > 0, p * (p / q).log(), 0.0).sum(-1)
    return total
