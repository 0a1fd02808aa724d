"""Waits for devices, so that a clock or a counter sees the work that was asked for."""

from __future__ import annotations

import torch


def synchronize(*devices: torch.device) -> None:
    """Wait until the CUDA devices among these have finished their work; others never lag."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
