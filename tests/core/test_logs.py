"""Exponentials and logarithms that skip what has no part in a law: the same numbers to the bit."""

from __future__ import annotations

import math

import torch

from mtad.core.logs import exp_of, log_of

INF = math.inf


def test_the_exponential_is_torchs() -> None:
    logs = torch.linspace(-86.8, 3.0, 10_007, dtype=torch.float32)
    logs[::3] = -INF
    assert torch.equal(exp_of(logs), logs.exp())
    assert torch.equal(exp_of(logs.view(1, 1, -1)), logs.exp().view(1, 1, -1))


def test_the_logarithm_is_torchs() -> None:
    values = torch.logspace(-37.7, 0.3, 10_007, dtype=torch.float32)
    values[::3] = 0.0
    assert torch.equal(log_of(values), values.log())
    assert torch.equal(log_of(exp_of(values.log())), exp_of(values.log()).log())


def test_what_is_next_to_nothing_is_nothing_for_both() -> None:
    few = torch.tensor([-86.95, -87.0, -87.05, -88.0, -100.0, -110.0, -1e30, -INF])
    assert exp_of(few).tolist() == [0.0] * 8
    assert log_of(torch.tensor([1.7e-38, 1.2e-38, 1e-40, 1e-45, 0.0])).tolist() == [-INF] * 5


def test_what_is_no_number_stays_so() -> None:
    """In every place of a vector, and at its end."""
    for place in (0, 5, 16, 18):
        bad = torch.zeros(19, dtype=torch.float32)
        bad[place] = math.nan
        for result in (exp_of(bad), log_of(bad)):
            assert result.isnan().nonzero().flatten().tolist() == [place]
    assert exp_of(torch.tensor([INF])).item() == log_of(torch.tensor([INF])).item() == INF


def test_nothing_is_changed() -> None:
    logs = torch.tensor([-INF, -1.0])
    exp_of(logs), log_of(logs)
    assert logs.tolist() == [-INF, -1.0]
