"""The energy meter on synthetic counters: RAPL's files, a stand-in for NVML, recorded logs."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.replay_meter import Recording, Replay

from mtad.errors import DataError
from mtad.measure import meter as meter_module
from mtad.measure import rapl
from mtad.measure.energy import Energy, NoEnergy, Reading, total
from mtad.measure.meter import Meter, Together, find_meter, idle_power_w
from mtad.measure.nvml import gpu_facts

CPU = torch.device("cpu")
RANGE = 262_143_328_850
"""Microjoules at which the package counters of Intel's processors begin anew."""


@dataclass(frozen=True)
class Script:
    """Counters that show what they are told."""

    readings: Iterator[Reading]
    ranges: Mapping[str, int] = field(default_factory=dict)
    source: str = "script"
    interval_s: float = 0.1

    def read(self) -> Reading:
        return next(self.readings)


def script(*rows: tuple[float, int], ranges: Mapping[str, int] | None = None) -> Meter:
    """A meter of one counter, "a", that shows these microjoules at these seconds."""
    readings = iter([Reading(seconds, {"a": count}) for seconds, count in rows])
    return Meter(Script(readings, ranges or {}))


def window(meter: Meter) -> Energy | NoEnergy:
    return meter.between(meter.start(), meter.start())


def reason(found: Energy | NoEnergy) -> str:
    assert isinstance(found, NoEnergy)
    return found.reason


