"""Spans of OpenTelemetry, as its SDK exports them."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from support.command import refused
from support.serving import Served, demo, serving, wait_for

from mtad.measure.meter import Meter
from mtad.server import run
from mtad.server.http.keys import Keys
from mtad.server.ops.spans import PACKAGES, Spans, exporting_to
from mtad.server.settings import ServerSettings

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PREFIX = "OTEL_EXPORTER_OTLP_"
PACKAGE = "opentelemetry.exporter.otlp.proto"
SPANS = ("serve", "--otlp-traces-endpoint", "http://localhost:4318/v1/traces", "--port", "0")
BODY = {"model": "demo", "prompt": [5] * 20, "max_tokens": 4, "ignore_eos": True, "seed": 3}


@contextmanager
def traced(
    monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> Iterator[tuple[Served, InMemorySpanExporter]]:
    """The server as it is assembled, whose spans stay in memory."""
    kept = InMemorySpanExporter()
    monkeypatch.setattr(run, "exporting_to", lambda endpoint: SimpleSpanProcessor(kept))
    chosen = ServerSettings(otlp_traces_endpoint="http://127.0.0.1:9/v1/traces", **settings)
    served = run.assemble(demo(), chosen, Meter(None, "not metered here"), Keys())
    served.start()
    try:
        with serving(served.app, served.scheduler, chosen) as listening:
            yield listening, kept
    finally:
        served.close()


def spans_of(kept: InMemorySpanExporter, count: int) -> list[ReadableSpan]:
    """So many spans; they end shortly after the answer."""
    wait_for(lambda: len(kept.get_finished_spans()) >= count)
    found = list(kept.get_finished_spans())
    assert len(found) == count
    kept.clear()
    return found


@pytest.mark.slow
def test_a_span_has_what_a_request_asked_for_and_what_it_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with traced(monkeypatch) as (server, kept), server.client() as client:
        sampling = {"temperature": 0.5, "top_p": 0.75, "top_k": 9, "presence_penalty": 0.25}
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "mine"}
        begun = time.time_ns()
        answer = client.post("/v1/completions", json=BODY | sampling, headers=headers)
        assert answer.status_code == 200
        [span] = spans_of(kept, 1)
        assert span.name == "text_completion demo" and span.kind is SpanKind.SERVER
        assert span.parent is not None and span.context is not None
        assert f"{span.parent.span_id:016x}" == PARENT
        assert f"{span.context.trace_id:032x}" == TRACE
        assert span.start_time and span.end_time
        assert begun <= span.start_time < span.end_time <= time.time_ns()
        assert span.status.status_code is StatusCode.UNSET
        found = dict(span.attributes or {})
        took = {n: found.pop(n) for n in list(found) if n.startswith("gen_ai.latency.")}
        told = answer.json()["mtad"]
        length = found.pop("mtad.mean_acceptance_length")
        assert length == answer.json()["metrics"]["speculative_decoding"]["mean_acceptance_length"]
        assert found == {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.provider.name": "mtad",
            "gen_ai.request.model": "demo",
            "gen_ai.response.model": "demo",
            "gen_ai.request.max_tokens": 4,
            "gen_ai.request.temperature": 0.5,
            "gen_ai.request.top_p": 0.75,
            "gen_ai.request.top_k": 9.0,
            "gen_ai.request.frequency_penalty": 0.0,
            "gen_ai.request.presence_penalty": 0.25,
            "gen_ai.request.seed": 3,
            "gen_ai.request.stream": False,
            "gen_ai.usage.input_tokens": 20,
            "gen_ai.usage.output_tokens": 4,
            "gen_ai.response.finish_reasons": ("length",),
            "http.request.method": "POST",
            "http.route": "/v1/completions",
            "http.response.status_code": 200,
            "mtad.request_id": "mine",
            "mtad.method": "mtad",
        }
        assert took["gen_ai.latency.time_in_queue"] == told["queue_s"]
        assert took["gen_ai.latency.time_in_model_prefill"] == told["prefill_s"]
        assert took["gen_ai.latency.time_in_model_decode"] == told["decode_s"]
        first, whole = took["gen_ai.latency.time_to_first_token"], took["gen_ai.latency.e2e"]
        assert told["queue_s"] < first <= whole < (span.end_time - span.start_time) / 1e9


@pytest.mark.slow
def test_chats_streams_and_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    with traced(monkeypatch, served_model_name=("a", "b")) as (server, kept):
        with server.client() as client:
            body = {"model": "b", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
            more = {"n": 2, "stream": True, "ignore_eos": True}
            asked = {**body, **more, "stream_options": {"include_usage": True}}
            with client.stream("POST", "/v1/chat/completions/", json=asked) as answer:
                lines = [line for line in answer.iter_lines() if '"usage":{' in line]
            [span] = spans_of(kept, 1)
        found = span.attributes or {}
        assert span.name == "chat b" and span.parent is None
        assert (found["gen_ai.request.model"], found["gen_ai.response.model"]) == ("b", "a")
        assert found["gen_ai.request.stream"] is True
        assert found["gen_ai.request.choice.count"] == 2
        assert found["gen_ai.usage.output_tokens"] == 6
        assert f'"prompt_tokens":{found["gen_ai.usage.input_tokens"]},' in lines[-1]
        assert found["gen_ai.response.finish_reasons"] == ("length", "length")
        assert "gen_ai.request.seed" not in found


@pytest.mark.slow
def test_requests_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    with traced(monkeypatch) as (server, kept), server.client() as client:
        assert client.post("/v1/completions", json=BODY | {"temperature": 9}).status_code == 400
        [wrong] = spans_of(kept, 1)
        assert (wrong.attributes or {})["error.type"] == "400"
        assert wrong.status.status_code is StatusCode.UNSET, "the client's fault"
        late = {**BODY, "timeout_s": 1e-6}
        assert client.post("/v1/completions", json=late).status_code == 504
        [span] = spans_of(kept, 1)
        assert (span.attributes or {})["error.type"] == "504"
        assert span.status.status_code is StatusCode.ERROR


@pytest.mark.slow
def test_what_does_not_decode_has_no_span(monkeypatch: pytest.MonkeyPatch) -> None:
    with traced(monkeypatch) as (server, kept), server.client() as client:
        for path in ("/health", "/metrics", "/v1/models", "/"):
            assert client.get(path).status_code == 200
        assert client.post("/tokenize", json={"model": "demo", "prompt": "x"}).status_code == 200
        assert client.post("/v1/completions", json=BODY).status_code == 200
        [span] = spans_of(kept, 1)
        assert span.name == "text_completion demo"


class _Collector(BaseHTTPRequestHandler):
    """Keeps what it is sent."""

    got: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        self.got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def answered(endpoint: str) -> Any:
    """A server that sends its spans there and has answered one request."""
    chosen = ServerSettings(otlp_traces_endpoint=endpoint)
    served = run.assemble(demo(), chosen, Meter(None, "not metered here"), Keys())
    served.start()
    with serving(served.app, served.scheduler, chosen) as listening:
        assert httpx.post(
            f"{listening.url}/v1/completions", json=BODY, trust_env=False, timeout=60
        ).is_success
    return served


@pytest.mark.slow
def test_a_collector_gets_the_spans_when_the_server_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    handler = type("Handler", (_Collector,), {"got": []})
    with HTTPServer(("127.0.0.1", 0), handler) as collector:
        thread = Thread(target=collector.serve_forever)
        thread.start()
        endpoint = f"http://127.0.0.1:{collector.server_port}/v1/traces"
        served = answered(endpoint)
        served.close()
        collector.shutdown()
        thread.join()
    [(path, data)] = handler.got  # type: ignore[attr-defined]
    assert path == "/v1/traces"
    sent = ExportTraceServiceRequest.FromString(data)
    [whole] = sent.resource_spans
    names = {one.key: one.value.string_value for one in whole.resource.attributes}
    assert names["service.name"] == "mtad"
    [span] = whole.scope_spans[0].spans
    assert span.name == "text_completion demo"


@pytest.mark.slow
def test_a_collector_that_does_not_answer_keeps_no_server_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mtad.server.ops.spans.SEND_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces"
        served = answered(endpoint)
        begun = time.monotonic()
        served.close()
        assert time.monotonic() - begun < 3
        [sending] = [one for one in threading.enumerate() if one.name == "mtad-spans"]
        with silent.accept()[0] as late:  # else its exporter would complain after the tests' end
            late.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            sending.join(10)
    assert not sending.is_alive()


class _GrpcCollector:
    """Stands for the exporter of a package that is not installed here."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def shutdown(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("variable", [f"{PREFIX}PROTOCOL", f"{PREFIX}TRACES_PROTOCOL"])
