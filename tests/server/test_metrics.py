"""`/metrics` against sums made by hand."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Sequence as Items
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from prometheus_client.parser import text_string_to_metric_families
from support.replay_meter import Replay

import mtad
from mtad.engine.session import Block, Request
from mtad.errors import NonFiniteLogitsError
from mtad.measure.energy import Reading
from mtad.measure.meter import Meter
from mtad.measure.sharing import SharedEnergy
from mtad.server.ops.metrics import Metrics
from mtad.server.ray.metrics import labelled
from mtad.server.scheduler.events import Load
from mtad.server.scheduler.sequence import Chunk, Sequence

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "mtad.json"
DOCUMENTATION = ROOT / "docs" / "server.md"


class Clock:
    """A time that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def text(
    clock: Clock, method: mtad.Method | None = None, prompt: int = 3, wait: float = 0.0
) -> Sequence:
    made = Sequence(Request([1] * prompt), method=method or mtad.MTAD(), arrived_at=clock.now)
    made.admitted_at = clock.now + wait
    return made


def chunk(one: Sequence, given: Block, now: float = 100.0) -> Chunk:
    """What the scheduler makes of a block."""
    if given.error:
        return Chunk(one, given, error=given.error, at=now)
    gap_s = one.advance(given, 0.01, now)
    return Chunk(one, given, token_ids=given.token_ids, at=now, gap_s=gap_s)


def end(metrics: Metrics, one: Sequence, outcome: Any, now: float = 100.0) -> None:
    one.outcome, one.ended_at = outcome, now
    metrics.ended(one)


def block(accepted: int, drafted: int = 4, end: str | None = None, tokens: int = 0) -> Block:
    ids = tuple(range(tokens or accepted + 1))
    return Block(0, ids, accepted, drafted, drafted, end)


