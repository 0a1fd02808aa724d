"""Rows and cache slots: which jobs find room, and the batches that they are in.

Knows no thread and no listener.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from mtad.api.completion import Running
from mtad.api.pair import ModelPair
from mtad.core.buckets import bucket_of, power_of_two
from mtad.engine.request import size_of
from mtad.engine.session import Session
from mtad.model.kv_cache import free_bytes
from mtad.model.lm import PREFILL_TOKENS, context_of
from mtad.model.memory import slot_bytes
from mtad.server.scheduler.batch import Batch, Seat
from mtad.server.scheduler.jobs import Done, Job
from mtad.trace.writer import TraceWriter

SHARE = 0.8
"""Of the free memory, for caches, where nobody says how much they may take."""
CONTEXT = 4096
"""Slots of a text of models that set no limit to theirs."""
MOST_RECORDED = {"cpu": 8}
"""Rows up to which iterations are recorded, by kind of device. On a CPU larger batches gain little
by it, and have so many numbers of rows that they would be recorded all the time."""


@dataclass(frozen=True)
class Limits:
    """How much is decoded at once.

    Attributes:
        max_rows: texts, over all batches.
        cache_slots: sum over batches of rows times slots per row; None for what `max_rows` texts
            of the models' whole context need, as far as there is memory.
        max_queue: jobs that may wait.
    """

    max_rows: int = 32
    cache_slots: int | None = None
    max_queue: int = 256

    def __post_init__(self) -> None:
        """Refuse impossible limits."""
        for name in ("max_rows", "cache_slots", "max_queue"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")


@dataclass
class Room:
    """The batches, and how much may be in them.

    Attributes:
        pair: the models.
        max_rows: texts over all batches.
        slots: sum over batches of rows times slots per row.
        writer: given to the batches.
        batches: by what their jobs share.
    """

    pair: ModelPair
    max_rows: int
    slots: int
    writer: TraceWriter | None = None
    batches: dict[Hashable, Batch] = field(default_factory=dict)

    @classmethod
    def of(cls, pair: ModelPair, limits: Limits, writer: TraceWriter | None) -> Room:
        """Room as far as the limits allow."""
        slots = limits.cache_slots or _default_slots(pair, limits.max_rows)
        return cls(pair, limits.max_rows, slots, writer)

    @property
    def pads(self) -> bool:
        """Whether batches are filled up: a GPU hardly feels the copies, and needs the captures."""
        return self.pair.models.target.device.type == "cuda"

    @property
    def num_seats(self) -> int:
        """Texts in the batches."""
        return sum(len(batch.seats) for batch in list(self.batches.values()))

    @property
    def num_joining(self) -> int:
        """Those whose prompts are being read."""
        return sum(len(batch.reading) for batch in list(self.batches.values()))

    @property
    def used(self) -> int:
        """Slots that the batches have."""
        return sum(batch.session.slots_with([]) for batch in list(self.batches.values()))

    def seat(self, job: Job) -> Seat:
        """A job with its text, still empty."""
        work = job.work
        return Seat(job, Running.of(work.request, self.pair.tokenizer, work.stops))

    def choose(self, line: Iterable[Seat]) -> list[list[Seat]]:
        """Those at the head of the line that may join now, in groups of one batch.

        A group is as large as one chunk of the prefill; whoever waits for the next one, or for a
        batch that reads prompts already, may be passed. Nobody passes one who finds no room.
        """
        groups: dict[Hashable, list[Seat]] = {}
        num_free = self.max_rows - self.num_seats
        for seat in line:
            batch, group = self.batches.get(seat.key), groups.get(seat.key, [])
            if (batch and batch.reading) or not self._is_one_chunk([*group, seat]):
                continue
            wider = groups | {seat.key: [*group, seat]}
            if sum(map(len, wider.values())) > num_free or self._slots_with(wider) > self.slots:
                break
            groups = wider
        return list(groups.values())

    def _is_one_chunk(self, group: list[Seat]) -> bool:
        longest = max(len(seat.running.request.text_ids) for seat in group)
        most = PREFILL_TOKENS.get(self.pair.models.target.device.type, 256)
        return len(group) == 1 or len(group) * longest <= most

    def _slots_with(self, groups: dict[Hashable, list[Seat]]) -> int:
        """Slots of all batches, had these groups joined."""
        total = 0
        for key in self.batches.keys() | groups.keys():
            requests = [seat.running.request for seat in groups.get(key, [])]
            if batch := self.batches.get(key):
                total += batch.session.slots_with(requests)
            else:
                method, vocab = groups[key][0].job.work.method, self.pair.models.vocab
                rows, capacity = size_of(method, requests, vocab, self.pads)
                total += rows * capacity
        return total

    def admit(self, seats: list[Seat]) -> list[tuple[Seat, Done]]:
        """Let jobs of one batch join it; those that have nothing to do are done.

        Raises:
            CacheMemoryError: there is no memory for them; nothing has changed.
        """
        key, method = seats[0].key, seats[0].job.work.method
        batch = self.batches.get(key)
        if batch is None:
            m = self.pair.models
            session = Session(
                m.target,
                m.draft,
                method,
                [],
                m.vocab,
                graphs=self.pair.graphs,
                pads=self.pads,
                most_recorded=MOST_RECORDED.get(m.target.device.type),
            )
            batch = Batch(self.pair, session, self.writer)
        for seat in seats:
            work = seat.job.work
            if self.writer and not self.writer.error and not seat.trace_key:
                seat.trace_key = self.writer.request(work.request, method, work.request_id)
        busy = [seat for seat in seats if seat.running.request.num_left > 0]
        if busy:
            batch.admit(busy)
            self.batches[key] = batch
        return [(seat, batch.done(seat)) for seat in seats if seat not in busy]

    def dissolve(self, batch: Batch) -> list[Seat]:
        """The jobs of a batch that is given up."""
        self.batches = {key: b for key, b in self.batches.items() if b is not batch}
        return list(batch.seats.values())

    def tidy(self) -> None:
        """Give up the batches that have no jobs, and their caches."""
        self.batches = {key: batch for key, batch in self.batches.items() if batch.seats}


def _default_slots(pair: ModelPair, max_rows: int) -> int:
    """Slots for this many texts of the whole context, or as many as memory allows."""
    models = [model for model in (pair.models.target, pair.models.draft) if model is not None]
    context = min(context_of(model) or CONTEXT for model in models)
    wanted = power_of_two(max_rows) * bucket_of(context + 1)
    free = min(free_bytes(model.device) for model in models)
    return max(1, int(min(wanted, SHARE * free / sum(map(slot_bytes, models)))))
