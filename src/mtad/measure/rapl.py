"""The energy counters of Intel and AMD processors (RAPL), through Linux' powercap files."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mtad.measure.energy import NoEnergy, Reading

POWERCAP = Path("/sys/class/powercap")
INTERVAL_S = 0.001
"""Intel's Software Developer's Manual, volume 3B, on RAPL: updated about once a millisecond."""


@dataclass(frozen=True)
class Rapl:
    """One counter per processor package, and one per package for memory where it has one.

    Attributes:
        files: the counter of each device, in microjoules.
        ranges: the largest value of each counter.
    """

    files: Mapping[str, Path]
    ranges: Mapping[str, int]
    source: str = "RAPL"
    interval_s: float = INTERVAL_S

    def read(self) -> Reading:
        """What the counters show now."""
        try:
            values = {device: _number(path) for device, path in self.files.items()}
        except (OSError, ValueError) as error:
            return Reading(time.perf_counter(), {}, f"RAPL cannot be read: {error}")
        return Reading(time.perf_counter(), values)


def find_rapl(sysfs: Path = POWERCAP) -> Rapl | NoEnergy:
    """The counters of this machine, or why there are none.

    Cores and graphics are part of their package, and the platform ("psys") holds the packages, so
    it counts only where no package does. A counter that stands at 0 belongs to no hardware.
    """
    zones = _zones(sysfs)
    packages = {name: zone for name, zone in zones.items() if name.startswith("cpu:package")}
    try:
        ranges = {n: _number(z / "max_energy_range_uj") for n, z in (packages or zones).items()}
        files = {name: zones[name] / "energy_uj" for name in ranges}
        files = {name: path for name, path in files.items() if _number(path) > 0}
    except PermissionError as error:
        return NoEnergy(
            f"RAPL's counters are not readable: {error.filename}; an administrator can allow it "
            f"until the next boot: chmod a+r {sysfs}/*/energy_uj"
        )
    except (OSError, ValueError) as error:
        return NoEnergy(f"RAPL cannot be read: {error}")
    if not files:
        return NoEnergy(
            f"there is no RAPL counter in {sysfs}: not Linux on Intel or AMD, a virtual machine or "
            "a container"
        )
    return Rapl(files, {name: ranges[name] for name in files})


def _zones(sysfs: Path) -> dict[str, Path]:
    """The folders of packages, their memory and the platform, by device."""
    zones: dict[str, Path] = {}
    # Two interfaces may show one package, "intel-rapl-mmio:0" and, later in the order,
    # "intel-rapl:0"; having the same name they are counted once.
    for zone in sorted(sysfs.glob("*:*")):
        name, parent = _text(zone / "name"), zone.parent / zone.name.rpartition(":")[0]
        is_inner = zone.name.count(":") > 1
        if is_inner and name == "dram":
            zones[f"cpu:{_text(parent / 'name')}:dram"] = zone
        elif not is_inner and (name.startswith("package") or name == "psys"):
            zones[f"cpu:{name}"] = zone
    return zones


def _text(path: Path) -> str:
    """The word in a file, empty if there is none."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(path: Path) -> int:
    return int(path.read_text())
