"""The memory that decoding needs: weights, and caches by row and token.

Counts from shapes, so that models on the meta device will do and nothing need be loaded. What a
forward needs on its way is not counted. Knows no checkpoint and no method.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from mtad.core.buckets import bucket_of
from mtad.errors import CheckpointError
from mtad.model.drafter import Draft
from mtad.model.kv_cache import free_bytes
from mtad.model.lm import LM
from mtad.model.recurrent_head import RecurrentHead
from mtad.runtime.linear.joint import JointPart


@dataclass(frozen=True)
class Memory:
    """Bytes of the weights and of the caches."""

    weights_bytes: int
    caches_bytes: int

    @property
    def total_bytes(self) -> int:
        """Both together."""
        return self.weights_bytes + self.caches_bytes


def memory_of(models: Iterable[Draft], num_rows: int, capacity: int) -> Memory:
    """What the models and their caches of `num_rows` rows of `capacity` tokens take.

    Args:
        models: the target, and the draft if the method reads it.
        num_rows: texts decoded at once.
        capacity: tokens of the longest prompt, `max_new_tokens` and the nodes of a tree together;
            a session rounds it up with `mtad.core.buckets.bucket_of`, and so does this.
    """
    found = list(models)
    slots = num_rows * bucket_of(capacity)
    return Memory(
        sum(weights_bytes(model) for model in found),
        sum(slot_bytes(model) for model in found) * slots,
    )


def require_memory(needs: Mapping[str, tuple[str, int]]) -> None:
    """Refuse models that do not fit the memory that is free, all of one device together.

    Args:
        needs: by name, the device of each model and the bytes that it needs there, 0 if unknown.

    Raises:
        CheckpointError: with what each needs and what is free.
    """
    for device in {device for device, _ in needs.values()}:
        there = {name: size for name, (where, size) in needs.items() if size and where == device}
        free = free_bytes(torch.device(device))
        if sum(there.values()) > free:
            sizes = " and ".join(f"the {n} {s / 2**30:.2f} GiB" for n, s in there.items())
            raise CheckpointError(
                f"of the memory of {device!r}, {free / 2**30:.2f} GiB are free, and the weights "
                f"with the smallest cache need more: {sizes}; load them in a smaller dtype, "
                "quantised with quantization_config, or spread over devices with device_map"
            )


def weights_bytes(model: Draft) -> int:
    """Bytes of the parameters and buffers that this process holds; tied ones count once."""
    parts = (module for module in model.modules() if isinstance(module, JointPart))
    holders = [model, *{part.joint.kernel for part in parts}]
    weights = chain.from_iterable(chain(h.parameters(), h.buffers()) for h in holders)
    return sum(_held(weight).nbytes for weight in weights)


def _held(weight: Any) -> Tensor:
    """The tensor, or this process's part of one that is spread over processes."""
    held: Tensor = weight.to_local() if hasattr(weight, "to_local") else weight
    return held


@torch.inference_mode()
def slot_bytes(model: Draft) -> int:
    """Bytes that a model's cache takes for one token of one row; 0 of a head, which has none.

    Measured by feeding one token; configs name the sizes of heads in too many ways.
    """
    if isinstance(model, RecurrentHead):
        return 0
    lm = LM(model, "probe", 1, num_rows=1, capacity=1)
    lm.prefill([[0, 0]])
    return lm.memory_bytes
