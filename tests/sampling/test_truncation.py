"""Top-p over large vocabularies: the set that sorting all of it gives, found without doing so."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from mtad.runtime.tape import Tape
from mtad.sampling.truncation import (
    NEVER,
    ONE,
    SORTED,
    _beyond_by_searching,
    _beyond_by_sorting,
    _top_p_anywhere,
    keep_top_p,
)

SHARES = torch.tensor([0.0, 1e-6, 0.1, 0.5, 0.9, 0.999, 1 - 1e-6])[:, None]


def shapes(vocab: int) -> dict[str, Tensor]:
    """Rows of logits, one kind a name."""
    draws = torch.randn(3, vocab, generator=torch.Generator().manual_seed(vocab))
    suppressed = draws.clone()
    suppressed[:, ::3] = NEVER
    return {
        "random": 3 * draws,
        "narrow": 1e-3 * draws,
        "peaked": 30 * draws,
        "flat": torch.zeros(2, vocab),
        "of bfloat16": (3 * draws).bfloat16().float(),
        "a few values": (2 * draws).round(),
        "signed zeros": draws.sign() * 0.0,
        "suppressed": suppressed,
        "one is certain": torch.eye(2, vocab) * 1e4,
        "far from 0": 3 * draws - 1e4,
        "tiny": draws * 1e-38,
        "a tail of most of the mass": torch.eye(2, vocab) * 12,
        "a tail of few values": 12 * torch.eye(3, vocab) + (8 * draws).bfloat16().float() / 64,
    }


def before(logits: Tensor) -> Tensor:
    """The mass before every token in units of 1 / ONE, by sorting."""
    masses = (logits.double().softmax(-1) * ONE).long()
    ordered, index = masses.sort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(index).scatter(-1, index, ordered.cumsum(-1) - ordered)


@pytest.mark.parametrize("vocab", [3, 17, 337, 8_193, 50_000])
def test_searching_finds_what_sorting_does(vocab: int) -> None:
    for name, rows in shapes(vocab).items():
        masses = before(rows)[:, None]
        logits = rows[:, None].expand(-1, len(SHARES), -1)
        found = _beyond_by_searching(logits, SHARES)
        assert torch.equal(found, masses > (SHARES.double() * ONE).long()), name
        if name == "tiny" or vocab > SORTED:  # equal to the last bit; sorting is not used
            continue
        differs = found != _beyond_by_sorting(logits, SHARES)  # whose sums float32 rounds
        gap = (masses.double() / ONE - SHARES.double()).abs()
        assert float(torch.where(differs, gap, 0.0).max()) < 2e-5, name


@pytest.mark.slow
@pytest.mark.parametrize("vocab", [SORTED + 1, 49_152])
def test_looking_finds_what_sorting_does(vocab: int) -> None:
    """Whether the likely tokens have the mass, as mostly, or all have to be sorted."""
    for name, rows in shapes(vocab).items():
        logits = rows[:, None].expand(-1, len(SHARES), -1)
        masses = (rows - rows.amax(-1, keepdim=True)).exp()
        ordered, index = masses.sort(dim=-1, descending=True, stable=True)
        sums = ordered.cumsum(-1, dtype=torch.float64)
        before = torch.zeros_like(sums).scatter(-1, index, sums - ordered)
        total = masses.sum(-1, dtype=torch.float64)[:, None, None]
        stays = before[:, None] <= SHARES.double() * total
        wanted = logits.masked_fill(~stays, NEVER)
        assert torch.equal(keep_top_p(logits, SHARES), wanted), name


@pytest.mark.parametrize("on_cpu", [True, False])
def test_sums_at_the_edge_are_exact(on_cpu: bool) -> None:
    """Four tokens of a quarter each: the third has exactly a half before it and stays."""
    logits = torch.full((1, 8_196), NEVER)
    logits[:, [7, 9, 4_000, 8_195]] = 1.5
    kept = (keep_top_p if on_cpu else _top_p_anywhere)(logits, torch.tensor([[0.5]])) > NEVER
    assert kept.nonzero()[:, 1].tolist() == [7, 9, 4_000]


def test_a_share_of_1_keeps_all_and_rows_have_their_own() -> None:
    logits = torch.randn(3, 1, SORTED + 1, generator=torch.Generator().manual_seed(1))
    kept = keep_top_p(logits, torch.tensor([1.0, 0.5, 1e-9])[:, None, None]) > NEVER
    counts = kept.sum(-1)[:, 0].tolist()
    assert counts[0] == SORTED + 1
    assert 1 < counts[1] < SORTED / 2
    assert counts[2] == 1
    alone = keep_top_p(logits[1:2], torch.tensor([[[0.5]]])) > NEVER
    assert torch.equal(alone, kept[1:2])


def test_not_a_number_stays_to_be_reported() -> None:
    logits = torch.zeros(2, SORTED + 1)
    logits[0, 5] = torch.nan
    left = keep_top_p(logits, torch.tensor([[0.5]]))
    assert left.log_softmax(-1).isnan().all(-1).tolist() == [True, False]


def test_it_can_be_captured() -> None:
    """A recorded program gives the same for other logits; but on a CPU no value is read."""
    first, second = (torch.randn(2, 1, SORTED + 1) for _ in range(2))
    share = torch.tensor([0.5, 0.9])[:, None, None]
    with FakeTensorMode() as mode:
        fakes = mode.from_tensor(first), mode.from_tensor(share)
        assert keep_top_p(*fakes).shape == _top_p_anywhere(*fakes).shape == first.shape
    with torch.inference_mode():
        tape = Tape(lambda begin: (begin("all"), [keep_top_p(first, share)])[1], [first, share])
        replayed = tape.replay([second, share], lambda phase: None)
    assert torch.equal(replayed[0], keep_top_p(second, share))
    assert keep_top_p(first.to("meta"), share.to("meta")).device.type == "meta"
