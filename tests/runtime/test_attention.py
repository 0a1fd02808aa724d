"""Attention by zentorch: that of torch but for rounding, or not used."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mtad.runtime import attention
from mtad.runtime.attention import attend, prepare
from mtad.runtime.linear.zentorch import ZentorchInt8

needs_zentorch = pytest.mark.skipif(bool(ZentorchInt8.missing()), reason=ZentorchInt8.missing())
TOKENS, SLOTS, SHAPE = 4, 192, (torch.bfloat16, 2, 3, 64)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_faults", {})


def given() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    query = torch.randn(TOKENS, 2, 3, 64).bfloat16()
    cache = torch.randn(2, 1, 2, 256, 64).bfloat16()[:, :, :, :SLOTS]
    key, value = cache.expand(2, TOKENS, 2, SLOTS, 64)
    return query, key, value, torch.arange(SLOTS) < torch.tensor([[1], [80], [81], [SLOTS]])


def by_torch(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, mask[:, None, None], scale=scale)


@needs_zentorch
@torch.inference_mode()
def test_attention_is_rounded_as_it_is_for_each_token_alone() -> None:
    before = attend(*given(), 0.2)
    prepare(*SHAPE)
    got = attend(*given(), 0.2)
    assert attention._faults == {SHAPE: ""} and torch.equal(before, by_torch(*given(), 0.2))
    assert got.shape == before.shape and got.dtype == before.dtype
    query, key, value, mask = given()
    floats = query.double(), key.double()
    off = (got - by_torch(*floats, value.double(), mask, 0.2)).abs()
    assert (off <= 2.0**-8 * by_torch(*floats, value.abs().double(), mask, 0.2)).all()
    for i in range(TOKENS):
        assert torch.equal(attend(*(t[i : i + 1] for t in given()), 0.2), got[i : i + 1])


@torch.inference_mode()
def test_other_shapes_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value, mask = given()
    monkeypatch.setattr(attention, "_faults", {SHAPE: "", (torch.bfloat16, 2, 2, 64): "wrong"})
    monkeypatch.setattr(attention, "_by_zentorch", None)
    for q, v in ((query[:, :, :2], value), (query[:, :, :1], value), (query, value[..., :32])):
        assert torch.equal(attend(q, key, v, mask, 0.2), by_torch(q, key, v, mask, 0.2))


def test_without_zentorch_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ZentorchInt8, "missing", lambda: "it is not installed")
    prepare(*SHAPE)
    assert attention._faults == {}


def fails(attended: Tensor) -> Tensor:
    raise RuntimeError("no such operation")


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda attended: attended,
    "off by more than rounding": lambda attended: attended * 1.05,
    "depends on the others": lambda attended: attended * (1 + 2.0**-7 * (len(attended) == 5)),
    "NaN became numbers": lambda attended: attended.nan_to_num(),
    "no such operation": fails,
}


@pytest.mark.parametrize("fault", WRONG)
def test_only_a_kernel_that_is_right_is_used(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_zentorch(*given: Tensor) -> Tensor:
        query, key, value, mask, _ = given
        each = [by_torch(*(t[i : i + 1] for t in (query, key, value, mask)), None)
                for i in range(len(query))]  # fmt: skip
        return WRONG[fault](torch.cat(each))

    monkeypatch.setattr(ZentorchInt8, "missing", lambda: "")
    monkeypatch.setattr(attention, "_by_zentorch", by_zentorch)
    prepare(*SHAPE)
    assert fault in attention._faults[SHAPE] and bool(fault) == bool(attention._faults[SHAPE])
