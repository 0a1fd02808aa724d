"""Spans of OpenTelemetry: one per request that decodes, with what it asked for and its times.

Attributes have the names of OpenTelemetry's conventions for generative models; those of times in
the server, for which there are none, have vLLM's. Prompts and texts are not among them. The
packages are imported where spans are wanted alone. Knows no route's inside.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mtad import __version__
from mtad.engine.stats import total
from mtad.errors import MtadError
from mtad.server.api.parsing import ParsedRequest
from mtad.server.http.middleware import NotingSend, request_id_of, state_of
from mtad.server.http.same import path_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Span, Tracer

PACKAGES = ("opentelemetry-api", "opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http")
"""What the extra `otel` installs."""
_GRPC_PACKAGE = "opentelemetry-exporter-otlp-proto-grpc"
_EXPORTERS = {
    name: f"opentelemetry.exporter.otlp.proto.{part}.trace_exporter"
    for name, part in (("http/protobuf", "http"), ("grpc", "grpc"))
}
_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SEND_S = 2.0
"""Seconds that a collector has for the last spans; a server does not wait longer to end."""
_COMPLETIONS = "/v1/completions"
_ROUTES = (_COMPLETIONS, "/v1/chat/completions")
"""Their refused requests have spans, too; of other routes those that came to be decoded."""
_LATENCY = "gen_ai.latency."


def require_packages() -> None:
    """Refuse to make spans without OpenTelemetry.

    Raises:
        MtadError: a package is not installed, or the environment names a protocol that is not
            spoken.
    """
    protocol = _protocol()
    try:
        for name in ("opentelemetry.sdk.trace.export", _EXPORTERS[protocol]):
            import_module(name)
    except ModuleNotFoundError as error:
        needed = (*PACKAGES, _GRPC_PACKAGE) if protocol == "grpc" else PACKAGES
        raise MtadError(
            f"otlp_traces_endpoint needs OpenTelemetry, and {error.name} is missing; run: pip "
            f"install {' '.join(needed)}"
        ) from error


def _protocol() -> str:
    """How spans are sent: as the environment says, by HTTP without."""
    for name in _VARIABLES:
        given = os.environ.get(name) or ""
        if given in _EXPORTERS:
            return given
        if given:
            spoken = " or ".join(_EXPORTERS)
            raise MtadError(f"{name} is {given!r}; spans are sent by {spoken}: give one of these")
    return "http/protobuf"


def exporting_to(endpoint: str) -> SpanProcessor:
    """Sends spans to a collector in batches, on a thread of its own, as OTLP.

    Args:
        endpoint: the whole URL; protocol, headers and time limits are those of the environment's
            `OTEL_EXPORTER_OTLP_…`.

    Raises:
        MtadError: see `require_packages`.
    """
    require_packages()
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = import_module(_EXPORTERS[_protocol()]).OTLPSpanExporter
    return BatchSpanProcessor(exporter(endpoint=endpoint))


def provider_of(processor: SpanProcessor) -> TracerProvider:
    """What makes spans; the environment's `OTEL_SERVICE_NAME` and its like win over `mtad`."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider

    own = Resource.create({"service.name": "mtad", "service.version": __version__})
    resource = own.merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return provider


def finish(provider: TracerProvider) -> None:
    """Send the spans that have not been sent, or give them up after `SEND_S` seconds."""
    sending = threading.Thread(target=provider.shutdown, name="mtad-spans", daemon=True)
    sending.start()
    sending.join(SEND_S)


@dataclass(frozen=True)
class Spans:
    """Makes a span of every request that decodes, once its answer is complete.

    Its parent is the client's, where the headers name one (`traceparent`).

    Attributes:
        app: the next ASGI application; it leaves the `ParsedRequest` in the request's state.
        tracer: makes the spans.
        model: what answers call the model.
    """

    app: ASGIApp
    tracer: Tracer
    model: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and note what came of it."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        route = path_of(scope).removesuffix("/")
        begun, noting = time.time_ns(), NotingSend(send)
        try:
            await self.app(scope, receive, noting)
        finally:
            if route in _ROUTES or "parsed" in state_of(scope):
                self._record(scope, route, begun, noting.status)

    def _record(self, scope: Scope, route: str, begun: int, status: int) -> None:
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind

        parsed: ParsedRequest | None = state_of(scope).get("parsed")
        asked = (parsed.body.model if parsed else None) or self.model
        operation = "text_completion" if route == _COMPLETIONS else "chat"
        attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "mtad",
            "gen_ai.request.model": asked,
            "gen_ai.response.model": self.model,
            "http.request.method": "POST",
            "http.route": route,
            "mtad.request_id": request_id_of(scope),
            **({"http.response.status_code": status} if status else {}),
            **(_of_texts(parsed) if parsed else {}),
        }
        span = self.tracer.start_span(
            f"{operation} {asked}",
            context=extract(dict(Headers(scope=scope))),
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=begun,
        )
        _judge(span, status, parsed)
        span.end()


def _of_texts(parsed: ParsedRequest) -> dict[str, Any]:
    """What was asked of the texts and what came of them, by the names of attributes."""
    sampling, texts = parsed.sequences[0].request.sampling, parsed.sequences
    stats = total(one.stats for one in texts)
    found = {
        "gen_ai.request.max_tokens": sampling.max_new_tokens,
        "gen_ai.request.temperature": float(sampling.temperature),
        "gen_ai.request.top_p": float(sampling.top_p),
        "gen_ai.request.top_k": float(sampling.top_k),
        "gen_ai.request.frequency_penalty": float(sampling.frequency_penalty),
        "gen_ai.request.presence_penalty": float(sampling.presence_penalty),
        "gen_ai.request.stream": bool(parsed.body.stream),
        "gen_ai.usage.input_tokens": parsed.prompt_tokens,
        "gen_ai.usage.output_tokens": stats.num_output_tokens,
        "gen_ai.response.finish_reasons": [str(one.outcome) for one in texts if one.outcome],
        "mtad.method": parsed.method.name,
    }
    if len(texts) > 1:
        found["gen_ai.request.choice.count"] = len(texts)
    if parsed.body.seed is not None:
        found["gen_ai.request.seed"] = parsed.body.seed
    if stats.mean_acceptance_length is not None:
        found["mtad.mean_acceptance_length"] = stats.mean_acceptance_length
    return found | _times(parsed)


def _times(parsed: ParsedRequest) -> dict[str, float]:
    """Seconds in the server, those of the slowest text; the first token is the first of any."""
    texts = [one for one in parsed.sequences if one.admitted_at is not None]
    if not texts:
        return {}
    found = {
        f"{_LATENCY}time_in_queue": max(one.queue_s for one in texts),
        f"{_LATENCY}time_in_model_prefill": max(one.stats.prefill_s for one in texts),
        f"{_LATENCY}time_in_model_decode": max(one.stats.decode_s for one in texts),
    }
    firsts = [one.first_token_at - one.arrived_at for one in texts if one.first_token_at]
    if firsts:
        found[f"{_LATENCY}time_to_first_token"] = min(firsts)
    ends = [one.ended_at - one.arrived_at for one in texts if one.ended_at]
    if ends:
        found[f"{_LATENCY}e2e"] = max(ends)
    return found


def _judge(span: Span, status: int, parsed: ParsedRequest | None) -> None:
    """Say of a request that failed why; the server's own failures make the span an error."""
    from opentelemetry.trace import StatusCode

    outcomes = [one.outcome for one in parsed.sequences] if parsed else []
    failed = [one for one in outcomes if one not in ("stop", "length", None)]
    if status >= 400:
        span.set_attribute("error.type", str(status))
    elif failed:  # a stream that had begun
        span.set_attribute("error.type", str(failed[0]))
    if status >= 500 or not status or {"error", "deadline", "closing"} & {*failed}:
        span.set_status(StatusCode.ERROR)
