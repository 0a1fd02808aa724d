"""Records of iterations say what happened, and the file of them is whole."""

from __future__ import annotations

import json
import logging
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from support.tiny import PROMPTS, VOCAB, counting_model, each_once, in_turn, similar, tiny_model
from support.toys import MarkovPair, make
from support.traced import Watched, text_of, watch

from mtad.core.tree import TokenTree
from mtad.engine.session import Request
from mtad.engine.step import Block
from mtad.errors import DataError
from mtad.jsonl import JsonLines
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method
from mtad.trace.format import pack, unpack
from mtad.trace.record import TracedRow, record_of, token_logprobs
from mtad.trace.replay import replay
from mtad.trace.rules import Rule
from mtad.trace.writer import TraceHeader, TraceWriter

FAST = ("mcss", "mtad")
"""A tree of draws and a tree of beams stand for all methods where time is short."""
HEADER = TraceHeader("target", "draft", VOCAB, (1, 2))


@pytest.fixture(scope="module")
def pair():
    target = tiny_model("llama")
    return target, similar(target)


def requests(method: Method, **sampling) -> list[Request]:
    """One request per prompt; penalties and truncation where the method takes them."""
    if method.drafted_by == "target":
        sampling = {"max_new_tokens": 5} | sampling
    budget = sampling.pop("max_new_tokens", 9)
    params = [
        SamplingParams(seed=i, max_new_tokens=budget + i, **sampling) for i in range(len(PROMPTS))
    ]
    return [Request(prompt, p) for prompt, p in zip(PROMPTS, params, strict=True)]


# ---- one record, by hand


P = [[0.2, 0.2, 0.6], [0.8, 0.1, 0.1], [0.3, 0.3, 0.4]]
Q = [[0.5, 0.4, 0.1], [0.9, 0.06, 0.04], [0.2, 0.2, 0.6]]


def by_hand() -> Watched:
    """Beams 0, 1; then 1 0 with 0.36 and 0 0 with 0.25. Ratios of 1 0: 0.5, then 0.444."""
    toy = MarkovPair.of(P, Q)
    method = make(
        "mtad",
        num_draft_tokens=2,
        beam_width=2,
        beam="search",
        endpoint="greedy",
        accept_threshold=0.45,
    )
    request = Request([2, 0], SamplingParams(max_new_tokens=8))
    return watch((toy.target, toy.draft), method, [request], toy.vocab)[0]


def test_a_record_by_hand() -> None:
    record = by_hand().records[0]
    near = [
        {"draft_logprob": math.log(0.5), "target_logprob": None, "joint_log_ratio": None},
        {"draft_logprob": math.log(0.4), "target_logprob": math.log(0.2)},
        {"draft_logprob": math.log(0.9), "target_logprob": math.log(0.8)},
        {"draft_logprob": math.log(0.5), "target_logprob": None, "joint_log_ratio": None},
    ]
    near[1]["joint_log_ratio"] = math.log(0.5)
    near[2]["joint_log_ratio"] = math.log(0.5) + math.log(0.8 / 0.9)
    facts = [
        (1, 0, 0, 1, False, False),
        (2, 1, 0, 1, True, True),
        (3, 0, 2, 2, False, True),
        (4, 0, 1, 2, False, False),
    ]
    names = ("index", "token", "parent", "depth", "accepted", "proposed")
    for node, fact, values in zip(record.pop("nodes"), facts, near, strict=True):
        assert tuple(node.pop(name) for name in names) == fact
        assert node.pop("text") == text_of(fact[1])
        assert node.pop("alive") is True
        assert node == pytest.approx(values, abs=1e-5)
    endpoint = record["tokens"][1].pop("target_logprob")
    assert endpoint == pytest.approx(math.log(0.8), abs=1e-5)
    assert record.pop("receipt") == {"largest_overshoot": pytest.approx(0.5)}
    assert record == {
        "position": 0,
        "method": "mtad",
        "law": "warped",
        "root": {"token": 0, "text": "<0>"},
        "tokens": [
            {"token": 1, "text": "<1>", "origin": "draft", "node": 2},
            {"token": 0, "text": "<0>", "origin": "endpoint", "node": None},
        ],
        "num_accepted": 1,
        "num_drafted": 2,
        "finish_reason": None,
    }


def test_the_position_counts_output_tokens() -> None:
    text = by_hand()
    positions = [record["position"] for record in text.records]
    lengths = [len(block.token_ids) for block in text.blocks]
    assert positions == [sum(lengths[:i]) for i in range(len(lengths))]
    assert text.records[1]["root"]["token"] == 0