@pytest.fixture(autouse=True)
def _seconds_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardware counters are read a second apart, however fast the test is."""
    clock = SimpleNamespace(perf_counter=itertools.count(1.0).__next__)
    monkeypatch.setattr("mtad.measure.rapl.time", clock)
    monkeypatch.setattr("mtad.measure.nvml.time", clock)


# --- values


def test_a_window_has_joules_watts_and_its_source() -> None:
    meter = script((10.0, 5_000_000), (12.5, 17_000_000))
    energy = meter.stop(meter.start())
    assert energy == Energy({"a": 12.0}, 2.5, "script", 0.1)
    assert (energy.total_j, energy.average_power_w, energy.power_w) == (12.0, 4.8, {"a": 4.8})
    assert energy.includes_idle, "the joules are gross"
    assert Energy.of(json.loads(json.dumps(energy.as_dict()))) == energy


def test_a_share_keeps_the_power() -> None:
    energy = Energy({"a": 12.0, "b": 3.0}, 2.0, "script", 0.1)
    share = energy.shared_by(4)
    assert (share.joules, share.wall_s) == ({"a": 3.0, "b": 0.75}, 0.5)
    assert share.power_w == energy.power_w and energy.average_power_w == 7.5


def test_sums_over_windows() -> None:
    one, two = Energy({"a": 1.0}, 2.0, "s", 0.1), Energy({"a": 3.0}, 5.0, "s", 0.1)
    assert total([one, two]) == Energy({"a": 4.0}, 7.0, "s", 0.1)
    assert reason(total([one, NoEnergy("why"), two])) == "why"
    assert "different counters" in reason(total([one, Energy({"b": 1.0}, 1.0, "s", 0.1)]))
    assert "different counters" in reason(total([one, Energy({"a": 1.0}, 1.0, "t", 0.1)]))
    assert "no window" in reason(total([]))


# --- windows that cannot be measured


def test_a_counter_that_stands_still_is_no_zero() -> None:
    meter = script((0.0, 7), (0.3, 7))
    assert "window too short: the counter of a did not advance in 0.3 s" in reason(window(meter))
    meter = script((0.0, 7), (0.3, 7))
    assert meter.stop(meter.start()) is None


def test_a_window_of_less_than_two_updates_has_no_value_even_if_one_fell_into_it() -> None:
    found = window(script((0.0, 7), (0.19, 5_000_000)))
    assert "window too short: 0.19 s; it must be 0.2 s or more" in reason(found)
    assert isinstance(window(script((0.0, 7), (0.2, 5_000_000))), Energy)


def test_one_counter_of_two_that_stands_still() -> None:
    readings = [Reading(0.0, {"a": 1, "b": 1}), Reading(1.0, {"a": 1, "b": 5})]
    assert "the counter of a did not" in reason(window(Meter(Script(iter(readings)))))


def test_a_counter_that_begins_anew_once() -> None:
    energy = window(script((0.0, 900_000_000), (0.5, 300_000_000), ranges={"a": 1_000_000_000}))
    assert isinstance(energy, Energy) and energy.joules == {"a": 400.0}


def test_a_counter_that_went_backwards() -> None:
    assert "backwards; was it reset" in reason(window(script((0.0, 9), (1.0, 3))))
    far = window(script((0.0, 5_000_000), (0.0001, 300_000), ranges={"a": 1_000_000}))
    assert "backwards" in reason(far), "further than its range"


def test_a_window_in_which_a_counter_may_have_begun_anew_twice() -> None:
    long = window(script((0.0, 0), (300.0, 30_000_000_000), ranges={"a": RANGE}))
    assert "window too long: in 300 s" in reason(long) and "every 262 s" in reason(long)
    short = window(script((0.0, 0), (250.0, 30_000_000_000), ranges={"a": RANGE}))
    assert isinstance(short, Energy)
    endless = window(script((0.0, 0), (300.0, 30_000_000_000)))
    assert isinstance(endless, Energy), "a counter without a range"


def test_readings_in_between_make_a_long_window_measurable() -> None:
    rows = [(0.0, 0), (200.0, 200_000_000_000), (400.0, 137_856_671_150)]
    meter = script(*rows, ranges={"a": RANGE})
    energy = meter.between(*[meter.start() for _ in rows])
    assert isinstance(energy, Energy)
    assert (energy.wall_s, energy.total_j) == (400.0, pytest.approx(400_000.0))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (Reading(0.0, {"a": 1}), Reading(1.0, {}, "unplugged"), "unplugged"),
        (Reading(0.0, {}, "unplugged"), Reading(1.0, {"a": 1}), "unplugged"),
        (Reading(0.0, {"a": 1}), Reading(1.0, {"b": 2}), "different counters"),
        (Reading(0.0, {}), Reading(1.0, {}), "different counters"),
        (Reading(1.0, {"a": 1}), Reading(1.0, {"a": 2}), "window too short"),
    ],
)
def test_readings_that_do_not_fit(before: Reading, after: Reading, words: str) -> None:
    assert words in reason(window(Meter(Script(iter([before, after])))))


# --- idle power


def test_idle_power(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(meter_module.time, "sleep", slept.append)
    assert idle_power_w(script((0.0, 0), (2.0, 30_000_000)), 2.0) == {"a": 15.0}
    assert slept == [2.0]
    assert idle_power_w(script((0.0, 5), (2.0, 5)), 2.0) is None
    assert idle_power_w(Meter(None, "nothing here"), 60.0) is None
    assert slept == [2.0, 2.0], "without a meter nobody waits"


# --- RAPL


def zone(sysfs: Path, folder: str, name: str, energy: int, largest: int = RANGE) -> None:
    path = sysfs / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{energy}\n")
    (path / "max_energy_range_uj").write_text(f"{largest}\n")


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """Two packages, one with memory; parts of them, the platform, and one package shown twice."""
    zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 400_000)
    zone(tmp_path, "intel-rapl:0:1", "uncore", 100_000)
    zone(tmp_path, "intel-rapl:0:2", "dram", 50_000, 65_712_999_613)
    zone(tmp_path, "intel-rapl:1", "package-1", 2_000_000)
    zone(tmp_path, "intel-rapl:1:0", "core", 300_000)
    zone(tmp_path, "intel-rapl:2", "psys", 9_000_000)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 1_000_000)
    (tmp_path / "intel-rapl").mkdir()
    return tmp_path


def advance(sysfs: Path, folder: str, microjoules: int) -> None:
    path = sysfs / folder / "energy_uj"
    path.write_text(f"{(int(path.read_text()) + microjoules) % RANGE}\n")


def counted(sysfs: Path, use: Callable[[], None]) -> Mapping[str, float]:
    """Joules by device of a window in which `use` is called."""
    meter = find_meter([CPU], sysfs)
    begun = meter.start()
    use()
    energy = meter.between(begun, meter.start())
    assert isinstance(energy, Energy) and energy.source == "RAPL" and energy.wall_s > 0
    return energy.joules


def test_packages_and_memory_are_counted_once(sysfs: Path) -> None:
    def use() -> None:
        for place, folder in enumerate(sorted(sysfs.glob("*:*"))):
            advance(sysfs, folder.name, 1_000_000 + place)
        advance(sysfs, "intel-rapl:0", 2_000_000)
        advance(sysfs, "intel-rapl:1", 4_000_000)

    joules = counted(sysfs, use)
    assert set(joules) == {"cpu:package-0", "cpu:package-0:dram", "cpu:package-1"}
    assert joules["cpu:package-0"] == pytest.approx(3.0, abs=1e-4), "not the second interface"
    assert joules["cpu:package-0:dram"] == pytest.approx(1.0, abs=1e-4)
    assert joules["cpu:package-1"] == pytest.approx(5.0, abs=1e-4)


def test_the_platform_counts_where_no_package_does(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "psys", 5)
    joules = counted(tmp_path, lambda: advance(tmp_path, "intel-rapl:0", 2_000_000))
    assert joules == {"cpu:psys": 2.0}


def test_a_counter_of_the_files_that_begins_anew(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", RANGE - 1_000_000)
    joules = counted(tmp_path, lambda: advance(tmp_path, "intel-rapl:0", 3_000_000))
    assert joules == {"cpu:package-0": pytest.approx(3.0)}


def test_a_counter_at_zero_belongs_to_no_hardware(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 5)
    zone(tmp_path, "intel-rapl:0:0", "dram", 0)
    joules = counted(tmp_path, lambda: advance(tmp_path, "intel-rapl:0", 1_000_000))
    assert joules == {"cpu:package-0": 1.0}


def test_counters_for_root_only(sysfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(rapl, "_number", refuse)
    meter = find_meter([CPU], sysfs)
    assert meter.source == "unavailable" and meter.interval_s is None
    assert "not readable" in meter.reason and "chmod a+r" in meter.reason
    assert "intel-rapl:0/" in meter.reason


def test_no_counters(tmp_path: Path) -> None:
    for meter in (find_meter([CPU], tmp_path), find_meter([CPU], tmp_path / "nowhere")):
        assert (meter.source, meter.counters) == ("unavailable", None)
        assert "there is no RAPL counter in" in meter.reason
        assert meter.stop(meter.start()) is None
        assert reason(window(meter)) == meter.reason


def test_files_that_break_while_measuring(sysfs: Path) -> None:
    meter = find_meter([CPU], sysfs)
    begun = meter.start()
    (sysfs / "intel-rapl:1" / "energy_uj").write_text("what?\n")
    assert "RAPL cannot be read" in reason(meter.between(begun, meter.start()))
    assert "RAPL cannot be read" in find_meter([CPU], sysfs).reason
    (sysfs / "intel-rapl:1" / "energy_uj").unlink()
    assert "RAPL cannot be read" in reason(meter.between(begun, meter.start()))


# --- NVML


class NVMLError(Exception):
    """What NVML raises."""


@dataclass
class FakeNvml:
    """NVML with three GPUs, which it knows by their UUIDs; millijoules rise with each reading."""

    NVMLError: type[NVMLError] = NVMLError
    counts: dict[str, int] = field(default_factory=lambda: {"GPU-x": 10, "GPU-y": 20, "GPU-z": 30})
    steps: dict[str, int] = field(default_factory=lambda: {"GPU-x": 1, "GPU-y": 2000, "GPU-z": 3})
    divided: frozenset[str] = frozenset()
    broken: bool = False
    log: list[str] = field(default_factory=list)

    def nvmlInit(self) -> None:
        if self.broken:
            raise NVMLError("Driver Not Loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid not in self.counts:
            raise NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        if handle == "GPU-z":
            raise NVMLError("Not Supported")
        return [int(handle in self.divided), 0]

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.1"

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:
        return {"GPU-y": 350_000, "GPU-z": 700_000}[handle]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        self.log.append(f"read {handle}")
        if self.broken:
            raise NVMLError("GPU is lost")
        self.counts[handle] += self.steps[handle]
        return self.counts[handle]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """The stand-in, on a machine where only GPU y and then GPU z are visible to torch."""
    fake, uuids = FakeNvml(), ["y", "GPU-z"]
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=uuids[index])
    )
    monkeypatch.setattr(
        torch.cuda, "synchronize", lambda device: fake.log.append(f"synchronize {device}")
    )
    return fake


def gpus(*indices: int) -> list[torch.device]:
    return [torch.device("cuda", index) for index in indices]


def test_the_conditions_name_driver_and_power_limit(nvml: FakeNvml) -> None:
    limits = {"cuda:0": 350.0, "cuda:1": 700.0}
    assert gpu_facts([*gpus(0, 1), CPU]) == {"driver": "580.1", "power_limit_w": limits}
    nvml.broken = True
    assert gpu_facts(gpus(0)) == {}
    assert gpu_facts([CPU]) == {}


def test_the_gpu_is_found_by_its_uuid(nvml: FakeNvml, tmp_path: Path) -> None:
    meter = find_meter(gpus(0), tmp_path)
    energy = meter.stop(meter.start())
    assert energy is not None and energy.source == "NVML"
    assert energy.joules == {"cuda:0": 2.0}, "that of GPU y, the first visible one"
    assert "without the processor's energy: there is no RAPL" in meter.reason


def test_the_gpu_has_finished_before_it_is_read(nvml: FakeNvml, tmp_path: Path) -> None:
    meter = find_meter([*gpus(0, 1), *gpus(0)], tmp_path)
    nvml.log.clear()
    meter.start()
    expected = ["synchronize cuda:0", "synchronize cuda:1", "read GPU-y", "read GPU-z"]
    assert nvml.log == expected, "each GPU once"


def test_a_gpu_without_an_index_is_the_current_one(nvml: FakeNvml, tmp_path: Path) -> None:
    meter = find_meter([torch.device("cuda")], tmp_path)
    energy = meter.stop(meter.start())
    assert energy is not None and energy.joules == {"cuda:0": 2.0}


def test_gpu_and_processor_are_kept_apart(nvml: FakeNvml, tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 5)
    meter = find_meter([*gpus(0), CPU], tmp_path)
    begun = meter.start()
    advance(tmp_path, "intel-rapl:0", 7_000_000)
    energy = meter.stop(begun)
    assert energy is not None and energy.joules == {"cuda:0": 2.0, "cpu:package-0": 7.0}
    assert (energy.source, energy.total_j) == ("NVML + RAPL", 9.0)
    assert energy.interval_s == 0.1, "of the slower"
    assert isinstance(meter.counters, Together) and meter.counters.ranges == {
        "cpu:package-0": RANGE
    }
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert "RAPL cannot be read" in reason(meter.between(begun, meter.start()))


def test_no_counter_of_the_gpu_is_no_meter(nvml: FakeNvml, tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 5)
    nvml.broken = True
    meter = find_meter(gpus(0), tmp_path)
    assert meter.counters is None, "the processor's joules are not those of the decoding"
    assert "NVML cannot be read: Driver Not Loaded" in meter.reason


def test_a_gpu_that_is_lost(nvml: FakeNvml, tmp_path: Path) -> None:
    meter = find_meter(gpus(0), tmp_path)
    begun = meter.start()
    nvml.broken = True
    assert "NVML cannot be read: GPU is lost" in reason(meter.between(begun, meter.start()))


def test_a_divided_gpu(nvml: FakeNvml, tmp_path: Path) -> None:
    nvml.divided = frozenset({"GPU-y"})
    assert "cuda:0 is divided (MIG)" in find_meter(gpus(0), tmp_path).reason
    assert find_meter(gpus(1), tmp_path).counters is not None


def test_without_the_bindings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install nvidia-ml-py" in find_meter(gpus(0), tmp_path).reason


def test_the_bindings_have_what_is_asked_of_them() -> None:
    pynvml = pytest.importorskip("pynvml")
    asked = [name for name in vars(FakeNvml) if name.startswith("nvml")]
    assert len(asked) == 6 and all(callable(getattr(pynvml, name)) for name in asked)
    assert issubclass(pynvml.NVMLError, Exception)


def test_other_devices(tmp_path: Path) -> None:
    meter = find_meter([torch.device("mps"), CPU], tmp_path)
    assert (meter.source, meter.counters) == ("unavailable", None)
    assert "no energy counter for devices of type mps" in meter.reason


# --- recordings


def test_a_recording_gives_the_same_windows_again(tmp_path: Path) -> None:
    rows = [Reading(float(i), {"a": (i * 700_000) % 1_000_000 + 1}) for i in range(4)]
    rows[3] = Reading(3.0, {}, "unplugged")
    log = tmp_path / "log.jsonl"
    first = Meter(Recording(Script(iter(rows), {"a": 10**12}), log))
    live = [first.between(*[first.start() for _ in range(2)]) for _ in range(2)]
    replayed = Meter(Replay.of(log))
    again = [replayed.between(*[replayed.start() for _ in range(2)]) for _ in range(2)]
    assert isinstance(live[0], Energy) and isinstance(again[0], Energy)
    assert live[0].total_j == again[0].total_j == 0.7
    assert again[0].source == "script (recorded)" and again[0].interval_s == 0.1
    assert live[1] == again[1] == NoEnergy("unplugged")
    assert replayed.counters is not None and replayed.counters.ranges == {"a": 10**12}
    assert "no more readings" in reason(window(replayed))


HEAD = '{"source": "s", "interval_s": 0.1, "ranges": {}}\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no recording"),
        ('{"source": "s"}\n', "its first line does not name the counters"),
        (HEAD + '{"time_s": 1.0, "micro', "line 2 is not a JSON object"),
        (HEAD + "[]\n", "line 2 is not a JSON object"),
        (HEAD + '{"time_s": 1.0, "problem": ""}\n', "line 2 is no reading"),
        (HEAD + '{"time_s": 1.0, "microjoules": {"a": 1.5}, "problem": ""}\n', "integers"),
    ],
)
def test_a_damaged_recording(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        Replay.of(path)


def test_a_missing_recording(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        Replay.of(tmp_path / "nowhere.jsonl")
