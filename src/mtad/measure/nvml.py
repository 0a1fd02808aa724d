"""The energy counters of NVIDIA GPUs, through NVML (nvidia-ml-py)."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mtad.measure.energy import NoEnergy, Reading

INTERVAL_S = 0.1
"""About how often NVML's energy counters advance (ML.ENERGY, "Thermally stable profiling").
On A100 and H100 a quarter of the time is sampled (arXiv 2312.02741): long windows, many repeats."""


@dataclass(frozen=True)
class Nvml:
    """One counter per GPU in use; other programs on the same GPU are counted too.

    Attributes:
        handles: NVML's handle of each device.
    """

    handles: Mapping[str, Any]
    source: str = "NVML"
    interval_s: float = INTERVAL_S
    ranges: Mapping[str, int] = field(default_factory=dict)

    def read(self) -> Reading:
        """What the counters show now."""
        nvml = _nvml()
        try:
            values = {name: _microjoules(nvml, handle) for name, handle in self.handles.items()}
        except nvml.NVMLError as error:
            return Reading(time.perf_counter(), {}, f"NVML cannot be read: {error}")
        return Reading(time.perf_counter(), values)


def find_nvml(devices: Sequence[torch.device]) -> Nvml | NoEnergy:
    """The counters of these CUDA devices, or why there are none."""
    try:
        nvml = _nvml()
    except ImportError:
        return NoEnergy("NVML needs nvidia-ml-py: pip install nvidia-ml-py")
    try:
        nvml.nvmlInit()
        handles = {f"cuda:{_index(d)}": _handle(nvml, d) for d in devices}
        for name, handle in handles.items():
            if _is_divided(nvml, handle):
                return NoEnergy(f"{name} is divided (MIG), and NVML counts the whole GPU alone")
            _microjoules(nvml, handle)
    except nvml.NVMLError as error:
        return NoEnergy(f"NVML cannot be read: {error}; energy counters need Volta or newer")
    return Nvml(handles)


def gpu_facts(devices: Sequence[torch.device]) -> dict[str, Any]:
    """Driver and power limit of the CUDA devices, for the conditions; nothing where NVML is not."""
    gpus = [device for device in dict.fromkeys(devices) if device.type == "cuda"]
    if not gpus:
        return {}
    try:
        nvml = _nvml()
    except ImportError:
        return {}
    try:
        nvml.nvmlInit()
        limits = {f"cuda:{_index(d)}": _power_limit_w(nvml, _handle(nvml, d)) for d in gpus}
        return {"driver": str(nvml.nvmlSystemGetDriverVersion()), "power_limit_w": limits}
    except nvml.NVMLError:
        return {}


def _power_limit_w(nvml: Any, handle: Any) -> float:
    return float(nvml.nvmlDeviceGetEnforcedPowerLimit(handle)) / 1000


def _nvml() -> Any:
    return importlib.import_module("pynvml")


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _handle(nvml: Any, device: torch.device) -> Any:
    """NVML's handle; its indices ignore CUDA_VISIBLE_DEVICES, so the UUID has to say which GPU."""
    uuid = str(torch.cuda.get_device_properties(_index(device)).uuid)
    return nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")


def _is_divided(nvml: Any, handle: Any) -> bool:
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:
        return False  # a GPU that cannot be divided
    return bool(current)


def _microjoules(nvml: Any, handle: Any) -> int:
    return 1000 * int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
