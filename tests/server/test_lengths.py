"""`max_model_len`: how long a prompt and its text may be together."""

from __future__ import annotations

from typing import Any

import pytest
from support.serving import demo, fake_server
from support.site import error

import mtad
from mtad.measure.meter import Meter
from mtad.model.lm import context_of
from mtad.server.http.keys import Keys
from mtad.server.run import assemble
from mtad.server.scheduler.admission import Admission, Limits
from mtad.server.settings import ServerSettings

CONTEXT = context_of(demo().models.target)
PROMPT = [5] * 20


@pytest.mark.slow
def test_it_is_what_clients_are_told() -> None:
    names = ("a", "b")
    with fake_server(max_model_len=32, served_model_name=names) as server, server.client() as http:
        cards = http.get("/v1/models").json()["data"]
        assert [(card["id"], card["max_model_len"]) for card in cards] == [("a", 32), ("b", 32)]
        assert http.get("/tokenizer_info").json()["model_max_length"] == 32
        counted = http.post("/tokenize", json={"model": "b", "prompt": "SELECT"}).json()
        assert counted["max_model_len"] == 32
        schemas = http.get("/openapi.json").json()["components"]["schemas"]
        limit = schemas["CompletionRequest"]["properties"]["max_tokens"]["anyOf"][0]
        assert limit["maximum"] == 32


@pytest.mark.slow
def test_it_bounds_prompt_and_text_together() -> None:
    with fake_server(max_model_len=32) as server, server.client() as client:

        def ask(**body: Any) -> Any:
            given = {"model": "demo", "prompt": PROMPT, "ignore_eos": True, "seed": 1, **body}
            return client.post("/v1/completions", json=given)

        assert ask(max_tokens=12).json()["usage"]["total_tokens"] == 32
        assert ask().json()["usage"]["total_tokens"] == 32, "what is left is the budget"
        found = error(ask(max_tokens=13), 400)
        assert (found["code"], found["param"]) == ("context_length_exceeded", "max_tokens")
        assert found["message"] == (
            "the prompt has 20 tokens and max_tokens is 13; this server's max_model_len is 32 "
            "tokens for both: shorten the prompt or lower max_tokens"
        )
        long = error(ask(prompt=PROMPT * 2), 400)
        assert (long["code"], long["param"]) == ("context_length_exceeded", "prompt")


def assembled(**settings: Any) -> Any:
    return assemble(demo(), ServerSettings(**settings), Meter(None, "not metered here"), Keys())


def test_the_caches_are_made_for_it() -> None:
    assert CONTEXT is not None
    slots = [Admission.of(demo(), Limits(2, max_length=one)).slots for one in (100, CONTEXT, None)]
    assert slots[0] < slots[1] == slots[2]
    served = assembled(max_rows=2, max_model_len=100)
    assert served.scheduler.load.slots_total == slots[0]
    served.close()


def test_the_models_read_no_more_than_their_context() -> None:
    assert CONTEXT is not None
    assembled(max_model_len=CONTEXT).close()
    message = f"max_model_len is {CONTEXT + 1}; the target's context is {CONTEXT} tokens"
    with pytest.raises(ValueError, match=message):
        assembled(max_model_len=CONTEXT + 1)


def test_the_tree_of_the_default_method_is_as_large_as_texts_can_be() -> None:
    method = mtad.BeamSearch()  # its tree has nodes for each token of the text
    nodes = method.num_nodes(demo().models.vocab, 64)
    assembled(max_model_len=64, max_nodes=nodes, method=method).close()
    with pytest.raises(ValueError, match=f"max_nodes is {nodes}"):
        assembled(max_model_len=65, max_nodes=nodes, method=method)
