"""Where models go: a device, or the processes of torchrun, each of which gets a part of the target.

What cuts the target up and adds its parts' results is transformers' tensor parallelism. All
processes run the same loop and return the same texts, so all need the same arguments. Knows no
method and no text.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TypeVar

import torch
from torch import distributed

from mtad.errors import first_line

T = TypeVar("T")

LAUNCH = "torchrun --nproc-per-node 2 script.py"
_LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def usable_device(device: str | torch.device) -> str:
    """The device, once it is known to be there; "auto" is a GPU if there is one.

    Raises:
        ValueError: it is not.
    """
    device = str(device)
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, dtype=torch.float32, device=device)
    except (AssertionError, RuntimeError) as error:
        why = first_line(error)
        raise ValueError(
            f"device {device!r} cannot be used here ({why}); give auto, cpu, cuda or cuda:1"
        ) from error
    return device


def placement(device_map: Any) -> dict[str, Any]:
    """Arguments of `from_pretrained` for a device map; none for a plain device.

    Raises:
        ValueError: it is not a plain device, and accelerate is not installed.
    """
    simple = isinstance(device_map, str) and device_map.split(":")[0] in ("cpu", "cuda", "mps")
    if not simple:
        _require_accelerate("device_map", device_map)
    return {} if simple else {"device_map": device_map}


def part_device(tp_plan: Any, **others: Any) -> str:
    """The device of this process's part of a target that is spread over processes.

    Args:
        tp_plan: "auto" for the architecture's own plan, or a dict of rules, see transformers.
        others: `device`, and options of the target that do not go with a plan.

    Raises:
        ValueError: no plan, no processes to spread over, or an option that cannot be honoured.
    """
    if tp_plan != "auto" and not isinstance(tp_plan, dict):
        raise ValueError(f'tp_plan is {tp_plan!r}; it must be "auto" or a dict of rules')
    if not _is_launched():
        raise ValueError(
            f"tp_plan is {tp_plan!r}, which spreads the target over processes, and this process "
            f"was not started with others; start them with torchrun, such as: {LAUNCH}"
        )
    _require_accelerate("tp_plan", tp_plan)
    device = _own_device()
    asked = str(others.pop("device", "auto"))
    if asked not in ("auto", device, device.split(":")[0]):
        raise ValueError(
            f"device is {asked!r}, and with tp_plan the part of this process goes to {device!r}; "
            "leave device at auto"
        )
    for name, value in others.items():
        if value:
            raise ValueError(f"{name} is {value!r} and tp_plan is {tp_plan!r}; give one of them")
    return device


def _is_launched() -> bool:
    """Whether there is a group of processes, or torchrun has set the variables to join one."""
    has_group = distributed.is_available() and distributed.is_initialized()
    return has_group or all(name in os.environ for name in _LAUNCHED)


def _own_device() -> str:
    """Where transformers puts the part of this process."""
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None or found.type == "mps":  # there is no tensor parallelism on mps
        return "cpu"
    return f"{found.type}:{os.environ.get('LOCAL_RANK', '0')}"


def _require_accelerate(name: str, value: Any) -> None:
    if importlib.util.find_spec("accelerate") is None:
        raise ValueError(
            f"{name} is {value!r} and needs the package accelerate: pip install accelerate"
        )


def num_launched() -> int:
    """How many processes a plan spreads the target over."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def num_parts(model: Any) -> int:
    """How many processes hold a part of the model each; 1 for one that is whole."""
    return getattr(model, "tp_size", None) or 1


def require_whole_heads(model: Any) -> None:
    """Refuse a model whose heads of attention cannot be dealt out evenly.

    Raises:
        ValueError: with the numbers of processes that would do.
    """
    parts, config = num_parts(model), model.config.get_text_config()
    if parts == 1 or not any("attn" in rule or "attention" in rule for rule in model.tp_plan):
        return
    for name in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(config, name, None)
        if isinstance(heads, int) and heads % parts:
            fine = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
            raise ValueError(
                f"the target has {name} {heads}, which {parts} processes can't share evenly; "
                f"start one of these numbers of processes: {fine}"
            )


def agreed(value: T) -> T:
    """The first process's value, for what each process would draw or measure itself."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


@contextmanager
def only_first_process_writes() -> Iterator[None]:
    """Let only the first of torchrun's processes write to stdout and stderr; errors pass through.

    At the end the process leaves the group that loading the target made.
    """
    with ExitStack() as stack:
        if os.environ.get("RANK", "0") != "0":
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        try:
            yield
            sys.stdout.flush()
        finally:
            if distributed.is_available() and distributed.is_initialized():
                distributed.destroy_process_group()
