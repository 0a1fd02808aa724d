"""Metrics for Prometheus: counters, histograms and gauges of what the scheduler does.

Every series of these has the label `model_name`, as vLLM's have; the process and the build stand
beside them.

A request here is a text: a request for `n` choices counts `n` times. Names and formulas of drafting
are those of `mtad.engine.stats`: S steps, D drafted, A accepted. Knows no HTTP and no model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Items
from importlib.metadata import version
from itertools import chain

import torch
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from mtad import __version__
from mtad.measure.sharing import SharedEnergy
from mtad.server.scheduler.events import Load
from mtad.server.scheduler.sequence import Chunk, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "spec_decode_num_drafts": ("Verification steps (S).", ("method",)),
    "spec_decode_num_draft_tokens": ("Draft tokens verified (D).", ("method",)),
    "spec_decode_num_accepted_tokens": ("Draft tokens accepted (A).", ("method",)),
    "spec_decode_num_accepted_tokens_per_pos": (
        "Steps that accepted the draft token at this position, the first being 0.",
        ("method", "position"),
    ),
    "prompt_tokens": ("Tokens of the prompts that were admitted.", ()),
    "prefix_cache_queries": ("Prompt tokens that were looked up in the prefix cache.", ()),
    "prefix_cache_hits": ("Those of them that were found, and not read again.", ()),
    "generation_tokens": ("Tokens that were produced.", ("method",)),
    "request_success": ("Texts that came to their end.", ("finished_reason",)),
    "requests_failed": ("Texts that did not.", ("reason",)),
    "http_responses": ("Answers by their status.", ("status",)),
}
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)
_LONGER = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 256.0)
_HISTOGRAMS: dict[str, tuple[str, tuple[float, ...]]] = {
    "time_to_first_token_seconds": ("From arrival to the first token.", (*_SECONDS, *_LONGER)),
    "time_per_output_token_seconds": (
        "Mean time per token of a text after its first.",
        (0.0001, 0.00025, 0.0005, *_SECONDS, 1.0, 2.5),
    ),
    "inter_token_latency_seconds": (
        "Between two blocks of a text; a block is what one step adds.",
        (*_SECONDS, 1.0, 2.5),
    ),
    "e2e_request_latency_seconds": ("From arrival to the end.", (*_SECONDS, *_LONGER)),
    "request_queue_time_seconds": ("From arrival to admission.", (*_SECONDS, *_LONGER)),
    "iteration_rows": ("Texts in an iteration's batch.", _ROWS),
    "iteration_seconds": ("Length of an iteration.", (*_SECONDS, 1.0, 2.5)),
}


class Metrics(Collector):
    """The server's metrics; an `Observer` of the scheduler.

    Args:
        energy: where joules come from; None for nowhere.
        model_name: what answers call the model; empty for a label without a value.

    Attributes:
        load: how busy the scheduler is now; set once there is one.
        eager_iterations: how many iterations ran eagerly, by reason; set once there is a pair.
        prefix_cache_bytes: what the prefix cache has now; set once there is a pair.
        energy: as given.
    """

    def __init__(self, energy: SharedEnergy | None = None, model_name: str = "") -> None:
        self.energy, self._model_name = energy, model_name
        self.load: Callable[[], Load] | None = None
        self.eager_iterations: Callable[[], Mapping[str, int]] | None = None
        self.prefix_cache_bytes: Callable[[], int] | None = None
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry(auto_describe=False)
        self._counters = {
            name: Counter(f"mtad:{name}", text, labels, registry=self._registry)
            for name, (text, labels) in _COUNTERS.items()
        }
        self._histograms = {
            name: Histogram(f"mtad:{name}", text, buckets=bounds, registry=self._registry)
            for name, (text, bounds) in _HISTOGRAMS.items()
        }
        self._process = ProcessCollector(registry=None)

    def admitted(self, sequence: Sequence) -> None:
        """Count the prompt and the wait."""
        num_tokens = len(sequence.request.prompt_ids)
        self._counters["prompt_tokens"].inc(num_tokens)
        self._counters["prefix_cache_queries"].inc(0 if sequence.scores_prompt else num_tokens)
        self._counters["prefix_cache_hits"].inc(sequence.stats.num_cached_tokens)
        self._histograms["request_queue_time_seconds"].observe(sequence.queue_s)
        if self.energy:
            self.energy.begin(sequence)

    def decoded(self, chunks: Items[Chunk], seconds: float) -> None:
        """Count what one iteration drafted, accepted and produced."""
        self._histograms["iteration_rows"].observe(len(chunks))
        self._histograms["iteration_seconds"].observe(seconds)
        for chunk in chunks:
            if chunk.token_ids:
                self._count(chunk)
                self._time(chunk)
        if self.energy:
            self.energy.count(sum(len(chunk.token_ids) for chunk in chunks))

    def _count(self, chunk: Chunk) -> None:
        method, block = chunk.sequence.method.name, chunk.block
        assert block is not None
        for name, count in (
            ("spec_decode_num_drafts", 1),
            ("spec_decode_num_draft_tokens", block.num_drafted),
            ("spec_decode_num_accepted_tokens", block.num_accepted),
            ("generation_tokens", len(block.token_ids)),
        ):
            self._counters[name].labels(method).inc(count)
        for position in range(block.num_accepted):
            name = "spec_decode_num_accepted_tokens_per_pos"
            self._counters[name].labels(method, str(position)).inc()

    def _time(self, chunk: Chunk) -> None:
        if chunk.gap_s is None:
            first_s = chunk.at - chunk.sequence.arrived_at
            self._histograms["time_to_first_token_seconds"].observe(first_s)
        else:
            self._histograms["inter_token_latency_seconds"].observe(chunk.gap_s)

    def ended(self, sequence: Sequence) -> None:
        """Count how it ended, and how long it took."""
        outcome = str(sequence.outcome)
        if outcome not in ("stop", "length"):
            self._counters["requests_failed"].labels(outcome).inc()
            return
        self._counters["request_success"].labels(outcome).inc()
        took_s = (sequence.ended_at or 0.0) - sequence.arrived_at
        self._histograms["e2e_request_latency_seconds"].observe(took_s)
        if (per_token := _seconds_per_token(sequence)) is not None:
            self._histograms["time_per_output_token_seconds"].observe(per_token)

    def answered(self, status: int) -> None:
        """Count one HTTP response."""
        self._counters["http_responses"].labels(str(status)).inc()

    def render(self) -> bytes:
        """What `/metrics` answers, in Prometheus' text format."""
        return generate_latest(self)

    async def page(self) -> bytes:
        """As `render`, in a thread: reading energy counters may take its time."""
        return await asyncio.to_thread(self.render)

    def collect(self) -> Iterator[Metric]:
        """Every family with its series now."""
        for family in chain(self._registry.collect(), self._read()):
            family.samples = [
                one._replace(labels={"model_name": self._model_name, **one.labels})
                for one in family.samples
            ]
            yield family
        yield _build()
        yield from self._process.collect()

    def _read(self) -> Iterator[Metric]:
        """What is read at the time of a scrape: load, eager iterations, energy counters."""
        if self.load is not None:
            yield from _gauges(self.load())
        if self.eager_iterations is not None:
            text = "Iterations that were not replayed from a captured program."
            yield _counter("eager_iterations", text, "reason", self.eager_iterations())
        if self.prefix_cache_bytes is not None:
            text, num_bytes = "Keys and values of prompts that are kept.", self.prefix_cache_bytes()
            yield GaugeMetricFamily("mtad:prefix_cache_bytes", text, value=num_bytes)
        if self.energy and self.energy.is_metered:
            text = "Joules of the machine, idle power included."
            yield _counter("energy_joules", text, "device", self.energy.total_joules())


