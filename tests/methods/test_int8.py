"""Methods on 8-bit weights: of a quantised draft the text is the target's, of a target its own.

Sums of integers don't depend on the rows beside them, and neither does the attention that such a
target gets: it says the same of a token alone and in a tree.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.tiny import PROMPTS, some_variants, token_ids
from support.toy_texts import DRAFTING, decode_groups, plain_law, plain_requests
from support.toys import MarkovPair, assert_law

from mtad.methods.autoregressive import Autoregressive
from mtad.model.lm import Model
from mtad.model.weights import take_form
from mtad.runtime.linear import formats
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method
from mtad.testing import TOY_DRAFT, TOY_TARGET, random_llama


@pytest.fixture(scope="module", autouse=True)
def every_layer() -> Iterator[None]:
    """Layers of toys have few weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "MIN_WEIGHTS", 1)
        yield


def in_int8(model: Model, name: str = "draft") -> Model:
    changed = copy.deepcopy(model)
    assert take_form(changed, name, "int8").kernels
    return changed


@pytest.fixture(scope="module")
def toy() -> MarkovPair:
    plain = MarkovPair.of(TOY_TARGET, TOY_DRAFT)
    draft, ids = in_int8(plain.draft), torch.arange(plain.vocab)[None]
    with torch.inference_mode():
        off = (draft(ids).logits - plain.draft(ids).logits).abs().max()
    assert off > 1e-3, "it is another draft"
    return MarkovPair(plain.target, draft, plain.vocab)


@pytest.mark.parametrize(("name", "options"), DRAFTING)
def test_text_of_a_quantised_draft_has_the_law_of_the_target(
    toy: MarkovPair, name: str, options: dict[str, Any]
) -> None:
    [texts] = decode_groups(toy, name, options, [plain_requests(1_000, 6)])
    assert_law(texts, plain_law())


@pytest.fixture(scope="module")
def pair() -> tuple[Model, Model]:
    return in_int8(random_llama(hidden=64), "target"), in_int8(random_llama(hidden=32, seed=1))


@pytest.fixture(scope="module")
def plain_texts(pair: tuple[Model, Model]) -> list[list[int]]:
    params = SamplingParams(max_new_tokens=14, temperature=0.0)
    texts = token_ids(pair[0], None, Autoregressive(), PROMPTS, params)
    before = token_ids(random_llama(hidden=64), None, Autoregressive(), PROMPTS, params)
    assert texts != before, "it is another target"
    return texts


LOSSLESS = [given for given in some_variants() if given.values[0].is_lossless]


@pytest.mark.parametrize("method", LOSSLESS)
def test_greedy_text_is_that_of_the_quantised_target(
    pair: tuple[Model, Model], plain_texts: list[list[int]], method: Method
) -> None:
    params = SamplingParams(max_new_tokens=14, temperature=0.0)
    assert token_ids(*pair, method, PROMPTS, params) == plain_texts
