"""The KV caches: after every commit both equal a fresh read of the committed text.

The greedy tests and the toy models of known laws are blind to mask and position mistakes: the
former because an argmax forgives, the latter because they attend to nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from support.caches import CLOSE, assert_fresh
from support.tiny import (
    PROMPTS,
    VOCAB,
    block_length,
    complete,
    label,
    methods_that,
    opposite,
    path_logits,
    prefilled,
    random_tree,
    similar,
    suited,
    tiny_model,
    token_ids,
)

import mtad.core.buckets
import mtad.model.lm
from mtad.engine.session import Request, Session
from mtad.engine.step import Step
from mtad.methods.mmtad import MMTAD
from mtad.methods.spectr import SpecTr
from mtad.model.lm import LM, Model
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method
from mtad.testing import random_llama

EVERY_METHOD = pytest.mark.parametrize("method", methods_that())


@pytest.fixture(scope="module")
def target() -> Model:
    return random_llama()


@pytest.fixture(scope="module")
def sliding() -> Model:
    return tiny_model("gemma3_text")


def checked_steps(session: Session, draft: Model | None) -> Iterator[Step]:
    """The session's steps; after each, every cache is compared with a fresh read."""
    texts = [list(request.prompt_ids) for request in session.requests.values()]
    with torch.inference_mode():
        while session.rows:
            step = session.step()
            for block in step.blocks:
                texts[block.request] += block.token_ids
            running = [texts[request] for request in session.rows]
            assert [session.lengths[row] for row in range(len(running))] == list(map(len, running))
            if running:
                for lm in session.lms:
                    assert_fresh(lm, running, last_slot_may_lag=lm is not session.target)
            yield step


def run(
    target: Model, draft: Model, method: Method, budgets: list[int], **sampling: Any
) -> list[Step]:
    params = [suited(method, SamplingParams(max_new_tokens=n, seed=n, **sampling)) for n in budgets]
    requests = [Request(prompt, p) for prompt, p in zip(PROMPTS, params, strict=True)]
    with torch.inference_mode():
        session = Session(target, draft, method, requests, VOCAB)
    return list(checked_steps(session, draft))


@EVERY_METHOD
def test_caches_equal_a_fresh_read_while_rows_accept_reject_and_leave(target, method):
    steps = run(target, similar(target), method, [9, 17, 4])
    assert sum(len(b.token_ids) for step in steps for b in step.blocks) == 9 + 17 + 4
    sizes = [len(step.blocks) for step in steps]
    assert sizes == sorted(sizes, reverse=True)
    if method.drafted_by == "draft":
        blocks = [block for step in steps for block in step.blocks]
        assert 0 < sum(b.num_accepted for b in blocks) < sum(b.depth for b in blocks)


@EVERY_METHOD
def test_caches_equal_a_fresh_read_after_full_acceptance_twice(target, method):
    budget = 3 * (block_length(method) + 1)
    steps = run(target, target, method, [budget] * 3, top_k=0 if takes_any(method) else 5)
    if method.drafter == "draft" and method.is_lossless and label(method) != "mcss-naive":
        for block in (b for step in steps[:2] for b in step.blocks):
            assert block.num_accepted == block.depth == block_length(method)


@EVERY_METHOD
def test_caches_equal_a_fresh_read_after_accepting_nothing_twice(target, method):
    steps = run(target, opposite(target), method, [4, 5, 6], temperature=0.0)
    searches = getattr(method, "num_beams", 1) > 1  # its hypotheses are drafted again
    if method.drafter == "draft" and not searches:
        assert all(b.num_accepted == 0 for step in steps for b in step.blocks)
        assert sum(b.num_drafted for step in steps for b in step.blocks) > 0


def takes_any(method: Method) -> bool:
    """Whether the method refuses truncated laws."""
    return method.name == "beam_search" or getattr(method, "joint", "beam") != "beam"


@pytest.mark.parametrize("method", [MMTAD(4, 4, 0.1), SpecTr(3, 3)], ids=label)
def test_sliding_layers_keep_their_cache_fresh(sliding, method):
    run(sliding, similar(sliding), method, [12, 20, 7])