def samples(metrics: Metrics) -> dict[str, float]:
    """Every sample of `mtad:` by its name and labels beside the model's name."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples if family.name.startswith("mtad:") else ():
            assert sample.labels.pop("model_name") == ""
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert key not in found
            found[key] = sample.value
    return found


def load(running: int = 0) -> Load:
    return Load(4, 1, running, 2, 300, 1200, True, True)


def test_counters_equal_a_fold_made_by_hand() -> None:
    clock = Clock()
    metrics = Metrics()
    one, two = text(clock), text(clock, prompt=5)
    plain = text(clock, mtad.Autoregressive(), prompt=7)
    two.stats.num_cached_tokens = 2
    for each in (one, two, plain):
        metrics.admitted(each)
    metrics.decoded([chunk(one, block(2)), chunk(two, block(0))], 0.01)
    metrics.decoded([chunk(plain, block(0, drafted=0))], 0.01)
    metrics.decoded([chunk(one, block(4, end="stop", tokens=4))], 0.01)
    end(metrics, one, "stop")
    end(metrics, two, "cancelled")
    end(metrics, plain, "length")
    sick = Block(0, (), 0, 4, 4, "error", NonFiniteLogitsError("NaN"))
    metrics.decoded([chunk(text(clock), sick)], 0.01)
    found = samples(metrics)
    position = "mtad:spec_decode_num_accepted_tokens_per_pos_total{method=mtad,position=%d}"
    assert [found[position % p] for p in range(4)] == [2, 2, 1, 1]
    assert position % 4 not in found
    wanted = {
        "mtad:spec_decode_num_drafts_total{method=mtad}": 3,
        "mtad:spec_decode_num_draft_tokens_total{method=mtad}": 12,
        "mtad:spec_decode_num_accepted_tokens_total{method=mtad}": 6,
        "mtad:spec_decode_num_drafts_total{method=autoregressive}": 1,
        "mtad:spec_decode_num_draft_tokens_total{method=autoregressive}": 0,
        "mtad:spec_decode_num_accepted_tokens_total{method=autoregressive}": 0,
        "mtad:prompt_tokens_total": 15,
        "mtad:prefix_cache_queries_total": 15,
        "mtad:prefix_cache_hits_total": 2,
        "mtad:generation_tokens_total{method=mtad}": 8,
        "mtad:generation_tokens_total{method=autoregressive}": 1,
        "mtad:request_success_total{finished_reason=stop}": 1,
        "mtad:request_success_total{finished_reason=length}": 1,
        "mtad:requests_failed_total{reason=cancelled}": 1,
        "mtad:iteration_rows_sum": 5,
        "mtad:iteration_rows_count": 4,
        "mtad:iteration_rows_bucket{le=1.0}": 3,
        "mtad:iteration_rows_bucket{le=2.0}": 4,
        "mtad:iteration_rows_bucket{le=+Inf}": 4,
    }
    assert {name: found.get(name) for name in wanted} == wanted
    assert found["mtad:iteration_seconds_sum"] == pytest.approx(0.04)


def test_times_are_those_of_the_texts() -> None:
    clock = Clock()
    metrics = Metrics()
    one = text(clock, wait=0.25)
    metrics.admitted(one)
    for at, accepted in ((101.0, 1), (101.5, 3), (103.0, 0)):
        metrics.decoded([chunk(one, block(accepted), at)], 0.5)
    end(metrics, one, "length", 104.0)
    found = samples(metrics)
    assert found["mtad:request_queue_time_seconds_sum"] == 0.25
    assert found["mtad:time_to_first_token_seconds_sum"] == 1.0
    assert found["mtad:inter_token_latency_seconds_sum"] == 2.0
    assert found["mtad:inter_token_latency_seconds_count"] == 2
    assert found["mtad:time_per_output_token_seconds_sum"] == pytest.approx(2.0 / 6)
    assert found["mtad:e2e_request_latency_seconds_sum"] == 4.0


def test_a_text_of_one_token_has_no_time_per_token_and_a_failed_one_no_latency() -> None:
    clock = Clock()
    metrics = Metrics()
    short, failed = text(clock), text(clock)
    metrics.decoded([chunk(short, block(0)), chunk(failed, block(3))], 0.1)
    end(metrics, short, "stop")
    end(metrics, failed, "error")
    found = samples(metrics)
    assert found["mtad:time_per_output_token_seconds_count"] == 0
    assert found["mtad:e2e_request_latency_seconds_count"] == 1
    assert found["mtad:requests_failed_total{reason=error}"] == 1


def test_gauges_say_how_busy_the_scheduler_is_now() -> None:
    metrics = Metrics()
    assert "mtad:num_requests_running" not in samples(metrics)
    metrics.load = lambda: load(running=6)
    found = samples(metrics)
    assert found["mtad:num_requests_running"] == 7
    assert found["mtad:num_requests_waiting"] == 4
    assert found["mtad:num_batches"] == 2
    assert found["mtad:kv_cache_usage_perc"] == 0.25
    metrics.load = lambda: Load(0, 0, 0, 0, 0, 0, True, True)
    assert samples(metrics)["mtad:kv_cache_usage_perc"] == 0


def test_eager_iterations_are_read_at_each_scrape() -> None:
    metrics, reasons = Metrics(), Counter[str]()
    assert "eager_iterations" not in metrics.render().decode()
    metrics.eager_iterations = lambda: reasons
    for reason in ("observed", "warming_up", "observed"):
        reasons[reason] += 1
        assert samples(metrics)[f"mtad:eager_iterations_total{{reason={reason}}}"] > 0
    found = samples(metrics)
    assert found["mtad:eager_iterations_total{reason=observed}"] == 2
    assert found["mtad:eager_iterations_total{reason=warming_up}"] == 1


def test_answers_are_counted_by_status() -> None:
    metrics = Metrics()
    for status in (200, 429, 200):
        metrics.answered(status)
    found = samples(metrics)
    assert found["mtad:http_responses_total{status=200}"] == 2
    assert found["mtad:http_responses_total{status=429}"] == 1


@pytest.mark.slow
def test_several_threads_lose_no_count() -> None:
    metrics, clock = Metrics(), Clock()
    one = chunk(text(clock), block(2))

    def work() -> None:
        for _ in range(300):
            metrics.decoded([one], 0.1)
            metrics.render()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert samples(metrics)["mtad:spec_decode_num_drafts_total{method=mtad}"] == 1200


def test_the_text_has_types_and_no_times_of_creation() -> None:
    metrics = Metrics()
    metrics.load = load
    page = metrics.render().decode()
    assert "# TYPE mtad:spec_decode_num_drafts_total counter" in page
    assert "# TYPE mtad:time_to_first_token_seconds histogram" in page
    assert "_created" not in page
    names = set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))
    assert all(f"# HELP {name} " in page for name in names)


def test_every_series_has_the_models_name_as_vllms_have() -> None:
    metrics = Metrics(model_name='a "b"\\c')
    metrics.load = load
    metrics.decoded([chunk(text(Clock()), block(3))], 0.1)
    for _ in range(2):
        families = list(text_string_to_metric_families(metrics.render().decode()))
        own = [s for one in families if one.name.startswith("mtad:") for s in one.samples]
        assert {s.labels["model_name"] for s in own} == {'a "b"\\c'}
        [drafts] = [s for s in own if s.name == "mtad:spec_decode_num_drafts_total"]
        assert drafts.labels == {"model_name": 'a "b"\\c', "method": "mtad"}


def test_build_and_process_are_on_the_page() -> None:
    families = text_string_to_metric_families(Metrics(model_name="x").render().decode())
    found = {s.name: s for one in families for s in one.samples if not s.name.startswith("mtad:")}
    build = found.pop("mtad_build_info")
    assert build.value == 1
    assert build.labels == {
        "version": mtad.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if not Path("/proc/self/stat").exists():
        pytest.skip("the process is read from /proc")
    assert found.keys() >= {"process_cpu_seconds_total", "process_open_fds"}
    pages = found["process_resident_memory_bytes"].value / os.sysconf("SC_PAGE_SIZE")
    [now] = Path("/proc/self/statm").read_text().split()[1:2]
    assert pages == pytest.approx(int(now), rel=0.2)


def full_page() -> bytes:
    """A page on which every metric has a series."""
    clock = Clock()
    metrics = Metrics(energy_of((3, 5, 9), clock))
    metrics.load = load
    metrics.eager_iterations = lambda: {"observed": 1}
    metrics.prefix_cache_bytes = lambda: 1024
    one, two = text(clock), text(clock)
    for each in (one, two):
        metrics.admitted(each)
        metrics.decoded([chunk(each, block(3))], 0.1)
    end(metrics, one, "stop")
    end(metrics, two, "cancelled")
    metrics.answered(200)
    return metrics.render()


PAGES = {"one server": full_page, "replicas": lambda: labelled({"a": full_page().decode()})}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_promtool_finds_only_the_colon_that_vllms_names_have_too(page: Any) -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed; on Debian it is part of the package prometheus")
    done = subprocess.run(
        [tool, "check", "metrics"], input=page(), capture_output=True, check=False
    )
    complaints = (done.stdout + done.stderr).decode().splitlines()
    names = [line.removesuffix(" metric names should not contain ':'") for line in complaints]
    assert all(re.fullmatch(r"mtad:\w+", name) for name in names), complaints
    assert len(names) >= 21, "every metric was looked at"


ABBREVIATIONS = ("s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "m", "h", "d", "j")
OWN = r"mtad:[a-z0-9_]+|mtad_build_info|process_[a-z_]+"
"""Names that are ours, of the build and of the process, which every exporter has."""
SCALED = re.compile(r"(milli|micro|nano|kilo|mega|giga)|_(minutes|hours|days|kibibytes|bits)\b")


def complaints_about(page: bytes) -> list[str]:
    """What the rules of `promtool check metrics` find, apart from a colon after `mtad`."""
    found = []
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page.decode(), re.MULTILINE))
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", page.decode(), re.MULTILINE))
    for name, kind in kinds.items():
        words = name.removeprefix("mtad:").split("_")
        for is_wrong, complaint in (
            (not helps.get(name), "no help"),
            ((kind == "counter") != (words[-1] == "total"), "total is for counters"),
            (words[-1] in ("count", "sum", "bucket"), "suffix of a histogram"),
            (kind in words, "the type is in the name"),
            (not re.fullmatch(OWN, name), "letters other than a-z, 0-9 and _"),
            (bool({*words[-2:]} & {*ABBREVIATIONS}), "abbreviated unit"),
            (bool(SCALED.search(name)), "another unit than the base one"),
        ):
            found += [f"{name}: {complaint}"] if is_wrong else []
    for family in text_string_to_metric_families(page.decode()):
        labels = {label for sample in family.samples for label in sample.labels}
        if ("le" in labels) != (family.type == "histogram") or "quantile" in labels:
            found.append(f"{family.name}: a label of histograms or summaries")
        found += [
            f"{family.name}: label {one}" for one in labels if not re.fullmatch("[a-z_]+", one)
        ]
    return found


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_metrics_keep_the_rules_for_names(page: Any) -> None:
    assert complaints_about(page()) == []


@pytest.mark.parametrize(
    "line",
    [
        "# TYPE mtad:made counter",
        "# TYPE mtad:made_total gauge",
        "# TYPE mtad:took_ms gauge",
        "# TYPE mtad:took_milliseconds gauge",
        "# TYPE mtad:rows_count gauge",
        "# TYPE mtad:rows_gauge gauge",
        "# TYPE mtad:numRows gauge",
        "# TYPE other:rows gauge",
    ],
)
def test_the_rules_for_names_find_a_wrong_one(line: str) -> None:
    name = line.split()[2]
    page = f"# HELP {name} It is wrong.\n{line}\n{name} 1\n"
    assert complaints_about(page.encode())
    assert (
        complaints_about(b"# HELP mtad:good_rows It is right.\n# TYPE mtad:good_rows gauge\n") == []
    )


def energy_of(values: Items[float], clock: Clock) -> SharedEnergy:
    """Joules that a meter of one device shows, a second apart."""
    readings = [
        Reading(clock.now + i, {"cpu": int(joules * 1e6)}) for i, joules in enumerate(values)
    ]
    return SharedEnergy(Meter(Replay(iter(readings), "test (recorded)", 0.1, {})), clock)


def test_a_text_gets_the_joules_of_its_tokens() -> None:
    clock = Clock()
    metrics = Metrics(energy_of((3, 5, 9), clock))
    one, two = text(clock), text(clock)
    for each in (one, two):
        metrics.admitted(each)
    clock.now = 101.0
    metrics.decoded([chunk(one, block(3)), chunk(two, block(1))], 0.1)
    assert metrics.energy is not None
    assert metrics.energy.share([one], 4) == (pytest.approx(2 * 4 / 6), None)
    clock.now = 102.0
    assert samples(metrics)["mtad:energy_joules_total{device=cpu}"] == 6


def test_without_a_meter_no_joules_are_shown() -> None:
    metrics = Metrics(SharedEnergy(Meter(None, "no counters here")))
    metrics.decoded([chunk(text(Clock()), block(3))], 0.1)
    assert "energy" not in metrics.render().decode()


def rendered_names() -> set[str]:
    """The names of a page that shows every metric, those of a histogram's parts as one."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("the process is read from /proc")
    families = text_string_to_metric_families(full_page().decode())
    return {whole(sample.name) for family in families for sample in family.samples}


def whole(name: str) -> str:
    """A metric without the part of a histogram that it is."""
    return re.sub(r"_(bucket|sum|count)$", "", name)


def test_the_dashboard_uses_every_name_that_is_rendered_and_no_other() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    targets = json.dumps([panel["targets"] for panel in panels])
    assert {*map(whole, re.findall(r"\b(?:mtad[:_]|process_)\w+", targets))} == rendered_names()
    assert len({panel["id"] for panel in panels}) == len(panels)
    ours = [one["expr"] for panel in panels for one in panel["targets"]]
    for expression in (one for one in ours if "process_" in one):  # every exporter has these names
        assert expression.endswith("and on (job, instance) mtad_build_info")


def test_the_documentation_has_every_name_that_is_rendered() -> None:
    text = DOCUMENTATION.read_text(encoding="utf-8")
    named = {*map(whole, re.findall(r"`((?:mtad[:_]|process_)\w+)", text))}
    assert named == rendered_names()