def test_the_environment_chooses_grpc(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "grpc")
    module = SimpleNamespace(OTLPSpanExporter=_GrpcCollector)
    monkeypatch.setitem(sys.modules, f"{PACKAGE}.grpc.trace_exporter", module)
    processor: Any = exporting_to("http://localhost:4317")
    assert isinstance(processor.span_exporter, _GrpcCollector)
    assert processor.span_exporter.endpoint == "http://localhost:4317"
    processor.shutdown()
    monkeypatch.setitem(sys.modules, f"{PACKAGE}.grpc.trace_exporter", None)
    message = refused(*SPANS, code=1)
    assert "otlp_traces_endpoint needs OpenTelemetry" in message
    assert message.endswith("opentelemetry-exporter-otlp-proto-grpc")


def test_the_protocol_of_traces_wins_over_that_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(f"{PREFIX}PROTOCOL", "grpc")
    monkeypatch.setenv(f"{PREFIX}TRACES_PROTOCOL", "http/protobuf")
    processor: Any = exporting_to("http://localhost:4318/v1/traces")
    assert isinstance(processor.span_exporter, OTLPSpanExporter)
    processor.shutdown()


def test_a_protocol_that_is_not_spoken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}PROTOCOL", "http/json")
    assert (
        "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json'; spans are sent by http/protobuf or grpc"
    ) in refused(*SPANS, code=1)


