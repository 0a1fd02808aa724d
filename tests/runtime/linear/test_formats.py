"""Kernels are tried before they are used, and refused where they are wrong."""

from __future__ import annotations

import logging
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from mtad.runtime.linear import formats
from mtad.runtime.linear.formats import BF16, INT8, Format, convert, objection_to
from mtad.runtime.linear.kernel import Kernel
from mtad.runtime.linear.onednn import OneDnnInt8
from mtad.runtime.linear.packed import PackedLinear
from mtad.runtime.linear.trial import NUM_ROWS, fault_of

BF = torch.bfloat16


class Wrong(OneDnnInt8):
    """A kernel with a mistake."""

    label = "wrong"
    num_rows: ClassVar[int] = 0

    def mistake(self, product: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        product = super().forward(x).clone()
        return self.mistake(product) if len(x) == self.num_rows or not self.num_rows else product


class OneRowWrong(Wrong):
    num_rows = 17

    def mistake(self, product: Tensor) -> Tensor:
        product[-1] *= 1.02
        return product


class OneColumnWrong(Wrong):
    def mistake(self, product: Tensor) -> Tensor:
        product[:, -1] = product[:, 0]
        return product


class LosesNaN(Wrong):
    def mistake(self, product: Tensor) -> Tensor:
        return product.nan_to_num()


class WrongLastInput(Wrong):
    def forward(self, x: Tensor) -> Tensor:
        return OneDnnInt8.forward(self, torch.cat([x[..., :-1], x[..., -1:] * 0], dim=-1))


class OneScale(OneDnnInt8):
    """Rows share the scale of the largest number of all."""

    label = "wrong"

    def forward(self, x: Tensor) -> Tensor:
        step = x.float().abs().amax() / 127
        return super().forward(((x.float() / step).round() * step).to(x.dtype))


class Saturating(OneDnnInt8):
    """Adds up pairs in 16 bits, as products of 8 bits do on older processors."""

    label = "wrong"

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self.weight = OneDnnInt8.stands_for(linear.weight) / self.scales[:, None]

    def forward(self, x: Tensor) -> Tensor:
        largest = x.float().abs().amax(-1, keepdim=True).clamp_min(1e-30)
        shifted = (x.float() / largest * 127).round() + 128
        pairs = shifted[:, None] * self.weight
        sums = (pairs[..., ::2] + pairs[..., 1::2]).clamp(-(2**15), 2**15 - 1).sum(-1)
        whole = sums - 128 * self.weight.sum(1)
        return (whole * largest / 127 * self.scales).to(x.dtype)


def layer(num_in: int = 256, num_out: int = 320, dtype: torch.dtype = BF) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(num_in, num_out).to(dtype)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_faults", {})


@pytest.mark.parametrize("kind", [*INT8.kernels, PackedLinear])
@pytest.mark.parametrize("dtype", [BF, torch.float32])
def test_right_kernels_pass(kind: type[Kernel], dtype: torch.dtype) -> None:
    if kind.missing():
        pytest.skip(kind.missing())
    for shape in ((256, 320), (576, 129), (2048, 256)):
        one = layer(*shape, dtype)
        assert fault_of(kind(one), one) == ""


@pytest.mark.parametrize(
    "kind", [OneRowWrong, OneColumnWrong, WrongLastInput, OneScale, Saturating]
)
def test_a_mistake_is_found(kind: type[Kernel]) -> None:
    one = layer()
    assert "off by" in fault_of(kind(one), one)


def test_numbers_made_of_nan_are_found() -> None:
    assert "NaN" in fault_of(LosesNaN(layer()), layer())


def test_the_trial_has_rows_of_every_kind() -> None:
    assert OneRowWrong.num_rows in NUM_ROWS and 1 in NUM_ROWS


def test_a_wrong_kernel_is_refused_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(layer(), layer(320, 256), layer())
    wanted = [type(m) for m in model]
    with caplog.at_level(logging.WARNING):
        done = convert(model, Format("int8", (OneColumnWrong, OneDnnInt8), INT8.dtypes))
    assert [type(m) for m in model] == [OneDnnInt8] * 3 != wanted
    assert done.kernels == {"oneDNN": 3}
    shapes = [r.args[1:3] for r in caplog.records]
    assert shapes == [(256, 320), (320, 256)], "each shape is tried once"
    assert "wrong is not used for linear layers of 256 to 320" in caplog.messages[0]


def test_a_layer_without_a_right_kernel_stays(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(OneDnnInt8):
        def pack(self, integers: Tensor) -> Tensor:
            raise RuntimeError("could not create a primitive\nmore")

    model = nn.Sequential(layer())
    with caplog.at_level(logging.WARNING):
        done = convert(model, Format("int8", (Broken,), INT8.dtypes))
    assert type(model[0]) is nn.Linear
    assert not done.kernels and done.num_left == 1
    assert caplog.messages[0].endswith("could not create a primitive")


def test_missing_kernels_are_named() -> None:
    class Absent(OneDnnInt8):
        @classmethod
        def missing(cls) -> str:
            return "it is not installed"

    found = objection_to(Format("int8", (Absent, Absent), INT8.dtypes), layer())
    assert found == "there is no kernel for int8: it is not installed; it is not installed"
    for format, dtype in ((BF16, torch.float32), (INT8, torch.float16)):
        assert "on the CPU" in objection_to(format, layer(dtype=dtype))


def test_what_all_layers_lose_is_added_up() -> None:
    model = nn.Sequential(layer(), layer(320, 256))
    weights = [m.weight.detach().float() for m in model]
    off = [OneDnnInt8.stands_for(w) - w for w in weights]
    total = [sum(float(m.square().sum()) for m in some) for some in (off, weights)]
    error = convert(model, INT8).relative_error
    assert error == pytest.approx((total[0] / total[1]) ** 0.5, rel=1e-3)
    assert 0.002 < error < 0.01