@pytest.mark.parametrize("widths", [(1, 1, 1), (3, 4, 2), (5,), (2, 2, 2, 2)])
@pytest.mark.parametrize("name", ["llama", "mistral_sliding", "gemma3_text"])
def test_tree_forward_equals_reading_every_path_alone(name, widths):
    model = tiny_model(name)
    tree = random_tree(PROMPTS, widths, seed=sum(widths))
    with torch.inference_mode():
        got = prefilled(model, PROMPTS).forward(tree)
    torch.testing.assert_close(got, path_logits(model, PROMPTS, tree), **CLOSE)


def test_the_logits_of_a_node_do_not_depend_on_its_siblings(target):
    tree = random_tree(PROMPTS, (3, 4), seed=1)
    level = tree.levels[2]
    other = tree.tokens.clone()
    other[:, level.start + 1 :] = (other[:, level.start + 1 :] + 1) % VOCAB
    changed = replace(tree, tokens=other)
    with torch.inference_mode():
        got, expected = (prefilled(target, PROMPTS).forward(t) for t in (tree, changed))
    same = slice(0, level.start + 1)
    torch.testing.assert_close(got[:, same], expected[:, same], **CLOSE)


@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_level_by_level_equals_one_forward(name):
    model = tiny_model(name)
    full = random_tree(PROMPTS, (3, 4, 2), seed=2)
    whole, levels = prefilled(model, PROMPTS), prefilled(model, PROMPTS)
    tree = random_tree(PROMPTS, (), seed=2)
    with torch.inference_mode():
        parts = [levels.forward_level(tree)]
        for level in full.levels[1:]:
            zeros = torch.zeros(len(PROMPTS), level.stop - level.start)
            tree = tree.grow(full.tokens[:, level], full.parents[:, level], zeros == 0, zeros)
            parts.append(levels.forward_level(tree))
        torch.testing.assert_close(torch.cat(parts, dim=1), whole.forward(full), **CLOSE)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "opt"])
@pytest.mark.parametrize("prefill_tokens", [1, 9, 30])
def test_prefill_in_chunks_equals_one_forward(monkeypatch, name, prefill_tokens):
    model = tiny_model(name)
    expected = path_logits(model, PROMPTS, random_tree(PROMPTS, (), seed=0))
    monkeypatch.setitem(mtad.model.lm.PREFILL_TOKENS, "cpu", prefill_tokens)
    lm = prefilled(model, PROMPTS)
    with torch.inference_mode():
        torch.testing.assert_close(lm.forward(random_tree(PROMPTS, (), 0)), expected, **CLOSE)
        assert_fresh(lm, PROMPTS, last_slot_may_lag=False)


def test_rows_that_join_later_leave_the_others_alone(target):
    lm = LM(target, "target", VOCAB, len(PROMPTS), 64)
    with torch.inference_mode():
        lm.prefill(PROMPTS[:1])
        lm.prefill(PROMPTS[1:])
        assert_fresh(lm, PROMPTS, last_slot_may_lag=False)


@pytest.mark.parametrize("num_rows", [1, 2])
def test_a_long_prompt_never_makes_a_large_mask(num_rows):
    model = random_llama(hidden=8, num_layers=1, context=8192)
    shapes = []

    def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        shapes.append(tuple(kwargs["attention_mask"].shape))

    model.register_forward_pre_hook(note, with_kwargs=True)
    prompt = [i % VOCAB for i in range(4_000)]
    params = SamplingParams(max_new_tokens=3)
    complete(model, model, MMTAD(), [prompt, prompt[:100]][:num_rows], params)
    chunk = mtad.model.lm.PREFILL_TOKENS["cpu"] // num_rows
    assert len(shapes) > 4_000 // chunk
    for rows, heads, queries, keys in shapes:
        assert (rows, heads) == (num_rows, 1)
        assert queries <= chunk
        assert keys <= 4_000 + mtad.core.buckets.BUCKET
    assert shapes[0] == (num_rows, 1, chunk, chunk)


