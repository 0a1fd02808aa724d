"""The same texts on a CUDA device as on the CPU, in float32, and every method in bfloat16."""

from __future__ import annotations

import copy

import pytest
import torch
from support.tiny import PROMPTS, complete, label, similar, tiny_model, token_ids, variants

import mtad.model.kv_cache
from mtad.errors import CacheMemoryError
from mtad.model.kv_cache import Address, SlotLayer
from mtad.sampling.params import SamplingParams

pytestmark = pytest.mark.gpu
EVERY_METHOD = pytest.mark.parametrize("method", variants(), ids=label)


@pytest.fixture(scope="module")
def pair():
    target = tiny_model("llama")
    return target, similar(target)


def on_device(pair, dtype: torch.dtype):
    return tuple(copy.deepcopy(model).to("cuda", dtype) for model in pair)


@EVERY_METHOD
def test_the_device_gives_the_texts_of_the_cpu(pair, method):
    params = [SamplingParams(temperature=0.0, max_new_tokens=n) for n in (9, 14, 5)]
    got = token_ids(*on_device(pair, torch.float32), method, PROMPTS, params)
    assert got == token_ids(*pair, method, PROMPTS, params)


@EVERY_METHOD
def test_bfloat16_keeps_budgets_and_seeds(pair, method):
    models = on_device(pair, torch.bfloat16)
    params = [SamplingParams(max_new_tokens=n, seed=n) for n in (9, 14, 5)]
    texts = complete(*models, method, PROMPTS, params)
    assert [len(text.token_ids) for text in texts] == [9, 14, 5]
    assert texts == complete(*models, method, PROMPTS, params)


def test_target_and_draft_may_be_on_different_devices(pair):
    target, _ = on_device(pair, torch.float32)
    params = SamplingParams(temperature=0.0, max_new_tokens=9)
    for method in variants():
        got = token_ids(target, pair[1], method, PROMPTS, params)
        assert got == token_ids(*pair, method, PROMPTS, params)


def test_buffers_larger_than_the_device_are_refused():
    free = mtad.model.kv_cache.free_bytes(torch.device("cuda"))
    assert 0 < free <= torch.cuda.mem_get_info()[1]
    num_layers, heads, capacity, size = 2, 2, 200, 8
    rows = int(free // (2 * num_layers * heads * capacity * size * 4)) + 1_000
    states = torch.zeros(1, heads, 1, size, device="cuda")
    with pytest.raises(CacheMemoryError, match="GiB are free; lower max_batch_size"):
        SlotLayer(Address(rows, capacity, num_layers)).lazy_initialization(states, states)
