"""What the server answers, in OpenAI's shapes with the additions of mtad.

Knows no model and no scheduler.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

FinishReason: TypeAlias = Literal["stop", "length"]


class Reply(BaseModel):
    """Base of all that is answered; a field that was not set is left out of the JSON."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    def as_json(self) -> str:
        """The JSON text."""
        return self.model_dump_json(exclude_unset=True)


class ErrorDetail(Reply):
    """What went wrong, for people and for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Reply):
    """The shape of every error."""

    error: ErrorDetail


class Usage(Reply):
    """Tokens of all choices; each prompt counts once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopLogprob(Reply):
    """One of the most likely tokens; -9999 stands for minus infinity."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of the text, and the most likely ones at its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Reply):
    """The target's law before penalties, temperature and truncation."""

    content: list[TokenLogprob]
    refusal: None


class TextLogprobs(Reply):
    """The same in the form of completions."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class SpeculativeDecoding(Reply):
    """Counts and rates, summed over the choices; null where there is nothing to divide by."""

    mean_acceptance_length: float | None
    draft_acceptance_rate: float | None
    acceptance_histogram: dict[str, int]
    num_spec_steps: int
    num_accepted_draft_tokens: int
    num_draft_tokens: int
    num_spec_tokens: int


class AnswerMetrics(Reply):
    """What happened while the text was made."""

    speculative_decoding: SpeculativeDecoding


class Contract(Reply):
    """How the text was made and what it promises.

    Seconds are those of the slowest choice.
    """

    method: str
    options: dict[str, Any]
    lossless: bool = Field(description="Whether the text follows the target's law exactly.")
    rule: str
    accept_threshold: float | str | None
    seeds: list[int] = Field(description="One per choice.")
    queue_s: float
    prefill_s: float
    decode_s: float
    energy_joules: float | None
    energy_reason: str | None = Field(description="Why there are no joules.")
    trace: list[list[dict[str, Any]]] = Field([], description="Iterations by choice, if asked for.")


class Iteration(Reply):
    """One iteration of a traced stream."""

    trace: dict[str, Any]


class ChatMessage(Reply):
    """What the model says."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Reply):
    """One answer of a chat."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    token_ids: list[int] = Field([], description="If asked for.")


class Delta(Reply):
    """What is new of a message."""

    role: Literal["assistant"] = "assistant"
    content: str = ""


class ChatDelta(Reply):
    """A part of one answer of a chat."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    token_ids: list[int] = []


class TextChoice(Reply):
    """One completion."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason
    token_ids: list[int] = Field([], description="If asked for.")


class TextDelta(Reply):
    """A part of one completion."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None
    token_ids: list[int] = []


class Whole(Reply):
    """What both kinds of answers have."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage
    metrics: AnswerMetrics
    mtad: Contract


class ChatCompletion(Whole):
    """The answer to a chat."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class TextCompletion(Whole):
    """The answer to a completion request."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class Chunk(Reply):
    """What both kinds of chunks have; `metrics` and the contract come with the last one."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage | None = None
    metrics: AnswerMetrics | None = None
    mtad: Contract | Iteration | None = None


class ChatChunk(Chunk):
    """An event of a streamed chat."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatDelta]


class TextChunk(Chunk):
    """An event of a streamed completion."""

    object: Literal["text_completion"]
    choices: list[TextDelta]


class ModelCard(Reply):
    """The served pair."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None = Field(description="Tokens of prompt and text together.")


class ModelList(Reply):
    """The served pair, as a list."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(Reply):
    """That all is well."""

    status: Literal["alive", "ready"]


class Version(Reply):
    """What is running."""

    version: str


class Tokens(Reply):
    """A text as token ids."""

    tokens: list[int]
    count: int
    max_model_len: int | None


class Detokenized(Reply):
    """Token ids as text."""

    prompt: str
