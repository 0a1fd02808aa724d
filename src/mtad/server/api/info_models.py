"""Response models of what the server says of itself: its models, health, version and tokens.

Knows no model.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mtad.server.api.call_models import ResponseModel


class ModelCard(ResponseModel):
    """The served pair."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None = Field(description="Tokens of prompt and text together.")


class ModelList(ResponseModel):
    """The served pair, under each of its names."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(ResponseModel):
    """That all is well."""

    status: Literal["alive", "ready"]


class Version(ResponseModel):
    """What is running."""

    version: str


class Tokens(ResponseModel):
    """A text as token ids."""

    tokens: list[int]
    count: int
    max_model_len: int | None


class TokenizerInfo(ResponseModel):
    """What a client needs to prepare prompts itself."""

    tokenizer_class: str
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    chat_template: str | None
    model_max_length: int | None


class Detokenized(ResponseModel):
    """Token ids as text."""

    prompt: str
