"""The likelihood of outputs under the raw target; measured outside of every timed window.

Prompts are read as for decoding, into the pair's own caches, and the outputs in one forward after
them. So a prompt that the prefix cache has is not read again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mtad.api.pair import ModelPair
from mtad.core.tree import TokenTree
from mtad.engine.request import Request
from mtad.model.lm import LM

MAX_LOGITS = 2**26
"""Logits computed at once, about 256 MB in float32."""


@torch.inference_mode()
def negative_log_likelihoods(
    pair: ModelPair, prompts: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]]
) -> list[float]:
    """The sum of −log p(token | text before) over each output up to and with its first EOS.

    Args:
        pair: its target's raw distribution counts, without temperature or truncation.
        prompts: token ids before each output.
        outputs: token ids; an empty output has the sum 0.
    """
    models, result = pair.models, [0.0] * len(outputs)
    read = [up_to_eos(output, models.eos_token_ids) for output in outputs]
    lm, _ = pair.workspace.take(models.target, None, models.vocab, "none")
    try:
        for rows in _batches(list(map(len, prompts)), list(map(len, read)), models.vocab):
            batch = [prompts[row] for row in rows], [read[row] for row in rows]
            for row, nll in zip(rows, _of_batch(pair, lm, *batch), strict=True):
                result[row] = nll
    finally:
        pair.workspace.give_back([lm])
    return result


def _of_batch(
    pair: ModelPair, lm: LM, prompts: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]]
) -> list[float]:
    """The same of outputs that are read together, none of them empty."""
    longest = max(map(len, outputs))
    lm.clear()
    pair.workspace.reserve([lm], len(prompts), max(map(len, prompts)) + longest)
    lm.prefill(prompts, [Request.cache_salt] * len(prompts))
    logits = lm.forward(_chain(prompts, outputs, longest, lm.device))
    nlls = []
    for one, output in zip(logits, outputs, strict=True):
        chosen = torch.tensor(output, device=one.device, dtype=torch.int64)
        logprobs = one[: len(output)].log_softmax(-1).gather(1, chosen[:, None])
        nlls.append(-float(logprobs.sum()))
    return nlls


def _chain(
    prompts: Sequence[Sequence[int]],
    outputs: Sequence[Sequence[int]],
    length: int,
    device: torch.device,
) -> TokenTree:
    """The last token of each prompt, and below it its output but for the last token."""
    fed = [[prompt[-1], *output[:-1]] for prompt, output in zip(prompts, outputs, strict=True)]
    padded = [[*row, *[0] * (length - len(row))] for row in fed]  # no other token sees these
    tokens = torch.tensor(padded, dtype=torch.int64, device=device)
    before = torch.tensor([p[-2:][0] for p in prompts], dtype=torch.int64, device=device)
    return TokenTree.chain(tokens, before)


def up_to_eos(ids: Sequence[int], eos_token_ids: Sequence[int]) -> list[int]:
    """The ids up to the first EOS and with it; all of them if there is none."""
    ends = [place for place, token in enumerate(ids) if token in eos_token_ids]
    return list(ids[: ends[0] + 1] if ends else ids)


def _batches(prompts: Sequence[int], outputs: Sequence[int], vocab: int) -> list[list[int]]:
    """Rows with an output, prompts of about equal length together, within `MAX_LOGITS`.

    Args:
        prompts, outputs: the lengths of each row's.
        vocab: logits of one token.
    """
    batches: list[list[int]] = []
    longest = 0
    for row in sorted(range(len(prompts)), key=lambda row: -prompts[row]):
        if not outputs[row]:
            continue
        longest = max(longest, outputs[row])
        if batches and (len(batches[-1]) + 1) * longest * vocab <= MAX_LOGITS:
            batches[-1].append(row)
        else:
            batches.append([row])
            longest = outputs[row]
    return batches
