"""Speculative sampling with planted mistakes, for programs that look for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mtad.core.noise import Noise
from mtad.core.tree import TokenTree
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.sampling.warper import Warper
from mtad.speculative.method import Verdict


@dataclass(frozen=True)
class Biased(SpeculativeSampling):
    """Once in a while the first token is the least likely one that there is.

    The law of the first token is then `share` (1 - its probability) away from the target's.
    """

    share: float = 0.01

    def verify(
        self, tree: TokenTree, target_logits: torch.Tensor, warp: Warper, noise: Noise
    ) -> Verdict:
        verdict = super().verify(tree, target_logits, warp, noise)
        root = warp(target_logits, tree)[:, 0]
        least = root.masked_fill(root == -torch.inf, torch.inf).argmin(-1)
        is_wrong = noise.uniform("bias", 1)[:, 0] < self.share
        return replace(
            verdict,
            num_accepted=torch.where(is_wrong, 0, verdict.num_accepted),
            next_token=torch.where(is_wrong, least, verdict.next_token),
        )


@dataclass(frozen=True)
class Residual(SpeculativeSampling):
    """After a rejection the token is drawn from the target's law, not from the residual."""

    def verify(
        self, tree: TokenTree, target_logits: torch.Tensor, warp: Warper, noise: Noise
    ) -> Verdict:
        verdict = super().verify(tree, target_logits, warp, noise)
        last = verdict.num_accepted[:, None, None].expand(-1, 1, warp.vocab)
        probs = warp(target_logits, tree).gather(1, last)[:, 0].double().exp()
        u = noise.uniform("again", 1)
        drawn = torch.searchsorted(probs.cumsum(-1), u).clamp(max=warp.vocab - 1)[:, 0]
        return replace(verdict, next_token=drawn)


@dataclass(frozen=True)
class SecondBest(SpeculativeSampling):
    """A greedy text whose block ends with the target's second choice, once in a while."""

    share: float = 0.3

    def verify(
        self, tree: TokenTree, target_logits: torch.Tensor, warp: Warper, noise: Noise
    ) -> Verdict:
        verdict = super().verify(tree, target_logits, warp, noise)
        last = verdict.num_accepted[:, None, None].expand(-1, 1, warp.vocab)
        second = target_logits.gather(1, last)[:, 0].topk(2, -1).indices[:, 1]
        is_wrong = noise.uniform("second", 1)[:, 0] < self.share
        return replace(verdict, next_token=torch.where(is_wrong, second, verdict.next_token))
