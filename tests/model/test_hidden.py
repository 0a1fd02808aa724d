"""What the target keeps of its last hidden state equals a fresh read of the committed text."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from support.caches import CLOSE
from support.heads import fresh_hidden, random_head
from support.tiny import PROMPTS, VOCAB, drafting_variants, random_tree, suited, tiny_model

import mtad.model.lm
from mtad.engine.session import Request, Session
from mtad.engine.workspace import Workspace
from mtad.methods.mcss import MCSS
from mtad.model.lm import LM, Model
from mtad.runtime.cpu_tapes import Tapes
from mtad.sampling.params import SamplingParams
from mtad.testing import random_llama

FAST = ("mcss", "mtad", "speculative_sampling")


@pytest.fixture(scope="module")
def target() -> Model:
    return random_llama()


def keeping(model: Model, texts: Sequence[Sequence[int]]) -> LM:
    """A cache that has read all but the last token of the texts, and keeps hidden states."""
    lm = LM(model, "target", VOCAB, len(texts), 64, keeps_hidden=True)
    with torch.inference_mode():
        lm.prefill(texts)
    return lm


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "opt", "gemma3_text"])
def test_a_prefill_in_chunks_keeps_the_last_state_of_every_text(monkeypatch, name):
    model = tiny_model(name)
    monkeypatch.setitem(mtad.model.lm.PREFILL_TOKENS, "cpu", 9)  # 3 tokens a row
    torch.testing.assert_close(
        keeping(model, PROMPTS).hidden, fresh_hidden(model, PROMPTS), **CLOSE
    )


def test_a_prefill_that_is_scored_keeps_the_same(target):
    lm = LM(target, "target", VOCAB, len(PROMPTS), 64, keeps_hidden=True)
    seen: list[int] = []
    lm.on_prefill = lambda logits, chunk: seen.append(logits.shape[1])
    with torch.inference_mode():
        lm.prefill(PROMPTS)
    assert seen == [max(map(len, PROMPTS)) - 1]
    torch.testing.assert_close(lm.hidden, fresh_hidden(target, PROMPTS), **CLOSE)


def test_a_prefill_asks_the_output_head_for_one_token_a_row(target):
    shapes: list[tuple[int, ...]] = []
    head = target.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, given, out: shapes.append(tuple(out.shape)))
    keeping(target, PROMPTS)
    handle.remove()
    assert shapes == [(len(PROMPTS), 1, VOCAB)]


@pytest.mark.parametrize("widths", [(1, 1, 1), (3, 4, 2)])
def test_a_commit_keeps_the_state_of_the_last_accepted_node(target, widths):
    tree = random_tree(PROMPTS, widths, seed=3)
    last = {(1, 1, 1): [3, 0, 1], (3, 4, 2): [8, 0, 2]}[widths]
    counts = [len(tree.ancestors[row, node].nonzero()) - 1 for row, node in enumerate(last)]
    path = tree.path_to(torch.tensor(last))
    lm = keeping(target, PROMPTS)
    with torch.inference_mode():
        lm.forward(tree)
        lm.commit(None if tree.is_chain else path, torch.tensor(counts))
    lines = zip(PROMPTS, path.tolist(), counts, strict=True)
    texts = [
        [*text, *tree.tokens[row, line[:count]].tolist(), 0]
        for row, (text, line, count) in enumerate(lines)
    ]
    torch.testing.assert_close(lm.hidden, fresh_hidden(target, texts), **CLOSE)


def run_checked(session: Session) -> tuple[int, dict[int, list[int]]]:
    """Iterations until all is done; after each, the hidden states are those of a fresh read.

    Returns:
        How many there were, and the texts.
    """
    texts = {index: list(request.prompt_ids) for index, request in session.requests.items()}
    count = 0
    while session.rows:
        with torch.inference_mode():
            step = session.step()
        for block in step.blocks:
            texts[block.request] += block.token_ids
        if session.rows:
            running = [texts[index] for index in session.rows]
            found = session.target.hidden[: len(running)]
            torch.testing.assert_close(found, fresh_hidden(session.target.model, running), **CLOSE)
        count += 1
    return count, texts


def requests_of(budgets: Sequence[int], method: Method) -> list[Request]:
    params = [suited(method, SamplingParams(max_new_tokens=n, seed=n)) for n in budgets]
    return [Request(prompt, p) for prompt, p in zip(PROMPTS, params, strict=True)]


@pytest.mark.parametrize("method", drafting_variants(FAST))
def test_states_are_those_of_a_fresh_read_while_rows_accept_reject_and_leave(target, method):
    with torch.inference_mode():
        requests = requests_of([9, 17, 4], method)
        session = Session(target, random_head(target, 40), method, requests, VOCAB)
    assert run_checked(session)[0] > 2


@pytest.mark.slow
def test_recorded_iterations_keep_the_states_and_the_texts(target):
    head, method = random_head(target), MCSS(k_config=(2, 2))
    requests = requests_of([40, 40, 40], method)
    tapes, modes, texts = Tapes(patience=0), [], []
    for workspace in (Workspace(), Workspace(tapes)):
        with torch.inference_mode():
            session = Session(target, head, method, requests, VOCAB, workspace=workspace)
        session._begin = lambda phase: modes.append(tapes.last_mode)
        texts.append(run_checked(session)[1])
    assert texts[0] == texts[1]
    assert tapes.num_captured > 0
    assert modes.count("captured") > 10


def test_rows_that_join_and_leave_take_their_states_along(target):
    head, params = random_head(target), SamplingParams(max_new_tokens=30, seed=2)
    with torch.inference_mode():
        session = Session(target, head, MCSS(k_config=(2, 2)), [Request(PROMPTS[0], params)], VOCAB)
        texts = {0: list(PROMPTS[0])}
        for move in range(6):
            if move == 1:
                session.join([Request(prompt, params) for prompt in PROMPTS[1:]])
                texts |= {1: list(PROMPTS[1]), 2: list(PROMPTS[2])}
                session.leave([0])  # while the others are in prefill
                while session.prefill_chunk():
                    pass
            if move == 4:
                session.leave([1])
            for block in session.step().blocks:
                texts[block.request] += block.token_ids
            running = [texts[index] for index in session.rows]
            torch.testing.assert_close(
                session.target.hidden, fresh_hidden(target, running), **CLOSE
            )
    assert session.rows == [2]


def test_a_cache_is_reused_with_and_without_hidden_states(target):
    workspace = Workspace()
    shapes = []
    for draft, name in [(random_head(target), "mcss"), (target, "mcss"), (None, "autoregressive")]:
        method = mtad.methods.find(name)()
        with torch.inference_mode():
            requests = requests_of([3, 3, 3], method)
            session = Session(target, draft, method, requests, VOCAB, workspace=workspace)
        shapes.append((id(session.target), tuple(session.target.hidden.shape)))
        session.close()
    kept = target.get_output_embeddings().in_features
    assert len({cache for cache, _ in shapes}) == 1
    assert [shape for _, shape in shapes] == [(3, kept), (3, 0), (3, 0)]
