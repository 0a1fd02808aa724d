"""What a command needs before it decodes: the models, a seed and the first message."""

from __future__ import annotations

import secrets

from mtad.api.pair import ModelPair, open_pair
from mtad.cli.settings import Settings
from mtad.core.prompt import Message


def load(settings: Settings) -> ModelPair:
    """The models that the settings name, the embedded pair if none."""
    return open_pair(settings.target_model, settings.draft_model, **settings.placement)


def new_seed(seed: int | None) -> int:
    """The seed, or a random one that is short enough to type."""
    return secrets.randbits(32) if seed is None else seed


def system_message(settings: Settings) -> list[Message]:
    """The chat's first message, if one was given."""
    return [] if settings.system is None else [{"role": "system", "content": settings.system}]
