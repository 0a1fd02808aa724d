"""What a block says of its tree."""

from __future__ import annotations

import pytest
import torch
from support.tiny import PROMPTS, VOCAB, similar, tiny_model
from support.toys import make, requests_of

from mtad.core.tree import TokenTree
from mtad.engine.session import Session
from mtad.engine.step import num_first
from mtad.speculative.method import Method, Verdict


def test_first_children_are_counted_from_the_root_on() -> None:
    zeros = torch.zeros(5, dtype=torch.int64)
    tree = TokenTree.root(zeros, zeros)
    for parents in ([0, 0], [1, 1, 2, 2]):
        below = torch.tensor(parents).expand(5, -1)
        tree = tree.grow(below, below, below >= 0, below.float())
    path = torch.tensor([[1, 3], [1, 4], [2, 5], [1, 3], [1, 3]])
    accepted = torch.tensor([2, 2, 2, 1, 0])
    assert num_first(tree, Verdict(path, accepted, zeros)).tolist() == [2, 1, 0, 1, 0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mcss", "specinfer"])
def test_a_chain_would_have_had_them(name: str) -> None:
    """Greedy: from the same text the chain of the draft's best tokens is accepted as far.

    The siblings of specinfer are then all the draft's best token.
    """
    target = tiny_model("llama")
    draft = similar(target)

    def blocks_of(method: Method, prompt: list[int], num_tokens: int):
        request = requests_of([prompt], max_new_tokens=num_tokens, temperature=0.0)[0]
        with torch.inference_mode():
            for step in Session(target, draft, method, [request], VOCAB).run():
                yield step.blocks[0]

    text, counts = list(PROMPTS[1]), set()
    for block in blocks_of(make(name, k_config=(3, 2)), [*text], 40):
        chain = next(blocks_of(make("speculative_sampling", num_draft_tokens=2), [*text], 9))
        if block.finish_reason is None:
            assert block.num_first == chain.num_accepted
            counts.add((block.num_accepted, block.num_first))
        text += block.token_ids
    assert len(counts) > 2
    assert any(first < accepted for accepted, first in counts) == (name == "mcss")
