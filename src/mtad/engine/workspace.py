"""What sessions of one pair of models share: KV caches and captured programs.

A session takes the caches that it needs and gives them back when it ends; the next one finds them,
and the programs that were captured with them. Two sessions at a time have two sets of caches. Knows
no method and no loop.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable
from itertools import count
from threading import RLock
from typing import TypeAlias

import torch

from mtad.model.drafter import Draft, Drafter
from mtad.model.head_drafter import HeadDrafter
from mtad.model.lm import LM, Model
from mtad.model.loading import Models
from mtad.model.prefix_cache import PrefixCache
from mtad.model.recurrent_head import RecurrentHead
from mtad.model.translated import TranslatedLM, lm_of
from mtad.runtime.cpu_tapes import Tapes
from mtad.runtime.cuda_graphs import Graphs

CapturedPrograms: TypeAlias = Tapes | Graphs
PREFIX_CACHE_MIB = 512
"""For keys and values of prompts, where nothing else is set."""


class Workspace:
    """The KV caches and captured programs of a pair of models.

    Args:
        programs: captures the iterations; None runs all of them eagerly.

    Attributes:
        programs: captures the iterations of the sessions that begin from now on.
        prefixes: keys and values of prompts, which all caches share; keeps none to begin with.
    """

    def __init__(self, programs: CapturedPrograms | None = None) -> None:
        self.prefixes = PrefixCache()
        self.programs: CapturedPrograms = programs or Graphs(None)
        self._number: weakref.WeakKeyDictionary[LM, int] = weakref.WeakKeyDictionary()
        self._numbers = count()
        self._idle: list[LM] = []
        self._lock = RLock()  # a session may be collected, and end, while another one takes

    @classmethod
    def of(cls, models: Models, prefix_cache_mib: int | None = None) -> Workspace:
        """A workspace that captures: tapes on a CPU, CUDA graphs on a GPU, nothing of parts.

        Args:
            models: the pair.
            prefix_cache_mib: as for `keep_prefixes`.

        Raises:
            ValueError: less than 0 MiB.
        """
        workspace = cls._capturing(models)
        workspace.keep_prefixes(models, prefix_cache_mib)
        return workspace

    @classmethod
    def _capturing(cls, models: Models) -> Workspace:
        if models.num_parts > 1:
            return cls(Graphs(None, f"the target is spread over {models.num_parts} processes"))
        if models.target.device.type == "cpu":
            return cls(Tapes())
        return cls(Graphs.on({weight.device for weight in models.target.parameters()}))

    @classmethod
    def alone(cls, target: Model) -> Workspace:
        """A workspace of one session, which captures CUDA graphs where the target is on one GPU."""
        return cls(Graphs.on({weight.device for weight in target.parameters()}))

    def keep_prefixes(self, models: Models, mib: int | None) -> None:
        """Bound the keys and values of prompts that are kept.

        Args:
            models: the pair. Of parts nothing is kept, as the memory of one process may be short
                where that of another is not.
            mib: of all of them together; 0 keeps none. None for `PREFIX_CACHE_MIB`, but 0 for a
                target in int8, whose texts then depend on what was kept.

        Raises:
            ValueError: it is less than 0.
        """
        if mib is None:
            mib = 0 if models.target_weights == "int8" else PREFIX_CACHE_MIB
        if mib < 0:
            raise ValueError(f"prefix_cache_mib is {mib}; it must be at least 0, which keeps none")
        self.prefixes.max_bytes = 0 if models.num_parts > 1 else mib << 20

    @property
    def idle_bytes(self) -> int:
        """Memory of the caches that no session has."""
        return sum(lm.memory_bytes for lm in list(self._idle))

    def take(
        self, target: Model, draft: Draft | None, vocab: int, drafts: str
    ) -> tuple[LM, Drafter | None]:
        """The target and the drafter of a session, without rows, until they are given back.

        Args:
            target, draft: the networks.
            vocab: number of token ids in use.
            drafts: which of them drafts: "target", "draft", or "none" for neither.
        """
        if drafts != "draft" or draft is None:
            scores = self._take(target, "target", vocab)
            return scores, scores if drafts == "target" else None
        if isinstance(draft, RecurrentHead):
            scores = self._take(target, "target", vocab, keeps_hidden=True)
            return scores, HeadDrafter(draft, "draft", vocab, scores)
        return self._take(target, "target", vocab), self._take(draft, "draft", vocab)

    def _take(self, model: Model, name: str, vocab: int, keeps_hidden: bool = False) -> LM:
        """An empty cache of a model, the oldest idle one if there is one.

        The oldest one is that which the session before had: captured programs are bound to it.
        """
        with self._lock:
            wanted = (model, name, vocab)
            fitting = [lm for lm in self._idle if (lm.model, lm.name, lm.vocab) == wanted]
            if fitting:
                lm = min(fitting, key=self._number.__getitem__)
                self._idle.remove(lm)
                lm.clear(keeps_hidden)
                return lm
            lm = lm_of(*wanted, keeps_hidden)
            lm.before_allocation(_calling(self))
            lm.share_prefixes(self.prefixes)
            if isinstance(lm, TranslatedLM):
                lm.on_growth = _growing(self, lm)
            self._number[lm] = next(self._numbers)
            return lm

    def give_back(self, lms: Iterable[Drafter]) -> None:
        """Keep these caches for the sessions to come; what they hold may be overwritten."""
        with self._lock:
            self._idle += [lm for lm in lms if isinstance(lm, LM)]

    def reserve(self, lms: Collection[Drafter], num_rows: int, capacity: int) -> None:
        """Make room for so many rows and slots in every cache; what they hold stays.

        Raises:
            CacheMemoryError: there is no memory for all of them; nothing has changed.
        """
        before = _addresses(lms)
        try:
            sizes = [(lm, lm.resized(num_rows, capacity)) for lm in lms]
            for lm, size in sizes:
                lm.resize(size)
        finally:
            if gone := before - _addresses(lms):
                self.programs.forget(gone)

    def free_idle(self) -> None:
        """Free the caches that no session has, and the programs that are bound to them.

        Happens by itself before a cache asks for memory.
        """
        with self._lock:
            idle, self._idle = self._idle, []
        if idle:
            self.programs.forget(_addresses(idle))

    def programs_for(self, devices: Collection[torch.device]) -> CapturedPrograms:
        """What captures the iterations of models on these devices."""
        if isinstance(self.programs, Graphs):
            return self.programs.on_devices(devices)
        return self.programs


def _calling(workspace: Workspace) -> Callable[[], None]:
    """`free_idle` of a workspace that is there still; the caches of one that is not are freed."""
    found = weakref.ref(workspace)

    def call() -> None:
        if (there := found()) is not None:
            there.free_idle()

    return call


def _growing(workspace: Workspace, lm: LM) -> Callable[[int], object]:
    """What makes room for so many slots in the rows of a cache."""
    cache, found = weakref.ref(lm), weakref.ref(workspace)

    def call(capacity: int) -> None:
        lm, there = cache(), found()
        assert lm is not None and there is not None
        there.reserve([lm], lm.max_rows, capacity)

    return call


def _addresses(lms: Iterable[Drafter]) -> set[int]:
    return {address for lm in lms for address in lm.addresses}