def test_commit_moves_the_accepted_rows_and_touches_nothing_else(target):
    lm = prefilled(target, PROMPTS)
    tree = random_tree(PROMPTS, (3, 4, 2), seed=3)
    path = tree.path_to(torch.tensor([8, 9, 3]))
    with torch.inference_mode():
        lm.forward(tree)
        buffers = [tensor for layer in lm._layers for tensor in (layer.keys, layer.values)]
        before = [tensor.clone() for tensor in buffers]
        lengths = lm.lengths.tolist()
        lm.commit(path, torch.tensor([3, 3, 1]))
    after = [tensor for layer in lm._layers for tensor in (layer.keys, layer.values)]
    assert [t.data_ptr() for t in buffers] == [t.data_ptr() for t in after]
    for old, new in zip(before, after, strict=True):
        for row, (length, count) in enumerate(zip(lengths, [3, 3, 1], strict=True)):
            for depth in range(count):
                moved = old[row, :, length + path[row, depth]]
                assert torch.equal(new[row, :, length + 1 + depth], moved)
            touched = range(length + 1, length + 1 + tree.depth)
            rest = [slot for slot in range(new.shape[2]) if slot not in touched]
            assert torch.equal(new[row][:, rest], old[row][:, rest])


def test_a_chain_is_committed_without_moving_anything(target, monkeypatch):
    lm = prefilled(target, PROMPTS)
    with torch.inference_mode():
        lm.forward(random_tree(PROMPTS, (1, 1), seed=3))
        buffers = [layer.keys.clone() for layer in lm._layers]
        lm.commit(None, torch.tensor([2, 0, 1]))
    assert lm.lengths.tolist() == [len(p) + n for p, n in zip(PROMPTS, [2, 0, 1], strict=True)]
    assert all(torch.equal(a, b.keys) for a, b in zip(buffers, lm._layers, strict=True))


def test_leaving_rows_copies_only_the_rows_that_take_their_places(target):
    lm = prefilled(target, PROMPTS)
    before = [layer.keys.clone() for layer in lm._layers]
    with torch.inference_mode():
        lm.release([2, 1])
        for old, layer in zip(before, lm._layers, strict=True):
            assert torch.equal(layer.keys, old[[2, 1, 2]])
        assert_fresh(lm, [PROMPTS[2], PROMPTS[1]], last_slot_may_lag=False)


@pytest.mark.slow
@pytest.mark.parametrize("bucket", [1, 8, 10_000])
@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_the_bucket_does_not_change_the_text(monkeypatch, name, bucket):
    model = tiny_model(name)
    texts = []
    for size in (bucket, mtad.core.buckets.BUCKET):
        monkeypatch.setattr(mtad.core.buckets, "BUCKET", size)
        params = SamplingParams(max_new_tokens=24, seed=4)
        texts.append(token_ids(model, similar(model), MMTAD(3, 3, 0.3), PROMPTS, params))
    assert texts[0] == texts[1]


def test_a_forward_reads_whole_buckets(monkeypatch, target):
    monkeypatch.setattr(mtad.core.buckets, "BUCKET", 8)
    lm = prefilled(target, PROMPTS, room=100)
    for widths, keys in [((1,), 16), ((2, 2), 16), ((3, 3), 24)]:
        sizes = []
        spy = SimpleNamespace(
            masks=lambda seen, *_, sizes=sizes: sizes.append(seen) or seen[:, None]
        )
        monkeypatch.setattr(lm._run, "_pattern", spy)
        with torch.inference_mode():
            lm.forward(random_tree(PROMPTS, widths, seed=0))
        assert sizes[0].shape[2] == keys


class Renamed(transformers.LlamaForCausalLM):
    """A model that takes its cache by the name that transformers gave it in 5.24."""

    def forward(self, input_ids=None, cache=None, **options):
        known = inspect.signature(super().forward).parameters
        name = "cache" if "cache" in known else "past_key_values"
        return super().forward(input_ids, **{name: cache}, **options)


def test_a_model_gets_its_cache_by_the_name_it_has_for_it():
    model = tiny_model("llama")
    renamed = Renamed(model.config).eval()
    renamed.load_state_dict(model.state_dict())
    texts = [[3, 5, 7, 9], [8, 2]]
    tree = random_tree(texts, (3, 2), seed=0)
    with torch.inference_mode():
        scored = prefilled(renamed, texts).forward(tree)
    torch.testing.assert_close(scored, path_logits(model, texts, tree), atol=1e-4, rtol=1e-4)