def _build() -> Metric:
    """A series that is always 1; its labels are the versions."""
    versions = {"torch": str(torch.__version__), "transformers": version("transformers")}
    text = "Versions of the server and of what it runs on."
    return InfoMetricFamily("mtad_build", text, value={"version": __version__, **versions})


def _gauges(load: Load) -> Iterator[Metric]:
    running = load.num_running + load.num_prefilling
    usage = load.slots_reserved / load.slots_total if load.slots_total else 0.0
    for name, text, value in (
        ("num_requests_running", "Texts in a batch or in the prefill.", running),
        ("num_requests_waiting", "Texts in the queue.", load.num_waiting),
        ("num_batches", "Batches; one per method with its options.", load.num_batches),
        ("kv_cache_usage_perc", "Share of the cache slots that are reserved, 1 is all.", usage),
    ):
        yield GaugeMetricFamily(f"mtad:{name}", text, value=value)


def _seconds_per_token(sequence: Sequence) -> float | None:
    """Mean seconds per token after the first; None for a text of one token."""
    first, last, num = (
        sequence.first_token_at,
        sequence.last_token_at,
        sequence.stats.num_output_tokens,
    )
    return None if first is None or last is None or num < 2 else (last - first) / (num - 1)


def _counter(name: str, text: str, label: str, counts: Mapping[str, int | float]) -> Metric:
    """A counter that something else keeps, with one series per label."""
    family = CounterMetricFamily(f"mtad:{name}", text, labels=[label])
    for value, count in dict(counts).items():  # a copy: another thread may add labels meanwhile
        family.add_metric([value], count)
    return family
