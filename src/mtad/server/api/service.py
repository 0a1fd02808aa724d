"""What all routes share: the scheduler, the settings, and what follows from both.

Knows no route.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import anyio

from mtad.api.pair import ModelPair
from mtad.measure.sharing import SharedEnergy
from mtad.model.drafter import Draft
from mtad.model.lm import context_of
from mtad.model.loading import Models
from mtad.server.api.methods_info import known_methods
from mtad.server.api.tokenizing import Texts, read_template
from mtad.server.scheduler.events import Load
from mtad.server.scheduler.sequence import Sequence
from mtad.server.settings import ServerSettings
from mtad.speculative.method import Method


@runtime_checkable
class Decodes(Protocol):
    """What the routes ask of a scheduler; see `mtad.server.scheduler.scheduler.Scheduler`."""

    pair: ModelPair

    def submit(self, sequences: Items[Sequence]) -> None:
        """Take all sequences or none; their sinks are called on another thread."""

    def cancel(self, sequence: Sequence) -> None:
        """Send no more of a sequence; from any thread, at any time."""

    @property
    def load(self) -> Load:
        """How busy it is."""


@dataclass(frozen=True)
class Service:
    """What all routes share.

    Attributes:
        scheduler: decodes.
        settings: limits and defaults.
        names: what clients may call the model.
        texts: the tokenizer.
        sampling: settings of requests that do not give them, as `SamplingParams` has them.
        methods: those that requests may name.
        energy: None where nothing is metered.
        created: when the service began, in Unix seconds.
        compiling: how many requests may wait in threads for the form that their texts are to have.
    """

    scheduler: Decodes
    settings: ServerSettings
    names: tuple[str, ...]
    texts: Texts
    sampling: dict[str, Any]
    methods: dict[str, type[Method]]
    energy: SharedEnergy | None
    created: int
    compiling: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(16))

    @classmethod
    def of(
        cls, scheduler: Decodes, settings: ServerSettings, energy: SharedEnergy | None
    ) -> Service:
        """The service of a scheduler.

        Raises:
            DataError: the chat template of the settings cannot be used.
        """
        models = scheduler.pair.models
        return cls(
            scheduler=scheduler,
            settings=settings,
            names=served_names(settings),
            texts=Texts(
                models.tokenizer,
                models.tokenizer_error,
                read_template(settings.chat_template),
                settings.tool_call_parser,
            ),
            sampling=settings.sampling,
            methods=known_methods(settings.method, settings.allowed_methods),
            energy=energy,
            created=int(time.time()),
        )

    @property
    def name(self) -> str:
        """What answers call the model."""
        return self.names[0]

    @property
    def models(self) -> Models:
        """Target and draft."""
        return self.scheduler.pair.models

    def context(self, method: Method | None = None) -> int | None:
        """Tokens of prompt and text together; None if unlimited.

        As many as all models of a method can read, the target if None, and `max_model_len`.
        """
        models: list[Draft] = [self.models.target]
        if method is not None and method.drafted_by == "draft" and self.models.draft is not None:
            models.append(self.models.draft)
        limits = (*map(context_of, models), self.settings.max_model_len)
        return min((limit for limit in limits if limit is not None), default=None)

    def max_tokens(self, method: Method | None = None) -> int | None:
        """Most new tokens that a request may name; None if neither flag nor context limits it."""
        limits = (self.settings.max_new_tokens, self.context(method))
        return min((limit for limit in limits if limit is not None), default=None)


def served_names(settings: ServerSettings) -> tuple[str, ...]:
    """What clients may call the model: as the settings say, else the target's name."""
    if settings.served_model_name:
        return tuple(settings.served_model_name)
    if settings.target_model is None:
        return (settings.name,)
    place = Path(settings.target_model)
    if place.is_dir():
        return (place.resolve().name,)
    return (place.stem if place.is_file() else settings.target_model,)


def served_name(settings: ServerSettings) -> str:
    """What answers call the model."""
    return served_names(settings)[0]
