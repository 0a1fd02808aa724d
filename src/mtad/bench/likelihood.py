"""The likelihood of outputs under the raw target; measured outside of every timed window."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor

from mtad.model.lm import Model

MAX_LOGITS = 2**26
"""Logits computed at once, about 256 MB in float32."""


@torch.inference_mode()
def negative_log_likelihoods(
    model: Model,
    prompts: Sequence[Sequence[int]],
    outputs: Sequence[Sequence[int]],
    vocab: int,
    eos_token_ids: Sequence[int] = (),
) -> list[float]:
    """The sum of −log p(token | text before) over each output up to and with its first EOS.

    Args:
        model: the target; its raw distribution counts, without temperature or truncation.
        prompts: token ids before each output.
        outputs: token ids; an empty output has the sum 0.
        vocab: number of token ids in use; logits beyond are padding.
        eos_token_ids: what ends a text.
    """
    texts = [[*p, *up_to_eos(o, eos_token_ids)] for p, o in zip(prompts, outputs, strict=True)]
    result = [0.0] * len(texts)
    for rows in _batches([len(text) for text in texts], vocab):
        width = max(len(texts[row]) for row in rows)
        padded = [texts[row] + [0] * (width - len(texts[row])) for row in rows]  # unseen: causal
        first = min(len(prompts[row]) for row in rows) - 1
        ids = torch.tensor(padded, dtype=torch.int64, device=model.device)
        logits = _logits_from(model, ids, first)
        for place, row in enumerate(rows):
            start, end = len(prompts[row]) - first, len(texts[row]) - first
            logprobs = logits[place, start - 1 : end - 1, :vocab].float().log_softmax(-1)
            chosen = torch.tensor(
                texts[row][len(prompts[row]) :], device=logprobs.device, dtype=torch.int64
            )
            result[row] = -float(logprobs.gather(1, chosen[:, None]).sum())
    return result


def _logits_from(model: Model, ids: Tensor, first: int) -> Tensor:
    """The logits after the token `first` and those that follow it; most models compute no more."""
    can_skip = "logits_to_keep" in inspect.signature(model.forward).parameters
    options = {"logits_to_keep": ids.shape[1] - first} if can_skip else {}
    logits: Tensor = model(ids, use_cache=False, **options).logits
    return logits if can_skip else logits[:, first:]


def up_to_eos(ids: Sequence[int], eos_token_ids: Sequence[int]) -> list[int]:
    """The ids up to the first EOS and with it; all of them if there is none."""
    ends = [place for place, token in enumerate(ids) if token in eos_token_ids]
    return list(ids[: ends[0] + 1] if ends else ids)


def _batches(lengths: Sequence[int], vocab: int) -> list[list[int]]:
    """Rows of about equal length together, as many as the memory for logits allows."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        last = batches[-1] if batches else []
        if last and (len(last) + 1) * lengths[last[0]] * vocab <= MAX_LOGITS:
            last.append(row)
        else:
            batches.append([row])
    return batches
