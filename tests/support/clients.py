"""Programs of other projects, each in an environment of its own that scripts/test-clients makes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

PLACE = "MTAD_CLIENTS"
"""The environment variable with the folder that holds the environments."""


def run_client(name: str, *arguments: str, folder: Path, timeout_s: float = 600) -> str:
    """What a client's program prints; it has to end with 0.

    Args:
        name: of the program, which is its environment's too.
        arguments: of the program.
        folder: where it runs, and keeps what it keeps.
        timeout_s: seconds until it is given up.
    """
    if PLACE not in os.environ:
        pytest.fail(f"{PLACE} is not set: run bash scripts/test-clients", pytrace=False)
    program = Path(os.environ[PLACE]).resolve() / name / "bin" / name
    done = subprocess.run(
        [str(program), *arguments],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout
