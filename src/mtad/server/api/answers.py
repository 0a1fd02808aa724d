"""Answers of a request whose jobs are done: the choices, the usage, the figures, the contract.

Knows no scheduler and no HTTP.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mtad import __version__
from mtad.core.options import jsonable
from mtad.engine.stats import total
from mtad.server.api.forms import ChatForm, Form, Part, Result, TextForm
from mtad.server.api.methods_info import rule_of
from mtad.server.api.replies import AnswerMetrics, Contract, SpeculativeDecoding, Usage, Whole
from mtad.server.api.schema import ChatRequest
from mtad.server.api.service import Service
from mtad.server.api.translate import Order
from mtad.server.scheduler.jobs import Done, Job, Piece


@dataclass(frozen=True)
class Answer:
    """The answer to a request, as it comes.

    Attributes:
        service: what all routes share.
        order: what was asked for.
        form: how it is answered.
        results: one per choice.
        head: what the whole and every chunk begin with.
    """

    service: Service
    order: Order
    form: Form
    results: list[Result]
    head: dict[str, Any]

    @classmethod
    def to(cls, service: Service, order: Order, jobs: Sequence[Job]) -> Answer:
        """The answer to an order whose jobs have begun."""
        form: Form
        if isinstance(order.body, ChatRequest):
            form = ChatForm(service.texts)
        else:
            form = TextForm(service.texts, has_top=bool(order.body.logprobs))
        pairs = zip(jobs, order.echoes, strict=True)
        head = {
            "id": f"{form.prefix}{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": service.name,
            "system_fingerprint": f"mtad-{__version__}",
        }
        return cls(service, order, form, [Result(job, echo) for job, echo in pairs], head)

    def take(self, index: int, update: Piece | Done) -> None:
        """Add what is new of a choice."""
        result = self.results[index]
        if isinstance(update, Done):
            result.completion, result.queue_s = update.completion, update.queue_s
            return
        result.logprobs += update.logprobs
        if update.trace is not None:
            result.traces.append(dict(update.trace))

    def whole(self) -> Whole:
        """The answer in one piece; all choices must be done."""
        body, told = self.order.body, self.order.works[0].num_logprobs is not None
        parts = [
            Part(
                text=result.echo + result.done.text,
                logprobs=result.logprobs if told else None,
                token_ids=result.done.token_ids if body.return_token_ids else None,
                reason=result.reason,
            )
            for result in self.results
        ]
        traced = [result.traces for result in self.results] if body.trace else None
        rest = {"usage": self.usage(), "metrics": self.metrics(), "mtad": self.contract(traced)}
        return self.form.whole(parts, self.head | rest)

    def usage(self) -> Usage:
        """Tokens of prompts and choices."""
        prompt = self.order.prompt_tokens
        made = sum(len(result.done.token_ids) for result in self.results)
        return Usage(prompt_tokens=prompt, completion_tokens=made, total_tokens=prompt + made)

    def metrics(self) -> AnswerMetrics:
        """Counts and rates of drafting, summed over the choices."""
        told = total(result.done.stats for result in self.results).as_dict()
        names = SpeculativeDecoding.model_fields
        return AnswerMetrics(
            speculative_decoding=SpeculativeDecoding(**{n: told[n] for n in names})
        )

    def contract(self, traces: list[list[dict[str, Any]]] | None = None) -> Contract:
        """How the text was made and what it promises."""
        method, stats = self.order.method, [result.done.stats for result in self.results]
        joules, reason = self._energy()
        return Contract(
            method=method.name,
            options=jsonable(dataclasses.asdict(method)),
            lossless=method.is_lossless,
            rule=rule_of(type(method)),
            accept_threshold=jsonable(getattr(method, "accept_threshold", None)),
            seeds=[work.request.sampling.seed for work in self.order.works],
            queue_s=max(result.queue_s for result in self.results),
            prefill_s=max(one.prefill_s for one in stats),
            decode_s=max(one.decode_s for one in stats),
            energy_joules=joules,
            energy_reason=reason,
            **({} if traces is None else {"trace": traces}),
        )

    def _energy(self) -> tuple[float | None, str | None]:
        """Joules of all choices together, or why there are none."""
        if self.service.energy is None:
            return None, "this server has no energy meter"
        jobs, now = [result.job for result in self.results], time.monotonic()
        begun = min(job.arrived_at if job.admitted_at is None else job.admitted_at for job in jobs)
        ended = max(now if job.ended_at is None else job.ended_at for job in jobs)
        num_tokens = sum(len(result.done.token_ids) for result in self.results)
        return self.service.energy.share(num_tokens, begun, ended)
