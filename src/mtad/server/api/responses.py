"""The response to one request: its choices in their format, with usage, metrics and contract.

Knows no scheduler and no HTTP.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Sequence as Items
from typing import Any

from mtad import __version__
from mtad.core.options import jsonable
from mtad.engine.stats import total
from mtad.server.api.formats import ChatFormat, Format, TextFormat
from mtad.server.api.ignored import ignored
from mtad.server.api.methods_info import rule_of
from mtad.server.api.parsing import ParsedRequest
from mtad.server.api.request_models import ChatRequest
from mtad.server.api.response_models import (
    AnswerMetrics,
    BaseCompletion,
    Contract,
    PromptTokensDetails,
    SpeculativeDecoding,
    Usage,
)
from mtad.server.api.service import Service
from mtad.server.api.tokenizing import Texts
from mtad.server.scheduler.sequence import Chunk


def format_of(parsed: ParsedRequest, texts: Texts) -> Format:
    """The format of the response to a request."""
    body = parsed.body
    has_ids = bool(body.return_token_ids)
    if isinstance(body, ChatRequest):
        return ChatFormat(texts, bool(body.logprobs), has_ids, parsed.reading)
    return TextFormat(texts, body.logprobs is not None, has_ids, has_top=bool(body.logprobs))


class ResponseBuilder:
    """Builds the response to a request; what it says of the texts is final once they have ended.

    Args:
        service: what all routes share.
        parsed: the request.

    Attributes:
        parsed: as given.
        format: of the response.
        head: what the whole and every chunk begin with.
    """

    def __init__(self, service: Service, parsed: ParsedRequest) -> None:
        self.parsed, self._service = parsed, service
        self.format = format_of(parsed, service.texts)
        self.head: dict[str, Any] = {
            "id": f"{self.format.prefix}{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": service.name,
            "system_fingerprint": f"mtad-{__version__}",
        }

    def whole(self, chunks: Items[Items[Chunk]]) -> BaseCompletion:
        """The response in one piece, from all chunks of each choice."""
        joined = [Chunk.joined(one) for one in chunks]
        pairs = zip(joined, self.parsed.echoes, strict=True)
        choices = [self.format.choice(chunk, echo) for chunk, echo in pairs]
        traces = [list(map(dict, chunk.trace)) for chunk in joined]
        rest = {
            "usage": self.usage(),
            "metrics": self.metrics(),
            "mtad": self.contract(traces if self.parsed.body.trace else None),
        }
        return self.format.whole(choices, self.head | rest)

    def usage(self, num_tokens: int | None = None) -> Usage:
        """Tokens of prompts and choices; `num_tokens` where not all that were made were sent."""
        prompt = self.parsed.prompt_tokens
        made = self._num_tokens if num_tokens is None else num_tokens
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=made,
            total_tokens=prompt + made,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=self._num_cached),
        )

    @property
    def _num_cached(self) -> int:
        """Of each prompt the tokens that not even its first choice read."""
        firsts = self.parsed.sequences[:: self.parsed.body.n or 1]
        return sum(sequence.stats.num_cached_tokens for sequence in firsts)

    @property
    def _num_tokens(self) -> int:
        return sum(sequence.stats.num_output_tokens for sequence in self.parsed.sequences)

    def metrics(self) -> AnswerMetrics:
        """Counts and rates of the iterations, summed over the choices."""
        stats = total(sequence.stats for sequence in self.parsed.sequences).as_dict()
        given = {name: stats[name] for name in SpeculativeDecoding.model_fields}
        without = ignored(self.parsed.body, self._service.texts.template)
        more = {"ignored": without} if without else {}
        return AnswerMetrics(speculative_decoding=SpeculativeDecoding(**given), **more)

    def contract(self, traces: list[list[dict[str, Any]]] | None = None) -> Contract:
        """How the text was made and what it promises."""
        sequences, method = self.parsed.sequences, self.parsed.method
        joules, reason = self._energy()
        more: dict[str, Any] = {} if traces is None else {"trace": traces}
        if method.entries:
            more["receipt"] = [sequence.stats.receipt for sequence in sequences]
        if form := self.parsed.form:
            more["grammar"] = "tools" if form.param == "tools" else form.grammar.kind
        return Contract(
            method=method.name,
            options=jsonable(dataclasses.asdict(method)),
            lossless=method.is_lossless,
            target_weights=self._service.models.target_weights,
            draft_weights=self._service.models.draft_weights,
            rule=rule_of(type(method)),
            accept_threshold=jsonable(getattr(method, "accept_threshold", None)),
            seeds=[sequence.request.sampling.seed for sequence in sequences],
            queue_s=max(sequence.queue_s for sequence in sequences),
            prefill_s=max(sequence.stats.prefill_s for sequence in sequences),
            decode_s=max(sequence.stats.decode_s for sequence in sequences),
            energy_joules=joules,
            energy_reason=reason,
            **more,
        )

    def _energy(self) -> tuple[float | None, str | None]:
        """Joules of all choices together, or why there are none."""
        if self._service.energy is None:
            return None, "this server has no energy meter"
        return self._service.energy.share(self.parsed.sequences, self._num_tokens)
