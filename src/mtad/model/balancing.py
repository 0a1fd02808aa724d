"""What is balanced in transformers' models before they are made int8, and by which text.

Knows no kernel.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from mtad.errors import PromptError
from mtad.model.context import context_of, embedding_rows
from mtad.model.tokenizer import encode
from mtad.model.vocabulary import Tokenizer
from mtad.runtime.linear.balance import Links, balance

LINKS = Links(
    {
        "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.up_proj": ("mlp.down_proj",),
    },
    given="lm_head",
)
"""The head's input is left as it is: drafts read it."""
_MIN_TOKENS, _MAX_TOKENS = 64, 384
_TEXT = '''\
The council met on Tuesday, 14 March 2023, to decide how the $2.5 million left by the old library
should be spent. "We can't please everyone," said Maria Jensen, who has run the reading room since
1998, "but a roof that doesn't leak would be a start."

def mean(values: list[float]) -> float:
    """The average, or 0.0 of nothing."""
    total = sum(values)
    return total / len(values) if values else 0.0

Question: A train leaves at 9:40 and takes 2 hours and 35 minutes. When does it arrive?
Answer: 9:40 + 2:35 = 12:15, so it arrives at a quarter past twelve.

{"name": "Lena", "age": 31, "languages": ["German", "French"], "city": "Basel"}
SELECT city, COUNT(*) FROM people WHERE age > 30 GROUP BY city ORDER BY 2 DESC;

Le chat dort sur la chaise, und der Hund wartet vor der Tür. La lluvia no para.
1. Preheat the oven to 180 °C. 2. Mix flour, sugar and butter. 3. Bake for twenty minutes.

Photosynthesis turns light, water and carbon dioxide into sugar and oxygen; without it, there would
be little life on Earth.
'''


def balance_target(model: PreTrainedModel, tokenizer: Tokenizer | None) -> int:
    """Balance the inputs of a model's linear layers, in place; the number of these layers.

    Args:
        model: the model, in floats.
        tokenizer: its tokenizer; without one, or with one that cannot read a text, the model gets
            tokens drawn at random, whose inputs are less like those of texts.
    """
    tokens = _tokens(model, tokenizer)

    def run() -> Tensor:
        logits: Tensor = model(tokens, use_cache=False).logits
        return logits

    return balance(model, LINKS, run)


def _tokens(model: PreTrainedModel, tokenizer: Tokenizer | None) -> Int[Tensor, "1 tokens"]:
    rows = embedding_rows(model)
    try:
        ids = torch.tensor([t for t in encode(tokenizer, _TEXT) if t < rows], dtype=torch.long)
    except PromptError:  # there is no tokenizer, or it cannot read such a text
        ids = torch.zeros(0, dtype=torch.long)
    if len(ids) < _MIN_TOKENS:
        random = torch.Generator().manual_seed(0)
        ids = torch.randint(rows, (_MAX_TOKENS,), generator=random)
    return ids[None, : min(_MAX_TOKENS, context_of(model) or _MAX_TOKENS)]
