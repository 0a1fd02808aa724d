"""Whole texts from recorded iterations on the CPU, in one session and in those that follow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from support.tiny import PROMPTS, VOCAB, similar, some_variants, suited, tiny_model, variants

import mtad
from mtad.core.tree import TokenTree
from mtad.engine.session import Block, Request, Session
from mtad.engine.workspace import Workspace
from mtad.methods.mtad import MTAD
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.methods.suffix import Suffix
from mtad.model.attention import use_grouped_attention
from mtad.runtime.cpu_tapes import Tapes, _sums
from mtad.runtime.linear.formats import BF16, INT8, Format, convert
from mtad.runtime.state import State
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method, method_key
from mtad.testing import random_llama

READS = {"bild"}
SMALL = MTAD(num_draft_tokens=2, beam_width=2)
MIXED = [
    SamplingParams(temperature=0.0, max_new_tokens=26),
    SamplingParams(
        repetition_penalty=1.3,
        presence_penalty=0.1,
        logit_bias={3: 1.0},
        min_new_tokens=4,
        max_new_tokens=30,
        eos_token_ids=[4, 5],
        seed=7,
    ),
    SamplingParams(temperature=0.8, top_k=9, top_p=0.9, max_new_tokens=22, seed=1),
]
JOINT = [SamplingParams(max_new_tokens=n, seed=n, eos_token_ids=[4]) for n in (26, 30, 12)]


def models() -> tuple:
    target = tiny_model("llama")
    return target, similar(target, 0.2)


def blocks_of(pair: tuple, method: Method, requests: Sequence[Request], tapes=None) -> list[Block]:
    with torch.inference_mode():
        session = Session(*pair, method, requests, VOCAB, workspace=Workspace(tapes))
    return [block for step in session.run() for block in step.blocks]


def requests_for(method: Method, seed: int = 0) -> list[Request]:
    """Rows that leave one after the other, at budgets, EOS and a stop."""
    settings = JOINT if method.drafted_by == "target" else MIXED
    return [
        Request(
            prompt, suited(method, params), (lambda t: t == 9) if params is settings[1] else None
        )
        for prompt, params in zip(PROMPTS, settings, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        *some_variants(READS | {"beam_search"}, ("autoregressive", "mtad")),
        Suffix(corpus=(7, 9, 11, 7, 9, 12)),
    ],
)
def test_texts_are_those_of_eager_iterations(method: Method) -> None:
    pair, tapes = models(), Tapes(patience=1)
    wanted = blocks_of(pair, method, requests_for(method))
    assert blocks_of(pair, method, requests_for(method), tapes) == wanted
    assert tapes.num_captured > 0
    assert tapes.reason(method_key(method)) is None


@pytest.mark.slow
def test_tapes_outlive_their_session() -> None:
    pair, tapes = models(), Tapes(patience=1)
    counts = []
    for seed in range(4):
        requests = [Request(PROMPTS[0], SamplingParams(max_new_tokens=20, seed=seed))]
        wanted = blocks_of(pair, SMALL, requests)
        assert blocks_of(pair, SMALL, requests, tapes) == wanted
        counts.append(tapes.num_captured)
    assert counts[0] == counts[-1]


@pytest.mark.slow
def test_prompts_and_budgets_of_similar_length_share_a_tape() -> None:
    pair, tapes = models(), Tapes(patience=1)
    for length in (3, 9, 17):
        budget = SamplingParams(max_new_tokens=12 + length, seed=1)
        blocks_of(pair, SpeculativeSampling(), [Request([5] * length, budget)], tapes)
    assert tapes.num_captured == 1


@pytest.mark.slow
@pytest.mark.parametrize("is_grouped", [True, False], ids=["grouped", "repeated"])
def test_texts_of_all_lengths_share_a_tape(is_grouped: bool) -> None:
    """Unless their models copy keys and values for groups of heads, which needs their number."""
    pair, tapes = models(), Tapes(patience=1)
    assert not is_grouped or all(map(use_grouped_attention, pair))
    for length, budget in [(3, 30), (50, 40), (100, 60), (9, 60), (130, 60)]:
        settings = SamplingParams(max_new_tokens=budget, seed=length)
        requests = [Request([length % 30 + 5] * length, settings)]
        assert blocks_of(pair, SMALL, requests, tapes) == blocks_of(pair, SMALL, requests)
    assert (tapes.num_captured == 1) == is_grouped
    assert tapes.reason(method_key(SMALL)) is None


@pytest.mark.slow
def test_rows_that_join_while_tapes_play_move_the_caches() -> None:
    pair, tapes = models(), Tapes(patience=0)

    def texts(programs: Tapes | None) -> list[list[int]]:
        requests = [Request([7] * n, SamplingParams(max_new_tokens=60, seed=n)) for n in (5, 90)]
        found: list[list[int]] = [[], []]
        with torch.inference_mode():
            session = Session(*pair, SMALL, requests[:1], VOCAB, workspace=Workspace(programs))
            for number in range(200):
                if number == 12:
                    session.join(requests[1:])
                if number > 14:  # others go on while it waits
                    session.prefill_chunk()
                for block in session.step().blocks if session.rows else ():
                    found[block.request] += block.token_ids
        return found

    assert texts(tapes) == texts(None)
    assert all(map(len, texts(None))) and not tapes._fallbacks


def test_what_depends_on_the_size_of_a_buffer_gets_a_tape_of_each_size() -> None:
    holder, tapes = SimpleNamespace(place=torch.zeros(1)), Tapes(patience=1)

    def program(begin) -> torch.Tensor:
        begin("all")
        holder.place = holder.place + buffer.shape[1]
        return holder.place + buffer.sum()

    with torch.inference_mode():
        wanted = 0
        for number in range(40):
            size = 3 + number // 10 % 2
            buffer, wanted = torch.ones(1, size), wanted + size
            state = State([(holder, "place")], [buffer], (size,))
            got = tapes.run("one", state, program, lambda phase: None, False)
            assert got.item() == wanted + size
    assert tapes.num_captured == 2 and tapes.reason("one") is None


def test_one_token_prompts_write_to_the_caches_of_their_own_session() -> None:
    pair, tapes = models(), Tapes(patience=2)
    for seed in range(6):
        requests = [Request([7], SamplingParams(max_new_tokens=4, seed=seed))]
        method = variants()[0]
        assert blocks_of(pair, method, requests, tapes) == blocks_of(pair, method, requests)
    assert tapes.num_captured > 0


def test_a_tape_that_writes_to_other_buffers_is_not_used() -> None:
    holder = SimpleNamespace(place=torch.zeros(1))
    own, tapes = torch.zeros(3), Tapes(patience=0)

    def program(begin) -> torch.Tensor:
        begin("all")
        holder.place = holder.place + 1
        hidden[0][:1] += holder.place
        return holder.place * 2

    with torch.inference_mode():
        for number in range(4):
            hidden = [own if number % 2 else torch.zeros(3)]
            tapes.run("one", State([(holder, "place")], [own]), program, lambda phase: None, False)
    assert tapes.num_captured == 0
    assert "more than the recording shows" in str(tapes.reason("one"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64, torch.bool])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_number_that_differs_is_seen_in_the_sums(dtype: torch.dtype, size: int) -> None:
    whole = torch.zeros(2, 3, 9, size, dtype=dtype)
    buffer, seen = whole[:, :, :4], set[int]()
    for place in ((0, 0, 0, 0), (1, 2, 3, size - 1), (0, 1, 2, 0)):
        buffer[place] = 1
        seen.add(int(_sums(State([], [buffer]))[0]))
    assert len(seen) == 3
    whole[:, :, 4:] = 1
    assert int(_sums(State([], [buffer]))[0]) in seen, "what lies outside does not count"


def test_not_a_number_equals_itself_in_the_sums() -> None:
    state = State([], [torch.tensor([[math.nan, 1.0]])])
    assert _sums(state) == _sums(state)


def test_what_cannot_be_scripted_runs_eagerly() -> None:
    holder, tapes = SimpleNamespace(place=torch.zeros(2)), Tapes(patience=0)
    generator = torch.Generator().manual_seed(0)

    def program(begin) -> torch.Tensor:
        begin("all")
        return torch.empty(2).uniform_(generator=generator)

    with torch.inference_mode():
        state = State([(holder, "place")])
        drawn = [tapes.run("one", state, program, lambda phase: None, False) for _ in range(3)]
    assert not torch.equal(drawn[1], drawn[2])
    assert "can't be recorded" in str(tapes.reason("one"))


@pytest.mark.slow
def test_the_memory_of_tapes_is_bounded() -> None:
    pair, tapes = models(), Tapes(patience=0)
    blocks_of(pair, MTAD(num_draft_tokens=2, beam_width=1), [Request([3], MIXED[2])], tapes)
    one = tapes.captured_bytes // tapes.num_captured
    assert one > 1e6, "some hundred operations"
    tapes = Tapes(patience=0, limit_bytes=2 * one)
    made = 0
    for width in range(1, 4):
        before = tapes._captured.keys()
        blocks_of(pair, MTAD(num_draft_tokens=2, beam_width=width), [Request([3], MIXED[2])], tapes)
        made += len(tapes._captured.keys() - before) or 1
        assert tapes.captured_bytes <= 2 * one
    assert 1 <= tapes.num_captured < made


@pytest.mark.slow
def test_what_reads_a_tensor_runs_eagerly_and_says_so() -> None:
    method = next(m for m in variants() if m.name == "bild")
    pair, tapes = models(), Tapes(patience=1)
    requests = [Request(PROMPTS[0], MIXED[2])]
    assert blocks_of(pair, method, requests, tapes) == blocks_of(pair, method, requests)
    assert tapes.num_captured == 0
    assert "reads a tensor back to the host" in str(tapes.reason(method_key(method)))


@dataclass(frozen=True)
class Sly(SpeculativeSampling):
    """Reads the prefix in a way that torch's dispatcher does not see."""

    name: ClassVar[str] = "sly"

    def draft(self, lm, prefix, warp, noise) -> TokenTree:
        tree = super().draft(lm, prefix, warp, noise)
        keep = prefix.lengths.tolist()[0] % 2 == 0
        return replace(tree, alive=tree.alive & torch.tensor([True, True, keep]))


