"""Layers of the same input, multiplied as one: the same numbers, never those of another input."""

from __future__ import annotations

import copy
import logging
from threading import Barrier, Thread

import pytest
import torch
from torch import Tensor, nn

from mtad.model.memory import weights_bytes
from mtad.model.weights import TOGETHER
from mtad.runtime.linear import formats
from mtad.runtime.linear.formats import BF16, INT8, Format, convert
from mtad.runtime.linear.joint import JointPart, differs
from mtad.runtime.linear.kernel import Kernel, weight_of
from mtad.runtime.linear.packed import PackedLinear
from mtad.testing import random_llama

NAMES = (("a", "b", "c"),)


def layers(bias: bool = False, num_out: tuple[int, ...] = (320, 256, 288)) -> nn.Module:
    torch.manual_seed(0)
    parts = {n: nn.Linear(256, o, bias) for n, o in zip("abc", num_out, strict=True)}
    return nn.ModuleDict(parts).bfloat16()


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_differences", {})


@pytest.mark.parametrize("format", [BF16, INT8])
@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_each_layer_says_what_it_says_alone(format: Format, bias: bool) -> None:
    alone, joint = layers(bias), layers(bias)
    one, other = convert(alone, format), convert(joint, format, NAMES)
    assert one.kernels == other.kernels
    assert other.relative_error == pytest.approx(one.relative_error)
    assert all(isinstance(y, JointPart) for y in joint.children())
    for rows in (1, 5, 33):
        x = torch.randn(2, rows, 256).bfloat16()
        for name in "abc":
            assert torch.equal(joint[name](x), alone[name](x))
        assert vars(x) == {}, "nothing is kept once all have their part"
    assert torch.equal(weight_of(joint["b"]), weight_of(alone["b"]))


class Counting(PackedLinear):
    num_calls = 0

    def forward(self, x: Tensor) -> Tensor:
        type(self).num_calls += 1
        return super().forward(x)


@pytest.fixture
def counted() -> nn.Module:
    model = layers()
    convert(model, Format("bf16", (Counting,), BF16.dtypes), NAMES)
    Counting.num_calls = 0
    return model


@torch.inference_mode()
def test_one_product_for_all_and_a_new_one_for_every_input(counted: nn.Module) -> None:
    x = torch.randn(2, 256).bfloat16()
    first = [counted[name](x) for name in "cab"]
    assert Counting.num_calls == 1
    x += 1
    again = [counted[name](x) for name in "abc"]
    assert Counting.num_calls == 2 and not torch.equal(first[1], again[0])
    counted["a"](x)
    x += 1
    assert not torch.equal(counted["a"](x), again[0]), "a part is handed out once"
    assert Counting.num_calls == 4
    y = torch.randn(2, 256).bfloat16()
    assert torch.equal(counted["b"](y), counted["b"](y.clone()))
    assert Counting.num_calls == 6, "what one input left behind is no other's"


@torch.inference_mode()
def test_another_group_with_the_same_input(counted: nn.Module) -> None:
    other, x = layers(bias=True), torch.randn(1, 256).bfloat16()
    convert(other, BF16, NAMES)
    for name in "abc":
        mine, theirs = counted[name](x), other[name](x)
        assert torch.equal(mine, counted[name](x.clone()))
        assert torch.equal(theirs, other[name](x.clone())) and not torch.equal(mine, theirs)


def test_threads_do_not_meet(counted: nn.Module) -> None:
    wanted: dict[int, bool] = {}
    barrier = Barrier(4)

    @torch.inference_mode()
    def run(seed: int) -> None:
        rows = torch.randn(40, 256, generator=torch.Generator().manual_seed(seed)).bfloat16()
        same = []
        barrier.wait()
        for row in rows.split(1):
            got = [counted[name](row) for name in "abc"]
            same += [
                torch.equal(y, counted[n](row.clone())) for y, n in zip(got, "abc", strict=True)
            ]
        wanted[seed] = all(same)

    threads = [Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wanted == dict.fromkeys(range(4), True)


@pytest.mark.parametrize("change", ["name", "size", "input", "bias", "dtype"])
def test_layers_that_are_no_group_stay_apart(change: str) -> None:
    model = layers(num_out=(320, 8, 288) if change == "size" else (320, 256, 288))
    if change == "name":
        model["d"] = model.pop("c")
    if change == "input":
        model["c"] = nn.Linear(512, 256, False).bfloat16()
    if change == "bias":
        model["c"] = nn.Linear(256, 256, True).bfloat16()
    if change == "dtype":
        model["c"] = nn.Linear(256, 256, False)
    format = Format("any", (PackedLinear,), INT8.dtypes)
    assert convert(model, format, NAMES).kernels == {"oneDNN": 2 if change == "size" else 3}
    assert not any(isinstance(y, JointPart) for y in model.children())


class WideIsOther(PackedLinear):
    """Rounds another way where there are many outputs, by less than the trial sees."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y * (1 + 2**-20) if self.out_features > 500 and len(x) == 5 else y


def test_a_product_that_differs_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    model = layers().float()
    with caplog.at_level(logging.INFO):
        done = convert(model, Format("any", (WideIsOther,), INT8.dtypes), NAMES)
    assert [type(y) for y in model.children()] == [WideIsOther] * 3 and done.kernels.total() == 3
    assert "a, b, c are multiplied one by one: of 5 rows" in caplog.text


@torch.inference_mode()
def test_a_difference_is_found() -> None:
    parts = layers()
    whole = PackedLinear(nn.Linear(256, 864, False).bfloat16())
    assert "of 1 rows" in differs(whole, [*parts.children()])


@pytest.mark.parametrize("format", [BF16, INT8])
@torch.inference_mode()
def test_a_llama_says_the_same(format: Format) -> None:
    alone = random_llama(hidden=512, num_layers=1).bfloat16()
    joint = copy.deepcopy(alone)
    plain_bytes = weights_bytes(alone)
    assert convert(alone, format).kernels == convert(joint, format, TOGETHER).kernels
    assert sum(isinstance(m, JointPart) for m in joint.modules()) == 5
    assert not any(isinstance(m, Kernel) and m.out_features > 1500 for m in joint.modules())
    assert weights_bytes(joint) == pytest.approx(weights_bytes(alone), rel=1e-4)
    assert format is INT8 or weights_bytes(joint) == plain_bytes
    ids = torch.arange(40).reshape(2, 20) % 61
    for rows in (ids, ids[:1, :1], ids[:1, :5]):
        assert torch.equal(joint(rows).logits, alone(rows).logits)
