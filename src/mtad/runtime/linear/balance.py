"""Channels brought to like size before inputs and weights are made integers of 8 bits.

A row of inputs is made integers by its largest number. Where a few channels are a hundred times the
others, that leaves these a few integers. So a channel is divided where it is made, by a norm or a
linear layer, and the weights that read it are multiplied: the product stays, and the weights, which
lose less by 8 bits, take up the difference. Factors are powers of two, so that floats stay the same
to the bit, which is tried. After Xiao et al., SmoothQuant (2023); the factors of each layer are
those that lose least of its product. Knows no architecture.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mtad.runtime.linear.kernel import Kernel

logger = logging.getLogger(__name__)

_SHARES = [share / 8 for share in range(9)]
"""How much of the inputs' differences goes into the weights."""
_MAX_ROWS = 1024
"""Of a weight that are looked at."""
_LARGEST = 2.0**10


@dataclass(frozen=True)
class Links:
    """Which layers read what, by names below one module.

    Attributes:
        made: linear layers by what makes their input, a norm or a linear layer, for them alone.
        given: a linear layer before which nothing can be divided but its input.
    """

    made: Mapping[str, Sequence[str]]
    given: str = ""


@dataclass(frozen=True)
class _Move:
    """Factors from a source into the layers after it; without a source, their input is divided."""

    kind: str
    source: nn.Module | None
    layers: Sequence[nn.Linear]
    factors: Tensor

    def make(self, factors: Tensor) -> None:
        source: Any = self.source
        for numbers in (source.weight, getattr(source, "bias", None)):
            if numbers is not None:
                numbers.div_(factors.view(-1, *[1] * (numbers.ndim - 1)))
        for layer in self.layers:
            layer.weight.mul_(factors)


@torch.no_grad()
def balance(model: nn.Module, links: Links, run: Callable[[], Tensor]) -> int:
    """Balance the inputs of a model's linear layers, in place; the number of these layers.

    Links that the model does not have are left out. One that would change what the model gives
    stays as it is, and a warning says so.

    Args:
        model: what has the layers.
        links: which layers read what.
        run: what the model gives for tokens like those that it is to read.
    """
    found = [*_found(model, links)]
    chosen: dict[nn.Module, Tensor] = {}

    def choose(layers: Sequence[nn.Linear]) -> Callable[[Any, tuple[Tensor]], None]:
        def hook(_: Any, given: tuple[Tensor]) -> None:
            chosen[layers[0]] = factors_of(given[0], torch.cat([y.weight for y in layers]))

        return hook

    hooks = [layers[0].register_forward_pre_hook(choose(layers)) for _, _, layers in found]
    try:
        before = run()
    finally:
        for hook in hooks:
            hook.remove()
    moves = [_Move(*one, chosen[one[2][0]]) for one in found if one[2][0] in chosen]
    done = _kept([move for move in moves if move.source is not None], run, before)
    for move in moves:
        if move.source is None:
            setattr(model, move.kind, Scaled(move.layers[0], move.factors))
            done.append(move)
    return sum(len(move.layers) for move in done)


def _found(
    model: nn.Module, links: Links
) -> Iterator[tuple[str, nn.Module | None, list[nn.Linear]]]:
    """Kind, source and layers of the links that the model has."""
    for parent in model.modules():
        for kind, names in links.made.items():
            try:
                source, *layers = (parent.get_submodule(name) for name in (kind, *names))
            except AttributeError:
                continue
            if all(type(layer) is nn.Linear for layer in layers):
                yield kind, source, layers  # type: ignore[misc]
    last = getattr(model, links.given, None) if links.given else None
    if type(last) is nn.Linear:
        yield links.given, None, [last]


def _kept(moves: list[_Move], run: Callable[[], Tensor], before: Tensor) -> list[_Move]:
    """The moves, made, but for those of the kinds that change what the model gives."""
    for move in moves:
        move.make(move.factors)
    if not moves or torch.equal(run(), before):
        return moves
    for move in moves:
        move.make(move.factors.reciprocal())
    kinds = list(dict.fromkeys(move.kind for move in moves))
    if len(kinds) > 1:
        by_kind = [[move for move in moves if move.kind == kind] for kind in kinds]
        return [move for some in by_kind for move in _kept(some, run, before)]
    logger.warning(
        "inputs of layers after %s are not balanced, and lose more by 8 bits: the model would be "
        "another one",
        kinds[0],
    )
    return []


def factors_of(
    x: Float[Tensor, "*place in"], weight: Float[Tensor, "out in"]
) -> Float[Tensor, " in"]:
    """Powers of two for each channel, by which the product loses least.

    Args:
        x: inputs of the layer; what a row loses counts relative to its size.
        weight: the layer's.
    """
    rows = x.detach().flatten(0, -2).float().abs()
    rows = rows / rows.square().mean(1, keepdim=True).sqrt().clamp_min(1e-9)
    read = weight[:: -(-len(weight) // _MAX_ROWS)].float().abs()
    sizes, readers = rows.pow(4).mean(0).pow(0.25), read.square().mean(0).sqrt()
    sizes, readers = (one.clamp_min(float(one.mean()) / 1000 + 1e-30) for one in (sizes, readers))
    tried = [_powers(sizes**share * readers ** (share - 1)) for share in _SHARES]
    tried.append(torch.ones_like(sizes))
    return min(tried, key=lambda one: _loss(rows, read, one)).to(weight.dtype)


def _powers(factors: Tensor) -> Tensor:
    exponents = factors.log2()
    return (exponents - exponents.mean()).round().exp2().clamp(1 / _LARGEST, _LARGEST)


def _loss(rows: Tensor, weight: Tensor, factors: Tensor) -> float:
    """The square of what rounding to the integers changes, up to a constant.

    A number is off by its row's step, the largest number over 127, times what is alike for all.
    """
    x, w = rows / factors, weight * factors
    by_x = x.amax(1).square().sum() * w.square().sum()
    by_w = w.amax(1).square().sum() * x.square().sum()
    return float(by_x + by_w)


class Scaled(Kernel):
    """A linear layer whose input is divided as it comes.

    Args:
        linear: the layer, which stays as it is.
        factors: powers of two by which channels are divided, and their weights multiplied.
    """

    label = "scaled"
    quotients: Tensor

    def __init__(self, linear: nn.Linear, factors: Tensor) -> None:
        super().__init__(linear)
        has_bias = linear.bias is not None
        self.inner = nn.Linear(self.in_features, self.out_features, has_bias, "meta", self.dtype)
        self.inner.weight, self.inner.bias = nn.Parameter(linear.weight * factors, False), self.bias
        self.register_buffer("quotients", factors.reciprocal(), persistent=False)

    @classmethod
    def missing(cls) -> str:
        """Why it can't be used here; it can everywhere."""
        return ""

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, (…, out_features), for (…, in_features)."""
        result: Tensor = self.inner(x * self.quotients)
        return result