@pytest.mark.slow
def test_what_is_read_behind_the_recorders_back_is_found_out() -> None:
    pair, tapes = models(), Tapes(patience=1)
    requests = [Request(PROMPTS[0], SamplingParams(max_new_tokens=60, seed=4))]
    method = Sly(num_draft_tokens=2)
    assert blocks_of(pair, method, requests, tapes) == blocks_of(pair, method, requests)
    assert "more than the recording shows" in str(tapes.reason(method_key(method)))
    assert tapes.num_captured == 0


def test_phases_begin_in_order() -> None:
    heard: list[str] = []
    with torch.inference_mode():
        requests = [Request([3, 4], SamplingParams(max_new_tokens=30, seed=2))]
        graphs = Tapes(patience=0)
        session = Session(
            *models(), SMALL, requests, VOCAB, heard.append, workspace=Workspace(graphs)
        )
    steps = len(list(session.run()))
    assert heard == ["draft", "target", "verify", "commit", "end"] * steps


@pytest.mark.slow
@pytest.mark.parametrize("format", [BF16, INT8], ids=["bf16", "int8"])
def test_models_in_other_forms_replay_the_same_text(format: Format) -> None:
    target = random_llama(vocab=VOCAB, hidden=256, num_layers=1).to(torch.bfloat16)
    draft = random_llama(vocab=VOCAB, hidden=256, num_layers=1, seed=1).to(torch.bfloat16)
    assert convert(target, format).kernels and convert(draft, format).kernels
    requests = [Request([3, 4, 5], SamplingParams(max_new_tokens=30, top_k=8, seed=2))]
    tapes = Tapes(patience=1)
    wanted = blocks_of((target, draft), SMALL, requests)
    assert blocks_of((target, draft), SMALL, requests, tapes) == wanted
    assert tapes.num_captured > 0


@pytest.mark.slow
def test_a_pair_keeps_its_tapes() -> None:
    pair = mtad.load_pair("demo")
    pair.graphs.patience = 1
    options = {"top_k": 10, "max_new_tokens": 32, "ignore_eos": True, "temperature": 1.0}
    first = pair.generate(["def area(r):"] * 2, SMALL, seed=[1, 2], max_batch_size=1, **options)
    assert pair.graphs.num_captured > 0
    pair.graphs = Tapes(patience=10**9)
    again = pair.generate(["def area(r):"] * 2, SMALL, seed=[1, 2], max_batch_size=1, **options)
    assert [c.token_ids for c in first] == [c.token_ids for c in again]
