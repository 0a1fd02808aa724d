"""8-bit products by zentorch, the package of AMD's kernels, where it is installed.

Only its library is loaded: its own import brings PyTorch's compiler along, which takes seconds.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mtad.errors import first_line
from mtad.runtime.linear.int8 import Int8Linear

_NAME, _LIBRARY = "zentorch", "libzentorch.so"


@cache
def _missing() -> str:
    """Why its kernels can't be used here, empty once they are loaded."""
    try:
        found = version(_NAME)
    except PackageNotFoundError:
        return "zentorch is not installed"
    if found.split(".")[:2] != torch.__version__.split(".")[:2]:
        return f"zentorch {found} is not for PyTorch {torch.__version__}"
    if "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return "zentorch needs a processor with AVX512"
    place = find_spec(_NAME)
    try:
        assert place is not None and place.origin is not None, "it has no folder"
        torch.ops.load_library(Path(place.origin).with_name(_LIBRARY))
        _operations()
    except Exception as error:  # whatever the loader says
        return f"zentorch {found} cannot be loaded: {first_line(error)}"
    return ""


def _operations() -> tuple[Any, Any]:
    """Its operations that lay weights out, and that multiply."""
    known = torch.ops.zentorch
    pack = known.zentorch_weight_prepack_for_dynamic_qlinear.default
    return pack, known.zentorch_dynamic_qlinear.default


class ZentorchInt8(Int8Linear):
    """8-bit products by zentorch, which makes the rows integers itself."""

    label = "zentorch"

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self._product = _operations()[1]

    @classmethod
    def missing(cls) -> str:
        """Why it can't be used here, empty where it can."""
        return _missing()

    def pack(self, integers: Tensor) -> Tensor:
        """The integers in the layout that zentorch reads."""
        packed: Tensor = _operations()[0](integers)
        return packed

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, (…, out_features), for (…, in_features)."""
        result: Tensor = self._product(
            x, self.packed, self.scales, self.bias, is_weight_prepacked=True
        )
        # zentorch makes 0 of rows with NaN or infinities, which would hide them; a sum has them, is
        # quicker than the largest, and is infinite of numbers only where their squares are as well
        return result.add_(x.sum(-1, keepdim=True), alpha=0)
