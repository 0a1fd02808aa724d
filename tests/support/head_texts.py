"""Random heads, and the states of texts that a head itself is the target of."""

import torch
from support.tiny import VOCAB

from mtad.distill.blocks import law_of
from mtad.distill.states import States
from mtad.model.recurrent_head import HeadConfig, RecurrentHead
from mtad.sampling.params import SamplingParams

HIDDEN = 16


def head_of(vocab=VOCAB, drafted=None, seed=0):
    """A random head with an embedding of its own."""
    torch.manual_seed(seed)
    config = HeadConfig(HIDDEN, 24, vocab, drafted or vocab)
    return RecurrentHead(config, torch.nn.Embedding(vocab, HIDDEN))


def rolled_out(head, num_texts=40, length=9, temperature=1.0, seed=0):
    """States of texts whose target is the head itself, so that it is the perfect draft."""
    generator = torch.Generator().manual_seed(seed)
    rows = {"hidden": [], "tokens": [], "left": [], "texts": []}
    with torch.no_grad():
        for text in range(num_texts):
            state = torch.randn(HIDDEN, generator=generator)
            for place in range(length):
                law = law_of(head.logits(state)[None], SamplingParams(temperature))[0]
                token = head.d2t[torch.multinomial(law, 1, generator=generator)]
                rows["hidden"].append(state)
                rows["tokens"].append(token)
                rows["left"].append(length - 1 - place)
                rows["texts"].append(text)
                state = head(head.embed(token)[0], state)
    hidden, tokens = torch.stack(rows["hidden"]), torch.cat(rows["tokens"])
    drawn = torch.full((len(tokens),), temperature)
    left, texts = torch.tensor(rows["left"]), torch.tensor(rows["texts"])
    return States(hidden, tokens, left, drawn, texts)