# ---- every method


SETTINGS = {
    "sampled": {},
    "greedy": {"temperature": 0.0},
    "warped": {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.3, "top_k": 20},
}


def pairs_of(text: Watched) -> list[tuple[dict, Block]]:
    return list(zip(text.records, text.blocks, strict=True))


@pytest.mark.parametrize(("method", "setting"), in_turn(FAST, SETTINGS))
def test_records_of_every_method(method: Method, setting: str, pair) -> None:
    for text in watch(pair, method, requests(method, **SETTINGS[setting]), VOCAB):
        for record, block in pairs_of(text):
            assert json.loads(json.dumps(record, allow_nan=False)) == record
            assert [t["token"] for t in record["tokens"]] == list(block.token_ids)
            check_tokens(record, block, method)
            check_nodes(record, method, setting)


def check_tokens(record: dict, block: Block, method: Method) -> None:
    nodes = {node["index"]: node for node in record["nodes"]}
    parent = 0
    for i, token in enumerate(record["tokens"]):
        if method.drafted_by == "target":
            assert token["origin"] == "target"
        else:
            assert token["origin"] == ("draft" if i < block.num_accepted else "endpoint")
        if token["origin"] == "endpoint":
            assert token["node"] is None
            assert token["target_logprob"] is None or token["target_logprob"] <= 1e-5
            continue
        node = nodes[token["node"]]
        assert node["accepted"] and node["proposed"] and node["alive"]
        assert (node["token"], node["parent"]) == (token["token"], parent)
        parent = node["index"]
    taken = sum(token["origin"] != "endpoint" for token in record["tokens"])
    assert taken == sum(node["accepted"] for node in record["nodes"])


def check_nodes(record: dict, method: Method, setting: str) -> None:
    sums: dict[int, float | None] = {0: 0.0}
    for node in record["nodes"]:
        p, q, above = node["target_logprob"], node["draft_logprob"], sums[node["parent"]]
        if not (method.name == "mcss" and setting == "greedy"):  # it drafts at a probability of 0
            assert (q is None) == (method.drafted_by == "none" or not node["alive"])
        if not node["proposed"] or not node["alive"]:
            assert p is None
        if None in (p, q, above):
            assert node["joint_log_ratio"] is None
        else:
            assert node["joint_log_ratio"] == pytest.approx(above + p - q, abs=1e-6)
        sums[node["index"]] = node["joint_log_ratio"]
    proposed = [node for node in record["nodes"] if node["proposed"] and node["alive"]]
    if method.drafted_by != "target":
        assert len(proposed) == record["num_drafted"]


@pytest.mark.parametrize("method", each_once(FAST))
def test_a_batch_records_of_a_text_what_it_would_alone(method: Method, pair) -> None:
    together = requests(method)
    text, alone = (watch(pair, method, batch, VOCAB)[-1] for batch in (together, together[-1:]))
    for a, b in zip(text.records, alone.records, strict=True):
        assert a["tokens"] == [pytest.approx(t, abs=1e-4) for t in b["tokens"]]
        assert a["nodes"] == [pytest.approx(n, abs=1e-4) for n in b["nodes"]]


# ---- clipped blocks


def counted(method: Method, stop_at: int, **sampling) -> Watched:
    """A text of certain models that say 1, 2, 3 and so on; it stops at a token."""
    model = counting_model(12)
    sampling = {"max_new_tokens": 9} | sampling
    request = Request([0], SamplingParams(**sampling), lambda token: token == stop_at)
    return watch((model, model), method, [request], 12)[0]


@pytest.mark.parametrize("stop_at", range(1, 8))
def test_a_block_cut_by_a_stop_keeps_the_origin_of_its_tokens(stop_at: int) -> None:
    text = counted(make("mtad", num_draft_tokens=3, beam_width=1), stop_at)
    assert text.token_ids == list(range(1, stop_at + 1))
    origins = [token["origin"] for record in text.records for token in record["tokens"]]
    assert origins == ["endpoint" if token % 4 == 0 else "draft" for token in text.token_ids]
    last = text.records[-1]
    assert sum(node["accepted"] for node in last["nodes"]) == last["num_accepted"]
    assert last["finish_reason"] == "stop"


