"""The ledger: what a method keeps of each text, whatever happens to the batch around it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from support.tiny import PROMPTS, VOCAB, similar, tiny_model

from mtad.engine.session import Block, Request, Session
from mtad.engine.workspace import Workspace
from mtad.methods.autoregressive import Autoregressive
from mtad.methods.margin import Margin
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.model.lm import Model
from mtad.runtime.cpu_tapes import Tapes
from mtad.sampling import warper
from mtad.sampling.params import SamplingParams
from mtad.speculative import judging
from mtad.speculative.method import Verdict, method_key

TENTH = 0.1


@dataclass(frozen=True)
class Counting(SpeculativeSampling):
    """Keeps of each text how many blocks it had, in tenths, and how many tokens."""

    name: ClassVar[str] = "counting"
    entries: ClassVar[tuple[str, ...]] = ("tenths", "tokens")

    def verify(self, tree: Any, target_logits: Any, warp: Any, noise: Any) -> Verdict:
        verdict = super().verify(tree, target_logits, warp, noise)
        tokens = verdict.num_accepted.double() + 1
        kept = warp.ledger + torch.stack([torch.full_like(tokens, TENTH), tokens], dim=1)
        return replace(verdict, ledger=kept)


METHOD = Counting(num_draft_tokens=3)
SETTINGS = [
    SamplingParams(max_new_tokens=11, seed=1),
    SamplingParams(max_new_tokens=30, seed=2, temperature=0.0),
    SamplingParams(max_new_tokens=3, seed=3),
    SamplingParams(max_new_tokens=21, seed=4, top_k=3),
    SamplingParams(max_new_tokens=9, seed=5, repetition_penalty=1.3),
]
REQUESTS = [Request(PROMPTS[i % 3], params) for i, params in enumerate(SETTINGS)]


@pytest.fixture(scope="module")
def pair() -> tuple[Model, Model]:
    target = tiny_model("llama")
    return target, similar(target, 0.2)


def finish(session: Session, found: dict[int, list[Block]], most: int = 10**6) -> None:
    """Take steps; what comes of each request is added to `found`."""
    with torch.inference_mode():
        while most > 0 and session.rows:
            for block in session.step().require_sound().blocks:
                found.setdefault(block.request, []).append(block)
            most -= 1


def expected(blocks: list[Block], tenths: float = 0.0, tokens: float = 0.0) -> list[dict]:
    """The receipt of each block of a text; to the bit, as the sums are those of the method."""
    receipts = []
    for block in blocks:
        tenths, tokens = tenths + TENTH, tokens + block.num_accepted + 1
        receipts.append({"tenths": tenths, "tokens": tokens})
    return receipts


def join(session: Session, requests: list[Request]) -> None:
    with torch.inference_mode():
        session.join(requests)
        while session.prefill_chunk():
            pass


@pytest.mark.slow
@pytest.mark.parametrize("pads", [False, True], ids=["exact", "padded"])
def test_rows_that_join_and_leave_keep_their_own(pair: tuple, pads: bool) -> None:
    session, found = Session(*pair, METHOD, REQUESTS[:2], VOCAB, pads=pads), {}
    finish(session, found, 2)
    join(session, REQUESTS[2:4])
    finish(session, found, 2)
    with torch.inference_mode():
        session.leave([1])
    join(session, REQUESTS[4:])
    finish(session, found)
    assert sorted(found) == [0, 1, 2, 3, 4]
    for blocks in found.values():
        assert [block.receipt for block in blocks] == expected(blocks)


@pytest.mark.slow
def test_a_text_that_is_taken_up_again_goes_on_where_it_was(pair: tuple) -> None:
    first, again, whole = {}, {}, {}
    finish(Session(*pair, METHOD, REQUESTS[3:4], VOCAB), whole)
    finish(Session(*pair, METHOD, REQUESTS[3:4], VOCAB), first, 2)
    output = [token for block in first[0] for token in block.token_ids]
    kept = first[0][-1].receipt
    request = replace(REQUESTS[3], output_ids=output, receipt=kept)
    finish(Session(*pair, METHOD, [request, REQUESTS[0]], VOCAB), again)
    assert [replace(block, request=0) for block in first[0] + again[0]] == whole[0]
    assert again[1][-1].receipt == expected(again[1])[-1]


@pytest.mark.slow
def test_the_budget_of_a_text_is_spent_once(pair: tuple) -> None:
    """Taken up again after every block, a text is the same as in one go."""
    method = Margin(num_draft_tokens=3, max_gap=9.0, max_rank=60, regret_budget=4.0)
    request = Request(PROMPTS[0], SamplingParams(temperature=0.0, max_new_tokens=30))
    whole, found = {}, {0: []}
    finish(Session(*pair, method, [request], VOCAB), whole)
    blocks = found[0]
    while not blocks or blocks[-1].finish_reason is None:
        output = [token for block in blocks for token in block.token_ids]
        receipt = blocks[-1].receipt if blocks else {}
        again = replace(request, output_ids=output, receipt=receipt)
        finish(Session(*pair, method, [again], VOCAB), found, 1)
    assert [block.token_ids for block in blocks] == [block.token_ids for block in whole[0]]
    for block, other in zip(blocks, whole[0], strict=True):
        assert block.receipt == pytest.approx(other.receipt, abs=1e-5)
    assert 2.0 < blocks[-1].receipt["regret"] < 4.0
    begun = replace(request, output_ids=[t for b in blocks[:-3] for t in b.token_ids])
    forgetful: dict[int, list[Block]] = {}
    finish(Session(*pair, method, [begun], VOCAB), forgetful)
    assert blocks[-4].receipt["regret"] + forgetful[0][-1].receipt["regret"] > 4.0


@pytest.mark.slow
@pytest.mark.parametrize("method", [METHOD, Margin(num_draft_tokens=3, max_gap=2.0)])
def test_recorded_iterations_keep_it_too(pair: tuple, method: Any) -> None:
    tapes, wanted, found = Tapes(patience=1), {}, {}
    finish(Session(*pair, method, REQUESTS, VOCAB), wanted)
    session = Session(*pair, method, REQUESTS, VOCAB, workspace=Workspace(tapes))
    finish(session, found)
    assert found == wanted
    assert tapes.num_captured > 0 and tapes.reason(method_key(method)) is None


@pytest.mark.slow
def test_judging_on_few_tokens_keeps_it_too(pair: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warper, "TIES", 1)
    monkeypatch.setattr(judging, "SHARE", 0)
    request, texts = Request(PROMPTS[0], SETTINGS[3]), []
    for small in (0, VOCAB):
        monkeypatch.setattr(judging, "SMALL", small)
        found: dict[int, list[Block]] = {}
        finish(Session(*pair, METHOD, [request], VOCAB), found)
        texts.append(found[0])
    assert texts[0] == texts[1]
    assert texts[0][-1].receipt == expected(texts[0])[-1]


def test_an_iteration_of_another_method_leaves_it_as_it_is(pair: tuple) -> None:
    """A guard's plain steps, between two of the method."""
    session, found = Session(*pair, METHOD, REQUESTS[1:2], VOCAB), {}
    finish(session, found, 2)
    session.method = Autoregressive()
    finish(session, found, 2)
    assert (
        found[0][3].receipt == found[0][2].receipt == found[0][1].receipt == expected(found[0])[1]
    )


def test_methods_that_keep_nothing_have_no_ledger(pair: tuple) -> None:
    session, found = Session(*pair, SpeculativeSampling(), REQUESTS[:1], VOCAB), {}
    assert session.prefix.ledger is None
    finish(session, found)
    assert {len(block.receipt) for block in found[0]} == {0}


def test_a_receipt_of_another_method_is_refused(pair: tuple) -> None:
    request = replace(REQUESTS[0], output_ids=[5], receipt={"regret": 1.0})
    message = "request 0: its receipt has regret, and counting keeps tenths, tokens of a text"
    with pytest.raises(ValueError, match=message):
        Session(*pair, METHOD, [request], VOCAB)
    with pytest.raises(ValueError, match="autoregressive keeps nothing of a text"):
        Session(*pair, Autoregressive(), [request], VOCAB)
