"""The target's exact laws of next tokens, from logits that are given or by a forward of its own.

The forward is the stock model's, without the engine's cache, masks and trees. Knows no method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from mtad.api.pair import ModelPair
from mtad.core.tree import TokenTree
from mtad.engine.request import Request, prefix_of
from mtad.sampling.warper import Warper

Probs: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Law:
    """What the target says after a text.

    Attributes:
        probs: (V,) with the request's sampling settings.
        raw: (V,) with penalties and biases, before temperature and truncation.
        unit: of the last place of the largest logit, in the type of the target's weights.
    """

    probs: Probs
    raw: Probs
    unit: float = 0.0

    def distance(self, other: Law) -> float:
        """Total variation between the laws before truncation, which rounding moves but little."""
        return float(np.abs(self.raw - other.raw).sum()) / 2


def law_after(
    pair: ModelPair, request: Request, path: Sequence[int], logits: Float[Tensor, " vocab"]
) -> Law:
    """The law of the token that follows a request's text and a path of tokens.

    Args:
        pair: its vocabulary counts.
        request: the text and the sampling settings.
        path: tokens after it.
        logits: the target's after them.
    """
    warp, tree = _at(pair, request, path, logits.device)
    one, last = logits[None, None], slice(len(path), len(path) + 1)
    probs = warp(one, tree, last)[0, 0].double().exp()
    raw = warp.raw(one, tree, last)[0, 0].double().exp()
    unit = torch.finfo(pair.models.target.dtype).eps * float(logits.abs().max())
    return Law((probs / probs.sum()).cpu().numpy(), raw.cpu().numpy(), unit)


def laws_along(
    pair: ModelPair,
    request: Request,
    path: Sequence[int],
    logits: Float[Tensor, "nodes vocab"],
) -> Float64[Tensor, "nodes vocab"]:
    """The probabilities of each token of a path and of the one after it; arguments as above."""
    warp, tree = _at(pair, request, path, logits.device)
    probs = warp(logits[None], tree)[0].double().exp()
    return probs / probs.sum(-1, keepdim=True)


def _at(
    pair: ModelPair, request: Request, path: Sequence[int], device: torch.device
) -> tuple[Warper, TokenTree]:
    """The warper at the request's text, and the path as a tree below it."""
    prefix = prefix_of([request], device)
    tokens = torch.tensor([[request.text_ids[-1], *path]], dtype=torch.int64, device=device)
    warp = Warper.of([request.sampling], pair.models.vocab, device).at(prefix)
    return warp, TokenTree.chain(tokens, prefix.last(2))


@torch.inference_mode()
def read_all(
    pair: ModelPair, ids: Sequence[int], copies: int = 1, num_last: int = 0
) -> Float[Tensor, "read vocab"]:
    """The logits after the tokens of a text, which the target reads without a cache.

    Args:
        pair: its target reads.
        ids: the text.
        copies: so many of them are read as one batch; the last one's logits count.
        num_last: tokens from the end on; 0 for all.
    """
    target: Any = pair.models.target
    device = target.get_input_embeddings().weight.device
    text = torch.tensor([list(ids)] * copies, dtype=torch.int64, device=device)
    logits: Tensor = target(input_ids=text, use_cache=False, logits_to_keep=num_last).logits
    return logits[-1, :, : pair.models.vocab].float()


def readings(
    pair: ModelPair, request: Request, path: Sequence[int], copies: Sequence[int] = (1, 3)
) -> list[Law]:
    """The law after a path as the target says it, read alone and in batches of its own copies."""
    ids = [*request.text_ids, *path]
    logits = [read_all(pair, ids, count, num_last=1)[0] for count in copies]
    return [law_after(pair, request, path, one) for one in logits]
