"""Which forms there are for a model's linear weights, and a model brought into one.

Knows modules; no architecture, no cache.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from mtad.errors import first_line
from mtad.runtime.linear import onednn, packed
from mtad.runtime.linear.joint import Joint, JointPart, differs, joined
from mtad.runtime.linear.kernel import Kernel
from mtad.runtime.linear.onednn import OneDnnInt8
from mtad.runtime.linear.packed import PackedLinear
from mtad.runtime.linear.trial import fault_of
from mtad.runtime.linear.zentorch import ZentorchInt8

logger = logging.getLogger(__name__)

MIN_WEIGHTS = 2**16
"""Smaller layers are quicker as they are."""
REWRITES = (packed.SCRIPTED, onednn.SCRIPTED)
"""Operations of the kernels as TorchScript may have them, and what they then are."""


@dataclass(frozen=True)
class Format:
    """A form of linear weights.

    Attributes:
        name: what users call it.
        kernels: layers with weights in this form, the quickest first; none for plain ones.
        dtypes: what the weights may be before.
    """

    name: str
    kernels: tuple[type[Kernel], ...] = ()
    dtypes: frozenset[torch.dtype] = frozenset()


_FLOATS = frozenset({torch.bfloat16, torch.float32})
PLAIN = Format("plain")
BF16 = Format("bf16", (PackedLinear,), frozenset({torch.bfloat16}))
INT8 = Format("int8", (ZentorchInt8, OneDnnInt8), _FLOATS)
PACKED = Format("packed", (PackedLinear,), _FLOATS)
"""As `BF16`, of float32 as well, where packing seldom helps."""


@dataclass
class Conversion:
    """What became of a model's linear layers.

    Attributes:
        format: that they were brought into.
        kernels: number of layers by the label of their kernel.
        num_left: large layers that stayed as they were.
        lost: squares of what the weights lost, and of the weights, summed.
        num_balanced: layers whose inputs were balanced before, see `balance.py`.
    """

    format: Format
    kernels: Counter[str] = field(default_factory=Counter)
    num_left: int = 0
    lost: tuple[float, float] = (0.0, 0.0)
    num_balanced: int = 0

    @property
    def relative_error(self) -> float:
        """The root mean square of what the weights lost, over that of the weights."""
        return math.sqrt(self.lost[0] / self.lost[1]) if self.lost[1] else 0.0

    def add(self, kernel: Kernel | None, num_layers: int = 1) -> None:
        """Count layers of a kernel, or that stayed as they were if there is none for them."""
        if kernel is None:
            self.num_left += num_layers
            return
        self.kernels[kernel.label] += num_layers
        self.lost = (self.lost[0] + kernel.lost[0], self.lost[1] + kernel.lost[1])


def usual_format(model: nn.Module) -> Format:
    """What makes the model faster and changes nothing else: packed bfloat16 on a CPU, or plain."""
    weights = {(p.device.type, p.dtype) for p in model.parameters()}
    return BF16 if weights == {("cpu", torch.bfloat16)} and packed.is_quick() else PLAIN


def objection_to(format: Format, model: nn.Module) -> str:
    """Why the model's weights can't have this form, empty if they can."""
    kinds = {(p.device.type, p.dtype) for p in model.parameters()}
    if not format.kernels:
        return ""
    if not kinds <= {("cpu", dtype) for dtype in format.dtypes}:
        given = ", ".join(sorted(f"{dtype} on {device}" for device, dtype in kinds))
        allowed = " and ".join(sorted(str(d).removeprefix("torch.") for d in format.dtypes))
        return f"its weights are in {given}, and {format.name} works for {allowed} on the CPU"
    missing = [kernel.missing() for kernel in format.kernels]
    return "" if not all(missing) else f"there is no kernel for {format.name}: {'; '.join(missing)}"


def convert(model: nn.Module, format: Format, together: Sequence[Sequence[str]] = ()) -> Conversion:
    """Bring the model's linear layers into a form, in place.

    Layers of few weights stay as they are, and so does each that no kernel multiplies as floats do;
    a warning says so. The weights before are let go one by one, so that little more memory is
    needed on the way. Tied weights are not changed: an output layer that shares the embedding's
    gets a copy.

    Args:
        model: what has the layers.
        format: the form.
        together: names of layers that read the same input wherever one module has all of them;
            they are multiplied as one if that is the same to the bit.

    Raises:
        ValueError: the model's weights can't have this form.
    """
    if objection := objection_to(format, model):
        raise ValueError(objection)
    done = Conversion(format)
    for parent, names in [*_groups(model, together)] if format.kernels else ():
        _join(parent, names, done)
    for parent, name, layer in [*large_layers(model)]:
        kernel = _first_right(format, layer)
        done.add(kernel)
        if kernel is not None:
            setattr(parent, name, kernel)
    return done


def _groups(
    model: nn.Module, together: Sequence[Sequence[str]]
) -> Iterator[tuple[nn.Module, Sequence[str]]]:
    """Modules with all layers of these names, large ones that can be one."""
    large: dict[nn.Module, dict[str, nn.Linear]] = {}
    for parent, name, layer in large_layers(model):
        large.setdefault(parent, {})[name] = layer
    for parent, layers in large.items():
        for names in together:
            found = [layers[name] for name in names if name in layers]
            kinds = {(y.in_features, y.weight.dtype, y.bias is None) for y in found}
            if len(found) == len(names) and len(kinds) == 1:
                yield parent, names


def _join(parent: nn.Module, names: Sequence[str], done: Conversion) -> None:
    """Multiply these layers as one, or leave them as they are if that makes a difference."""
    layers: list[nn.Linear] = [getattr(parent, name) for name in names]
    whole = _first_right(done.format, joined(layers))
    if whole is None:
        return
    sizes = tuple(layer.out_features for layer in layers)
    key = (type(whole), whole.in_features, sizes, whole.dtype, whole.bias is not None)
    if key not in _differences:
        alone = [_first_right(done.format, layer) or layer for layer in layers]
        if reason := differs(whole, alone):
            logger.info("%s are multiplied one by one: %s", ", ".join(names), reason)
        _differences[key] = reason
    if not _differences[key]:
        done.add(whole, len(layers))
        joint = Joint(whole, sizes)
        for index, (name, layer) in enumerate(zip(names, layers, strict=True)):
            setattr(parent, name, JointPart(layer, joint, index))


def large_layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """The layers that another form is for: each with its parent, and its name there."""
    for parent in model.modules():
        for name, layer in parent.named_children():
            if type(layer) is nn.Linear and layer.weight.numel() >= MIN_WEIGHTS:
                yield parent, name, layer


_faults: dict[tuple[type[Kernel], int, int, torch.dtype, bool], str] = {}
"""What is wrong with a kernel, by shape, type and whether there is a bias."""
_differences: dict[tuple[type[Kernel], int, tuple[int, ...], torch.dtype, bool], str] = {}
"""What differs where layers of these shapes are multiplied as one."""


def _first_right(format: Format, layer: nn.Linear) -> Kernel | None:
    """The layer by the first kernel that multiplies as floats do."""
    for kind in format.kernels:
        if kind.missing():
            continue
        has_bias, dtype = layer.bias is not None, layer.weight.dtype
        key = (kind, layer.in_features, layer.out_features, dtype, has_bias)
        if key not in _faults:
            kernel, _faults[key] = _tried(kind, layer)
        elif not _faults[key]:
            kernel = kind(layer)
        if not _faults[key]:
            return kernel
    return None


def _tried(kind: type[Kernel], layer: nn.Linear) -> tuple[Kernel | None, str]:
    """The layer by a kernel, and what is wrong with it, which is said once."""
    kernel, fault = None, ""
    try:
        kernel = kind(layer)
        fault = fault_of(kernel, layer)
    except RuntimeError as error:
        fault = first_line(error)
    if fault:
        logger.warning(
            "%s is not used for linear layers of %d to %d numbers, of which it makes wrong "
            "products on this machine: %s",
            kind.label, layer.in_features, layer.out_features, fault,
        )  # fmt: skip
    return kernel, fault