def test_an_eos_in_the_draft_ends_the_block() -> None:
    text = counted(make("mtad", num_draft_tokens=3, beam_width=1), 99, eos_token_ids=(2,))
    assert [t["origin"] for t in text.records[-1]["tokens"]] == ["draft", "draft"]
    assert [node["alive"] for node in text.records[-1]["nodes"]] == [True, True]  # none below


def test_the_budget_ends_the_block() -> None:
    text = counted(make("mtad", num_draft_tokens=3, beam_width=1), 99, max_new_tokens=6)
    assert [len(record["tokens"]) for record in text.records] == [4, 2]
    assert text.records[-1]["finish_reason"] == "length"


# ---- log-probabilities of tokens


@pytest.mark.parametrize("method", each_once(FAST))
def test_token_logprobs_are_the_targets_before_any_setting(method: Method, pair) -> None:
    sampling = (
        {} if method.drafted_by == "target" else {"temperature": 0.6, "presence_penalty": 1.0}
    )
    asked = requests(method, **sampling)
    for request, text in zip(asked, watch(pair, method, asked, VOCAB, top=3), strict=True):
        ids = [*request.prompt_ids, *text.token_ids]
        with torch.inference_mode():
            dense = pair[0](input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
        dense = dense[len(request.prompt_ids) - 1 : -1]
        assert [one.token for one in text.logprobs] == text.token_ids
        for one, logprobs in zip(text.logprobs, dense, strict=True):
            best = logprobs.topk(3)
            assert one.logprob == pytest.approx(float(logprobs[one.token]), abs=1e-4)
            assert [token for token, _ in one.top] == best.indices.tolist()
            assert [p for _, p in one.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_as_many_of_the_most_likely_tokens_as_there_are() -> None:
    toy = MarkovPair.of(P, Q)
    request = Request([0], SamplingParams(max_new_tokens=2))
    pair = toy.target, toy.draft
    none, all_ = (
        watch(pair, make("autoregressive"), [request], toy.vocab, top=top)[0] for top in (0, 20)
    )
    assert [one.top for one in none.logprobs] == [(), ()]
    assert {token for token, _ in all_.logprobs[0].top} == {0, 1, 2}


def test_a_failed_block_has_no_tokens() -> None:
    seen, row = by_hand().observations[0]
    failed = Block(0, (), 0, 2, 2, "error")
    assert token_logprobs(seen, row, failed, 3) == ()
    record = record_of(TracedRow.of(seen, row, make("mtad")), failed, text_of)
    assert record["tokens"] == []
    assert not any(node["accepted"] for node in record["nodes"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38, -3e38])
def test_numbers_that_json_cannot_hold_are_null(value: float) -> None:
    text = by_hand()
    seen, row = text.observations[0]
    logits = seen.logits.clone()
    logits[0, :, 1] = value
    odd = replace(seen, logits=logits)
    record = record_of(TracedRow.of(odd, row, make("mtad")), text.blocks[0], text_of)
    json.dumps(record, allow_nan=False)
    if not math.isfinite(value):
        assert record["nodes"][1]["target_logprob"] is None
        assert record["nodes"][1]["joint_log_ratio"] is None


# ---- the tree remembers what was not proposed


def test_a_selected_tree_holds_the_tree_it_came_from() -> None:
    tree = TokenTree.root(torch.tensor([1]), torch.tensor([1]))
    tokens, zeros = torch.tensor([[3, 4]]), torch.zeros(1, 2)
    tree = tree.grow(tokens, torch.zeros_like(tokens), zeros == 0, zeros)
    chain = tree.select(torch.tensor([[2]]))
    assert tree.whole is None
    assert chain.whole is tree
    assert chain.tokens.tolist() == [[1, 4]]


# ---- packed numbers


def test_packed_numbers_come_back_to_the_bit() -> None:
    odd = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, 3.4e38, -1.1754944e-38, 1 / 3]
    values = torch.cat([torch.tensor(odd), torch.randn(91)]).view(10, 2, 5)
    back = unpack(json.loads(json.dumps(pack(values))))
    assert torch.equal(values.view(torch.int32), back.view(torch.int32))
    assert unpack(pack(torch.zeros(0, 3))).shape == (0, 3)


def test_numbers_of_bfloat16_take_half_the_room() -> None:
    fine = torch.randn(4, 500, generator=torch.Generator().manual_seed(0))
    coarse = fine.bfloat16().float()
    assert len(pack(coarse)["float32"]) < 0.6 * len(pack(fine)["float32"])


def test_damaged_numbers_are_refused() -> None:
    good = pack(torch.randn(3, 4))
    for bad in (
        good | {"shape": [3, 5]},
        good | {"shape": [2, 4]},
        good | {"shape": [-3, -4]},
        good | {"float32": "AAAA"},
        good | {"float32": "é"},
        good | {"float32": good["float32"][:-8]},
    ):
        with pytest.raises(ValueError, match=r"packed|base64|ASCII|padding"):
            unpack(bad)


# ---- the file


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_lines_of_a_file(tmp_path: Path, pair) -> None:
    path, method = tmp_path / "t.jsonl", make("mtad", num_draft_tokens=2, accept_threshold=math.inf)
    params = SamplingParams(max_new_tokens=3, seed=2**64 - 1, logit_bias={4: -math.inf, 5: 1.0})
    texts = watch(pair, method, [Request(PROMPTS[0], params)], VOCAB, path, prompts=True)
    header, request, *iterations, end = lines_of(path)
    assert header == {"mtad_trace": 1, "target": "target", "draft": "draft", "vocab": VOCAB} | {
        "eos_token_ids": []
    }
    assert request["method"]["options"]["accept_threshold"] == "inf"
    assert request["sampling"]["logit_bias"] == {"4": "-inf", "5": 1.0}
    assert (request["id"], request["sampling"]["seed"]) == ("id 0", 2**64 - 1)
    assert request["prompt_ids"] == PROMPTS[0]
    assert [line["record"] for line in iterations] == texts[0].records
    assert [line["number"] for line in iterations] == [1, 2, 3]
    assert end == {"type": "end", "key": request["key"], "num_iterations": 3, "reason": "length"}


def test_prompts_and_logits_only_where_they_are_wanted(tmp_path: Path, pair) -> None:
    path = tmp_path / "t.jsonl"
    request = Request(PROMPTS[0], SamplingParams(max_new_tokens=2))
    watch(pair, make("mtad"), [request], VOCAB, path, laws=False)
    lines = lines_of(path)
    assert "prompt_ids" not in lines[1]
    assert lines[1]["num_prompt_tokens"] == len(PROMPTS[0])
    assert not any("laws" in line for line in lines)


def test_a_file_is_gone_on_with_where_it_was_cut(tmp_path: Path, pair) -> None:
    path = tmp_path / "t.jsonl"
    request = [Request(PROMPTS[0], SamplingParams(max_new_tokens=2))]
    watch(pair, make("autoregressive"), request, VOCAB, path)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"type": "iterat')
    watch(pair, make("autoregressive"), request, VOCAB, path)
    lines = lines_of(path)
    assert path.read_bytes().startswith(whole)
    assert [line.get("type") for line in lines].count("request") == 2
    assert len({line["key"] for line in lines[1:]}) == 2
    assert sum("mtad_trace" in line for line in lines) == 1


@pytest.mark.parametrize("there", [b"hello\n", b"{}\n", b"[1]\n"])
def test_another_file_is_not_written_to(tmp_path: Path, there: bytes) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(there)
    with pytest.raises(DataError, match="is not a trace of these models"):
        TraceWriter(path, HEADER)
    assert path.read_bytes() == there


def test_a_trace_of_other_models_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    TraceWriter(path, HEADER).close()
    with pytest.raises(DataError, match="is not a trace of these models"):
        TraceWriter(path, replace(HEADER, vocab=7))
    with TraceWriter(path, HEADER), pytest.raises(DataError, match="another program"):
        TraceWriter(path, HEADER)


@pytest.mark.slow
def test_threads_do_not_tear_each_others_lines(tmp_path: Path) -> None:
    path, method = tmp_path / "t.jsonl", make("mtad")
    with TraceWriter(path, HEADER, prompts=True) as writer:

        def write() -> None:
            for _ in range(50):
                writer.end(writer.request(Request(range(300)), method), "stop")

        threads = [threading.Thread(target=write) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(lines_of(path)) == 1 + 8 * 50 * 2


def types_of(path: Path) -> list[str]:
    return [line.get("type", "header") for line in lines_of(path)]


@pytest.mark.parametrize("asked", [False, True], ids=["at the next text", "when asked"])
def test_a_file_that_was_moved_away_keeps_its_texts_and_a_new_one_gets_the_next(
    tmp_path: Path, asked: bool, pair
) -> None:
    path, moved = tmp_path / "t.jsonl", tmp_path / "t.jsonl.1"
    request = Request(PROMPTS[0], SamplingParams(max_new_tokens=6))
    seen = watch(pair, make("mtad"), [request], VOCAB)[0]
    rows = [
        (record, TracedRow.of(one, row, make("mtad")))
        for record, (one, row) in zip(seen.records, seen.observations, strict=True)
    ]
    assert len(rows) >= 2
    with TraceWriter(path, HEADER) as writer:
        first = writer.request(request, make("mtad"))
        writer.iteration(first, *rows[0])
        path.rename(moved)
        if asked:
            writer.reopen()
            assert types_of(path) == ["header"]
        second = writer.request(request, make("mtad"))
        for record, row in rows[1:]:
            writer.iteration(first, record, row)
        writer.iteration(second, *rows[0])
        writer.end(first, "length")
        assert first not in path.read_text() and second not in moved.read_text()
        with JsonLines(moved):
            pass  # its last text has ended: others may write to it
        for record, row in rows[1:]:
            writer.iteration(second, record, row)
        writer.end(second, "length")
    whole = ["header", "request", *["iteration"] * len(rows), "end"]
    assert types_of(moved) == types_of(path) == whole
    for file in (moved, path):
        [text] = replay(file, [Rule("mtad", {})]).rules[0].texts
        assert text.difference is None


def test_a_file_that_is_where_it_was_is_not_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with TraceWriter(path, HEADER) as writer:
        for _ in range(2):
            writer.reopen()
            writer.end(writer.request(Request([1]), make("mtad")), "stop")
    assert types_of(path) == ["header", *["request", "end"] * 2]
    writer.reopen()
    path.unlink()
    writer.reopen()
    assert not path.exists(), "the writer is closed"


def test_a_trace_goes_on_where_no_new_file_can_be_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, moved = tmp_path / "t.jsonl", tmp_path / "t.jsonl.1"
    with TraceWriter(path, HEADER) as writer:
        path.rename(moved)
        path.write_text('{"other": 1}\n')
        with caplog.at_level(logging.ERROR):
            writer.end(writer.request(Request([1]), make("mtad")), "stop")
    assert types_of(moved) == ["header", "request", "end"]
    assert "goes on in the file that was moved away" in caplog.text
    assert path.read_text() == '{"other": 1}\n'


class Full:
    """A file on a disk that takes only so many bytes."""

    def __init__(self, room: int, says_so: bool, stream: BinaryIO) -> None:
        self.room, self.says_so, self.written = room, says_so, b""
        self.fileno, self.close = stream.fileno, stream.close

    def write(self, data: bytes) -> int:
        if self.says_so and len(data) > self.room:
            raise OSError(28, "No space left on device")
        taken = data[: self.room]
        self.room -= len(taken)
        self.written += taken
        return len(taken)

    def truncate(self, size: int) -> None: ...


@pytest.mark.parametrize("says_so", [True, False])
def test_a_full_disk_is_reported_once_and_nothing_fails(
    tmp_path: Path, says_so: bool, caplog: pytest.LogCaptureFixture, pair
) -> None:
    writer = TraceWriter(tmp_path / "t.jsonl", HEADER)
    disk = writer._file.lines._stream = Full(2500, says_so, writer._file.lines._stream)
    request = Request(PROMPTS[0], SamplingParams(max_new_tokens=6))
    seen = watch(pair, make("mtad"), [request], VOCAB)[0]
    with caplog.at_level(logging.ERROR):
        key = writer.request(Request(PROMPTS[0]), make("mtad"))
        for record, (one, row) in zip(seen.records, seen.observations, strict=True):
            writer.iteration(key, record, TracedRow.of(one, row, make("mtad")))
        writer.end(key, "stop")
    assert len(caplog.records) == 1
    assert "cannot be written" in caplog.text
    assert writer.error
    assert [json.loads(line)["type"] for line in disk.written.splitlines()[:1]] == ["request"]
    (tmp_path / "t.jsonl").rename(tmp_path / "full.jsonl")
    writer.reopen()
    assert writer.error is None
    writer.end(writer.request(Request([1]), make("mtad")), "stop")
    writer.close()
    assert types_of(tmp_path / "t.jsonl") == ["header", "request", "end"], "there is room again"


def test_a_closed_file_fails_no_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = TraceWriter(tmp_path / "t.jsonl", HEADER)
    writer.close()
    with caplog.at_level(logging.ERROR):
        writer.end(writer.request(Request([1]), make("mtad")), "stop")
    assert len(caplog.records) == 1
