"""Response models: OpenAI's shapes with the additions of mtad.

Knows no model.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import Field

from mtad.server.api.call_models import ResponseModel, ToolCall, ToolCallDelta
from mtad.server.scheduler.sequence import FinishReason

ChatFinishReason: TypeAlias = FinishReason | Literal["tool_calls"]


class ErrorDetail(ResponseModel):
    """What went wrong, for people and for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(ResponseModel):
    """The shape of every error."""

    error: ErrorDetail


class PromptTokensDetails(ResponseModel):
    """How many of the prompts' tokens were not read, as a text before began with them."""

    cached_tokens: int


class Usage(ResponseModel):
    """Tokens of all choices; each prompt counts once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TopLogprob(ResponseModel):
    """One of the most likely tokens; -9999 stands for minus infinity."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of the text, and the most likely ones at its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(ResponseModel):
    """Log-probabilities of the target before penalties, temperature and truncation."""

    content: list[TokenLogprob]
    refusal: None


class TextLogprobs(ResponseModel):
    """The same in the format of completions."""

    tokens: list[str]
    token_logprobs: list[float | None] = Field(description="null for a prompt's first token.")
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int] = Field(description="Where in the text each token begins.")

    def followed_by(self, other: TextLogprobs) -> TextLogprobs:
        """These and then the other's."""
        tops = (self.top_logprobs, other.top_logprobs)
        return TextLogprobs(
            tokens=self.tokens + other.tokens,
            token_logprobs=self.token_logprobs + other.token_logprobs,
            top_logprobs=None if None in tops else [one for top in tops for one in top or ()],
            text_offset=self.text_offset + other.text_offset,
        )


class SpeculativeDecoding(ResponseModel):
    """Counts and rates, summed over the choices; null where there is nothing to divide by."""

    mean_acceptance_length: float | None
    draft_acceptance_rate: float | None
    acceptance_histogram: dict[str, int]
    num_spec_steps: int
    num_accepted_draft_tokens: int
    num_draft_tokens: int
    num_spec_tokens: int
    num_forced_tokens: int = Field(
        description="Those of the accepted tokens that a grammar forced and no model drafted."
    )
    num_plain_steps: int = Field(description="Those of the steps that a guard made without draft.")
    num_empty_steps: int = Field(description="Those that committed nothing, in a search.")
    fallback: str | None = Field(description="Why a guard drafted nothing last, null if it did.")


class AnswerMetrics(ResponseModel):
    """Counts and rates of the iterations that made the text."""

    speculative_decoding: SpeculativeDecoding
    ignored: list[str] = Field([], description="Given parameters that had no effect, if any.")


class Contract(ResponseModel):
    """How the text was made and what it promises.

    Seconds are those of the slowest choice.
    """

    method: str
    options: dict[str, Any]
    lossless: bool = Field(
        description="Whether the text follows the distribution of the target, with the weights "
        "that it has here, exactly."
    )
    target_weights: str = Field(
        description="Form of the target's linear weights: plain or bf16 as they were loaded, or "
        "int8, which is another target."
    )
    draft_weights: str = Field(description="Form of the draft's.")
    rule: str
    accept_threshold: float | str | None
    grammar: str | None = Field(
        None,
        description="How the form of the text was given, if it was. The distribution is then that "
        "of the target without the tokens that the form excludes after the text so far.",
    )
    seeds: list[int] = Field(description="One per choice.")
    receipt: list[dict[str, float]] = Field(
        [], description="What the method kept of each choice, by name, if it keeps anything."
    )
    queue_s: float
    prefill_s: float
    decode_s: float
    energy_joules: float | None
    energy_reason: str | None = Field(description="Why there are no joules.")
    trace: list[list[dict[str, Any]]] = Field([], description="Iterations by choice, if asked for.")


class Iteration(ResponseModel):
    """One iteration of a traced stream."""

    trace: dict[str, Any]


class ChatMessage(ResponseModel):
    """What the model says."""

    role: Literal["assistant"]
    content: str | None = Field(description="null where there are only calls or thinking.")
    refusal: None
    reasoning_content: str = Field("", description="The thinking before it, if there is any.")
    tool_calls: list[ToolCall] = Field([], description="If there are any.")


class ChatChoice(ResponseModel):
    """One answer of a chat."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason
    token_ids: list[int] = Field([], description="If asked for.")


class Delta(ResponseModel):
    """What is new of a message."""

    role: Literal["assistant"] = "assistant"
    content: str = ""
    reasoning_content: str = ""
    tool_calls: list[ToolCallDelta] = Field(default=[])


class ChatDelta(ResponseModel):
    """A part of one answer of a chat."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason | None
    token_ids: list[int] = Field(default=[])

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing new."""
        said = self.delta
        return not (said.content or said.reasoning_content or said.tool_calls or self.token_ids)


class TextChoice(ResponseModel):
    """One completion."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason
    token_ids: list[int] = Field([], description="If asked for.")


class TextDelta(ResponseModel):
    """A part of one completion."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None
    token_ids: list[int] = Field(default=[])

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing new."""
        return not (self.text or self.token_ids)


class BaseCompletion(ResponseModel):
    """What both formats have."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage
    metrics: AnswerMetrics
    mtad: Contract


class ChatCompletion(BaseCompletion):
    """The answer to a chat."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class TextCompletion(BaseCompletion):
    """The answer to a completion request."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class BaseChunk(ResponseModel):
    """What the chunks of both formats have; `metrics` and the contract come with the last one."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage | None = None
    metrics: AnswerMetrics | None = None
    mtad: Contract | Iteration | None = None


class ChatChunk(BaseChunk):
    """An event of a streamed chat."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatDelta]


class TextChunk(BaseChunk):
    """An event of a streamed completion."""

    object: Literal["text_completion"]
    choices: list[TextDelta]
