"""Answers say what form the weights have: lossless is said of that target."""

from __future__ import annotations

import pytest
from support.serving import real_server

import mtad


@pytest.mark.slow
def test_the_contract_names_an_int8_target() -> None:
    pair = mtad.load_pair("demo", dtype="float32", target_weights="int8")
    pair.graphs = None
    body = {"model": "demo", "prompt": "SELECT", "max_tokens": 8, "seed": 3, "temperature": 0.0}
    body |= {"method": {"name": "speculative_sampling", "num_draft_tokens": 2}}
    with real_server(pair) as served, served.client() as client:
        answer = client.post("/v1/completions", json=body).json()
    contract = answer["mtad"]
    assert contract["lossless"] is True
    assert (contract["target_weights"], contract["draft_weights"]) == ("int8", "plain")
    [plain] = pair.generate("SELECT", mtad.Autoregressive(), max_new_tokens=8, temperature=0.0)
    assert answer["choices"][0]["text"] == plain.text
