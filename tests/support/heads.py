"""Random heads, and the hidden states of a target that they read."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mtad.model.lm import Model
from mtad.model.recurrent_head import HeadConfig, RecurrentHead


def random_head(
    target: Model, num_drafted: int | None = None, seed: int = 0, scale: float = 0.1
) -> RecurrentHead:
    """A head for a target whose drafts depend on the hidden state that it is given.

    Args:
        target: the model; the head gets some of its output rows.
        num_drafted: D, spread over the vocabulary; all token ids if None.
        seed: of the weights.
        scale: of the weights. The smaller, the nearer is a predicted state to the one before it.
    """
    generator = torch.Generator().manual_seed(seed)
    output = target.get_output_embeddings().weight
    vocab, hidden = output.shape
    drafted = torch.linspace(0, vocab - 1, num_drafted or vocab).long()
    config = HeadConfig(hidden, 2 * hidden, vocab, len(drafted))
    head = RecurrentHead(config, target.get_input_embeddings()).eval()
    with torch.no_grad():
        for weight in head.parameters():
            weight.copy_(scale * torch.randn(weight.shape, generator=generator))
        head.fc.weight[:, hidden:] += torch.eye(hidden)
        head.mlp_norm.fill_(1.0)
        head.norm_weight.uniform_(0.5, 1.5, generator=generator)
        head.norm_bias.uniform_(-0.1, 0.1, generator=generator)
        head.d2t.copy_(drafted)
        head.lm_head.weight.copy_(output[drafted])
    return head


@torch.inference_mode()
def fresh_hidden(model: Model, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """What enters the output head at the last token but one of each text, zeros if there is none.

    Seen where the model says it: in its list of hidden states, whose last is after the last norm.
    """
    rows = []
    for text in texts:
        if len(text) == 1:
            rows.append(torch.zeros(model.get_output_embeddings().in_features))
            continue
        read = model(torch.tensor([text[:-1]]), output_hidden_states=True, use_cache=False)
        rows.append(read.hidden_states[-1][0, -1])
    return torch.stack(rows)