def test_a_collector_gets_the_spans_by_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    grpc = pytest.importorskip("grpc")
    pytest.importorskip(f"{PACKAGE}.grpc.trace_exporter")
    got: list[bytes] = []
    method = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            assert details.method == method
            return grpc.unary_unary_rpc_method_handler(lambda data, _: got.append(data) or b"")

    with ThreadPoolExecutor(1) as pool:
        collector = grpc.server(pool, handlers=(Handler(),))
        port = collector.add_insecure_port("127.0.0.1:0")
        collector.start()
        monkeypatch.setenv(f"{PREFIX}PROTOCOL", "grpc")
        answered(f"http://127.0.0.1:{port}").close()
        collector.stop(None).wait()
    [whole] = ExportTraceServiceRequest.FromString(got[0]).resource_spans
    assert [span.name for span in whole.scope_spans[0].spans] == ["text_completion demo"]


def test_without_the_packages_the_command_to_install_them_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, f"{PACKAGE}.http.trace_exporter", None)
    message = refused(*SPANS, code=1)
    assert "otlp_traces_endpoint needs OpenTelemetry" in message
    assert f"run: pip install {' '.join(PACKAGES)}" in message


@pytest.mark.parametrize("given", ["localhost:4318", "grpc://localhost:4317", "http://", ""])
def test_what_is_no_endpoint(given: str) -> None:
    with pytest.raises(ValueError, match=r"otlp_traces_endpoint is .*; it must be a URL, such as"):
        ServerSettings(otlp_traces_endpoint=given)


def test_without_the_flag_no_span_is_made() -> None:
    served = run.assemble(demo(), ServerSettings(), Meter(None, "not metered here"), Keys())
    assert not isinstance(served.app, Spans) and served.spans is None
    served.close()
