"""What an iteration's line holds is what happened, in numbers known by hand or from elsewhere."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from support.guarded import follow_script
from support.tiny import PROMPTS, similar, tiny_model
from support.toys import MarkovPair, make
from support.traced import Watched, watch

import mtad
from mtad.engine.session import Request
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method
from mtad.trace.replay import RuleReplay, replay
from mtad.trace.rules import Rule
from mtad.trace.writer import TraceHeader, TraceWriter

P = [[0.2, 0.2, 0.6], [0.5, 0.1, 0.4], [0.3, 0.4, 0.3]]
Q = [[0.5, 0.4, 0.1], [0.7, 0.05, 0.25], [0.15, 0.2, 0.65]]
"""Laws after each token of the target and of the draft: no two numbers of a column are equal."""


def watched(method: Method, path: Path | None = None, **sampling) -> Watched:
    """What was seen of one text of the toy pair."""
    toy = MarkovPair.of(P, Q)
    request = Request([2, 0], SamplingParams(**{"max_new_tokens": 8, "seed": 3} | sampling))
    return watch((toy.target, toy.draft), method, [request], toy.vocab, path)[0]


def iterations(path: Path) -> list[dict]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line.get("type") == "iteration"]


def judged(path: Path, name: str | None = None, **options: str) -> RuleReplay:
    return replay(path, [Rule(name, options)]).rules[0]


# ---- log-probabilities of the nodes


def with_parents(record: dict) -> list[tuple[dict, int]]:
    """The nodes, each with its parent's token."""
    tokens = {0: record["root"]["token"]} | {n["index"]: n["token"] for n in record["nodes"]}
    return [(node, tokens[node["parent"]]) for node in record["nodes"]]


@pytest.mark.parametrize(("name", "shape"), [("specinfer", (2, 2, 1)), ("mcss", (2, 2))])
def test_a_nodes_log_probabilities_are_those_after_its_parent(name: str, shape: tuple) -> None:
    nodes = [
        pair
        for record in watched(make(name, k_config=shape)).records
        for pair in with_parents(record)
    ]
    alive = [(node, parent) for node, parent in nodes if node["alive"]]
    assert len({(node["token"], parent, node["depth"]) for node, parent in alive}) > 9
    for node, parent in alive:
        assert node["draft_logprob"] == pytest.approx(math.log(Q[parent][node["token"]]), abs=1e-5)
        assert node["target_logprob"] == pytest.approx(math.log(P[parent][node["token"]]), abs=1e-5)


def test_a_token_that_the_draft_would_not_draw_has_no_log_probability() -> None:
    """At temperature 0 the second most likely token is a candidate too, at a probability of 0."""
    nodes = [
        pair
        for record in watched(make("mcss", k_config=(2, 2)), temperature=0.0).records
        for pair in with_parents(record)
        if pair[0]["alive"]
    ]
    best = [max(range(3), key=row.__getitem__) for row in Q]
    assert {node["token"] == best[parent] for node, parent in nodes} == {True, False}
    for node, parent in nodes:
        wanted = 0.0 if node["token"] == best[parent] else None
        assert node["draft_logprob"] == wanted


# ---- blocks that the target makes


@pytest.mark.parametrize(
    "method",
    [
        make("mtjd", num_block_tokens=3, beam_width=2),
        make("mtjd", num_block_tokens=2, joint="none"),
        make("beam_search", num_beams=2),
    ],
    ids=["beams", "all blocks", "beam search"],
)
def test_a_block_of_the_target_counts_no_draft(method: Method, tmp_path: Path) -> None:
    text = watched(method, tmp_path / "t.jsonl")
    for record, block in zip(text.records, text.blocks, strict=True):
        assert (record["num_drafted"], record["num_accepted"]) == (0, 0)
        assert [one["origin"] for one in record["tokens"]] == ["target"] * len(block.token_ids)
        nodes = {node["index"]: node for node in record["nodes"]}
        parents = [0, *(one["node"] for one in record["tokens"])]
        for one, parent in zip(record["tokens"], parents, strict=False):
            node = nodes[one["node"]]
            assert (node["token"], node["parent"]) == (one["token"], parent)
            assert node["accepted"]
    [found] = judged(tmp_path / "t.jsonl").texts
    assert found.difference is None
    assert (found.was.num_draft_tokens, found.was.num_spec_tokens) == (0, 0)
    assert found.was.num_accepted_draft_tokens == 0
    assert found.now == found.was
    assert found.was.num_spec_steps == len(text.blocks)
    assert found.was.num_output_tokens == len(text.token_ids)


# ---- what replay needs of the batch and of the guard


@pytest.mark.slow
def test_the_width_of_truncation_is_that_of_the_batch(tmp_path: Path) -> None:
    """Of tokens that tie with the k-th as many stay as the batch's width has room for."""
    toy = MarkovPair.everywhere([1 / 80] * 80, [1 / 80] * 80)
    params = [SamplingParams(max_new_tokens=60, seed=1, top_k=k) for k in (1, 40)]
    requests = [Request([0], one) for one in params]
    method, path = make("speculative_sampling", num_draft_tokens=2), tmp_path / "t.jsonl"
    texts = watch((toy.target, toy.draft), method, requests, toy.vocab, path)
    assert len({*texts[0].token_ids}) > 1 + 16, "on its own it would have 17 candidates"
    for line in iterations(path):
        assert line["laws"]["width"] == 40 + 20
    assert [text.difference for text in judged(path).texts] == [None, None]


@pytest.mark.slow
def test_a_plain_step_of_the_guard_is_one_of_the_target_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the two endpoints differ: the plain step draws its token, the method takes the best."""
    target = tiny_model("llama")
    models = mtad.ModelPair(target, similar(target))
    path, options = tmp_path / "t.jsonl", {"seed": 1, "max_new_tokens": 32, "guard": True}
    method = make("mtad", num_draft_tokens=1, beam_width=1, endpoint="greedy")
    follow_script(monkeypatch, "ddp")
    with TraceWriter(path, TraceHeader.of(models.models)) as trace:
        [made] = models.generate(PROMPTS[:1], method, trace=trace, **options)
    methods = [line["method"]["name"] for line in iterations(path)]
    num_plain = made.stats.num_plain_steps
    assert 0 < num_plain < len(methods)
    assert methods.count("autoregressive") == num_plain
    assert methods.count("mtad") == len(methods) - num_plain
    for line in iterations(path):
        assert (line["tree"]["widths"] == [1]) == (line["method"]["name"] == "autoregressive")
        assert line["record"]["method"] == line["method"]["name"]
    [found] = judged(path).texts
    assert found.difference is None
    [found] = judged(path, "mtad", endpoint="greedy").texts
    assert found.difference is None, "the rule of the text leaves plain steps as they are"
