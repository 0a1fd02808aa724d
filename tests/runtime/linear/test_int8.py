"""8-bit weights: products beside those of floats, by every kernel that is here."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mtad.errors import CheckpointError
from mtad.runtime.linear.formats import INT8
from mtad.runtime.linear.int8 import Int8Linear, quantised
from mtad.runtime.linear.kernel import weight_of

KERNELS = [
    pytest.param(kind, marks=pytest.mark.skipif(bool(kind.missing()), reason=kind.missing()))
    for kind in INT8.kernels
]
SHAPES = [(576, 192), (192, 576), (576, 1537), (1536, 576)]
DTYPES = [torch.bfloat16, torch.float32]
UNIT = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24}


def layer_of(num_in: int, num_out: int, dtype: torch.dtype, bias: bool = True) -> nn.Linear:
    torch.manual_seed(num_in + num_out)
    return nn.Linear(num_in, num_out, bias=bias).to(dtype)


def rows_of(num: int, size: int, dtype: torch.dtype) -> Tensor:
    """Random rows, each of another size."""
    scales = torch.logspace(-3, 3, num)[:, None]
    return (torch.randn(num, size, generator=torch.Generator().manual_seed(1)) * scales).to(dtype)


def test_integers_are_the_nearest_ones_of_each_channel() -> None:
    weight = torch.randn(64, 128) * torch.logspace(-3, 3, 64)[:, None]
    integers, scales = quantised(weight)
    assert int(integers.abs().max()) == 127 and (integers.abs().amax(dim=1) == 127).all()
    off = (integers * scales[:, None] - weight).abs()
    assert (off <= scales[:, None] * 0.5001).all()
    zeros, _ = quantised(torch.zeros(2, 4))
    assert not zeros.any()


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_weights_without_integers_are_refused(
    kind: type[Int8Linear], name: str, bad: float
) -> None:
    layer = layer_of(576, 192, torch.bfloat16)
    getattr(layer, name).detach()[5] = bad
    with pytest.raises(CheckpointError, match="576 to 192 numbers has weights that are NaN or inf"):
        kind(layer)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_in", "num_out"), SHAPES)
@torch.inference_mode()
def test_products_are_those_of_floats(
    kind: type[Int8Linear], dtype: torch.dtype, num_in: int, num_out: int
) -> None:
    """Off by no more than roundings of the input explain.

    Those of a row are independent, at most half a step s / 127 each where s is its largest number,
    so that a product with weights w is sub-Gaussian with deviation s / 254 · |w|: six of these are
    exceeded once in 10^7. The output is rounded twice, product and sum with the bias.
    """
    layer = layer_of(num_in, num_out, dtype)
    kernel = kind(layer)
    weight = kind.stands_for(layer.weight).double()
    for num in (1, 2, 5, 17, 33):
        x = rows_of(num, num_in, dtype)
        exact = x.double() @ weight.T
        wanted = exact + layer.bias.double()
        steps = x.double().abs().amax(1, keepdim=True) / 254 * weight.norm(dim=1)
        allowed = 6 * steps + 2 * UNIT[dtype] * (exact.abs() + layer.bias.double().abs())
        assert ((kernel(x).double() - wanted).abs() <= allowed).all()


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES)
@torch.inference_mode()
def test_whole_numbers_lose_nothing(kind: type[Int8Linear], dtype: torch.dtype) -> None:
    layer = layer_of(512, 192, dtype, bias=False)
    x = torch.randint(-127, 128, (9, 512)).to(dtype)
    x[:, 0], x[3] = 127, 127  # a row of the largest sums
    x *= (2.0 ** torch.arange(-4, 5))[:, None]
    wanted = x.double() @ kind.stands_for(layer.weight).double().T
    lengths = x.double().norm(dim=1)[:, None] * layer.weight.double().norm(dim=1)
    allowed = UNIT[dtype] * wanted.abs() + 2.0**-20 * lengths
    assert ((kind(layer)(x).double() - wanted).abs() <= allowed).all()


@pytest.mark.parametrize("kind", KERNELS)
@torch.inference_mode()
def test_a_row_does_not_depend_on_others(kind: type[Int8Linear]) -> None:
    """To the bit, whatever the number of rows: the sums are of integers."""
    kernel = kind(layer_of(576, 1536, torch.bfloat16))
    x = rows_of(40, 576, torch.bfloat16)
    every = kernel(x)
    for count in (1, 2, 5, 17):
        assert torch.equal(kernel(x[3 : 3 + count]), every[3 : 3 + count])
    assert torch.equal(kernel(x.view(2, 20, 576)).view(40, 1536), every)


@pytest.mark.parametrize("kind", KERNELS)
@torch.inference_mode()
def test_what_is_no_number_stays_so(kind: type[Int8Linear]) -> None:
    kernel = kind(layer_of(576, 192, torch.bfloat16, bias=False))
    x = rows_of(4, 576, torch.bfloat16)
    good = kernel(x)
    x[0, 5], x[1, 7], x[2] = math.nan, math.inf, 0.0
    got = kernel(x)
    assert got[0].isnan().all() and not got[1].isfinite().any()
    assert not got[2].any()
    assert torch.equal(got[3], good[3])


@pytest.mark.parametrize("kind", KERNELS)
def test_weights_are_read_back(kind: type[Int8Linear]) -> None:
    layer = layer_of(192, 576, torch.float32)
    torch.testing.assert_close(weight_of(kind(layer)), kind.stands_for(layer.weight))


@pytest.mark.parametrize("kind", KERNELS)
def test_what_the_weights_lose_is_counted(kind: type[Int8Linear]) -> None:
    layer = layer_of(192, 576, torch.float32).requires_grad_(False)
    off = (kind.stands_for(layer.weight) - layer.weight).square().sum()
    wanted = (float(off), float(layer.weight.square().sum()))
    assert kind(layer).lost == pytest.approx(wanted, rel=1e-3)
