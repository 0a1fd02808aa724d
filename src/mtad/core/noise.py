"""Counter-based random numbers, and drawing tokens with them.

A number is a pure function of (seed, position, tag, index): a request's text depends on its seed
alone, never on its neighbours in the batch or on what was drawn before. Knows no model.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def signed(value: int) -> int:
    """The two's complement reading of the last 64 bits of a number."""
    value %= 1 << 64
    return value - (1 << 64) if value >= 1 << 63 else value


_MIX_1, _MIX_2 = signed(0xBF58476D1CE4E5B9), signed(0x94D049BB133111EB)
_GAMMA = signed(0x9E3779B97F4A7C15)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014), on int64 with wrap-around."""
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


@dataclass(frozen=True)
class Noise:
    """Counter-based uniform numbers: a pure function of (seed, position, tag, index).

    Attributes:
        seeds: (B,) one seed per row.
        positions: (B,) number of tokens committed so far; no two iterations share it.
    """

    seeds: Int[Tensor, " rows"]
    positions: Int[Tensor, " rows"]

    @cached_property
    def _keys(self) -> Int[Tensor, "rows 1"]:
        return _mix(_mix(self.seeds * _GAMMA) + self.positions)[:, None]

    def uniform(self, tag: str, *shape: int) -> Float[Tensor, "rows ..."]:
        """Float64 numbers in (0, 1), (B, *shape), independent across tags and indices.

        Every tag has a range of 2^31 counters of its own.
        """
        first = signed((zlib.crc32(tag.encode()) << 31) * _GAMMA)
        index = torch.arange(math.prod(shape), device=self.seeds.device)
        bits = _mix(self._keys + first + index * _GAMMA)
        return ((_shift_right(bits, 24).double() + 0.5) * 2.0**-40).view(-1, *shape)


def sample(
    logprobs: Float[Tensor, "*lead vocab"], u: Float[Tensor, "*lead"]
) -> Int[Tensor, "*lead"]:
    """One token per row of log-probabilities, by inversion of its distribution function at `u`."""
    return sample_many(logprobs, u[..., None]).squeeze(-1)


def sample_many(
    logprobs: Float[Tensor, "*lead vocab"], u: Float[Tensor, "*lead draws"]
) -> Int[Tensor, "*lead draws"]:
    """Independent draws from each row of log-probabilities; never a token of probability 0."""
    mass = logprobs.double().exp().cumsum(-1)
    index = torch.searchsorted(mass, u * mass[..., -1:], right=True)
    return index.clamp(max=logprobs.shape[-1] - 1)


def sample_distinct(
    logprobs: Float[Tensor, "*lead vocab"], u: Float[Tensor, "*lead draws"]
) -> tuple[Int[Tensor, "*lead draws"], Bool[Tensor, "*lead draws"]]:
    """Draws from each row of log-probabilities, without replacement and in their order.

    Each is by inversion among what the draws before it have left, so that it does not matter
    whether tokens without any probability are among those drawn from.

    Returns:
        The draws, and which of them there are: where nothing is left, there is none.
    """
    top = logprobs.amax(-1, keepdim=True).clamp(min=torch.finfo(logprobs.dtype).min)
    weights = (logprobs - top).double().exp()
    found, left = [], []
    for one in u[..., None, :].unbind(-1):
        mass = weights.cumsum(-1)
        left.append(mass[..., -1:])
        index = torch.searchsorted(mass, one * left[-1], right=True)
        found.append(index.clamp(max=weights.shape[-1] - 1))
        weights.scatter_(-1, found[-1], 0.0)
    return torch.cat(found, dim=-1), torch.cat(left, dim=-1) > 0


def normalize(weights: Float[Tensor, "*lead vocab"]) -> Float[Tensor, "*lead vocab"]:
    """Log-probabilities proportional to non-negative `weights`, whose sum must be positive."""
    return (weights / weights.sum(-1, keepdim=True)).log()


def first_argmax(values: Shaped[Tensor, "*lead width"]) -> Int[Tensor, "*lead"]:
    """Index of the largest value, the lowest one among equals."""
    top = values == values.amax(-1, keepdim=True)
    index = top.int().cummax(-1).values.lt(1).sum(-1)
    return index.clamp(max=values.shape[-1] - 1)
