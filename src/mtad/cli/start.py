"""What a command needs before it decodes: the method, the models, a seed and the first message."""

from __future__ import annotations

import re
import secrets

import typer

from mtad.api.guard import wants_guard
from mtad.api.pair import ModelPair, open_pair
from mtad.cli.options import make_method
from mtad.cli.settings import DecodingSettings
from mtad.core.prompt import Message, require_characters
from mtad.errors import PromptError
from mtad.methods import require_draft
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method

_BYTE = re.compile("[\udc80-\udcff]")
"""A byte that was no UTF-8, as the error handler "surrogateescape" writes it."""


def checked_method(settings: DecodingSettings) -> Method:
    """The method that the settings name, checked.

    Raises:
        ValueError: there is no such method, or it doesn't go with the settings.
    """
    method = make_method(settings)
    check_method(method, settings)
    return method


def check_method(method: Method, settings: DecodingSettings) -> None:
    """Refuse a method that doesn't go with sampling, models or guard."""
    params = SamplingParams(**settings.sampling)
    method.check(params)
    require_draft(method, settings.has_draft)
    wants_guard(method, settings.guard, settings.seed is not None, params.temperature == 0)


def load(settings: DecodingSettings) -> ModelPair:
    """The models that the settings name, the embedded pair if none."""
    pair = open_pair(
        settings.target_model, settings.draft_model, settings.pair, **settings.placement
    )
    for note in pair.models.notes:
        typer.echo(note, err=True)
    return pair


def new_seed(seed: int | None) -> int:
    """The seed, or a random one that is short enough to type."""
    return secrets.randbits(32) if seed is None else seed


def system_message(settings: DecodingSettings) -> list[Message]:
    """The chat's first message, if one was given."""
    return [] if settings.system is None else [{"role": "system", "content": settings.system}]


def require_utf8(text: str, what: str) -> None:
    """Refuse a text made of bytes that are not UTF-8, which Python reads as surrogates.

    Raises:
        PromptError: names the first such byte and its place among the bytes, from 0.
    """
    if found := _BYTE.search(text):
        byte, start = ord(found[0]) - 0xDC00, len(text[: found.start()].encode(errors="replace"))
        raise PromptError(f"{what} is not UTF-8: byte {start} is 0x{byte:02X}; give it as UTF-8")
    require_characters(text, what)
