"""Peak memory is that of the weights and the caches, and little more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.tiny import VOCAB, tiny_model
from transformers import AutoModelForCausalLM

from mtad import demo, methods, testing
from mtad.core.buckets import bucket_of
from mtad.engine.session import Request, Session
from mtad.errors import CheckpointError
from mtad.model.memory import Memory, memory_of, require_memory, slot_bytes, weights_bytes
from mtad.sampling.params import SamplingParams
from mtad.testing import random_llama

PEAK = """
import gc, json, re, sys
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from mtad.model.memory import memory_of
from mtad.methods.mtad import MTAD
from mtad.api.pair import ModelPair

PROMPT, NEW = int(sys.argv[2]), 4
torch.set_num_threads(1)

def llama(hidden, intermediate, layers, heads, kv_heads):
    sizes = dict(hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers)
    heads = dict(num_attention_heads=heads, num_key_value_heads=kv_heads)
    config = LlamaConfig(vocab_size=8192, max_position_embeddings=4200, **sizes, **heads)
    return LlamaForCausalLM(config).eval()

def complete(target, draft, prompt):
    options = dict(seed=0, top_k=10, max_new_tokens=NEW, ignore_eos=True)
    pair = ModelPair(target, draft)
    num_tokens = len(pair.generate([prompt], MTAD(), **options)[0].token_ids)
    return num_tokens, pair.workspace.prefixes.num_bytes

def bytes_of(name):
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\\s+(\\d+) kB", status)[1]) * 1024

complete(llama(64, 128, 1, 2, 2), llama(32, 64, 1, 2, 2), [5, 6, 7] * 100)  # loads libraries
gc.collect()
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = bytes_of("VmRSS")
kv_share = int(sys.argv[1])
target = llama(768, 2048, 6, 12, 12 // kv_share)
draft = llama(384, 1024, 3, 6, 6 // kv_share)
num_tokens, kept = complete(target, draft, [5 + i * 37 % 8000 for i in range(PROMPT)])
peak = bytes_of("VmHWM") - before
need = memory_of([target, draft], 1, PROMPT + NEW + MTAD().num_nodes(8192, NEW))
print(json.dumps([num_tokens, peak, need.weights_bytes, need.caches_bytes, kept]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak")
@pytest.mark.parametrize(
    ("kv_share", "prompt"),
    [pytest.param(1, 4000, marks=pytest.mark.slow), (3, 2000)],
    ids=["all heads", "a third of the heads"],
)
def test_a_long_prompt_needs_little_more_than_weights_and_caches(
    kv_share: int, prompt: int
) -> None:
    """60 and 10 million parameters in float32 and a prompt of some thousand tokens."""
    command = [sys.executable, "-c", PEAK, str(kv_share), str(prompt)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    num_tokens, peak, weights, caches, kept = json.loads(done.stdout)
    assert num_tokens == 4
    assert weights > 230e6
    assert caches > 15_000 * prompt
    assert 0.95 * caches < kept <= caches, "the prefix cache has the prompt"
    needed = weights + caches + kept
    assert peak > 0.95 * needed, "what is counted is not there: the count is wrong"
    assert peak < 1.1 * needed


@pytest.mark.parametrize("name", ["mtad", "speculative_sampling", "autoregressive", "mtjd"])
def test_the_caches_of_a_session_are_as_large_as_told(name: str) -> None:
    target, draft = random_llama(), random_llama(hidden=16, num_layers=1)
    method = methods.find(name)()
    prompts, budget = [[1, 2, 3], [4] * 20], 12
    requests = [Request(p, SamplingParams(max_new_tokens=budget)) for p in prompts]
    with torch.inference_mode():
        session = Session(target, draft, method, requests, 61)
        read = [target, draft] if method.drafted_by == "draft" else [target]
        need = memory_of(read, 2, 20 + budget + method.num_nodes(61, budget))
        if session.drafter:
            session.step()
    assert need.caches_bytes == sum(lm.memory_bytes for lm in session.lms)


@pytest.mark.parametrize("path", [demo.TARGET_PATH, demo.DRAFT_PATH])
def test_weights_take_what_their_file_takes(path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(path)
    inv_freq = model.config.head_dim // 2 * 4
    header = (path / "model.safetensors").stat().st_size - weights_bytes(model)
    assert -4 * inv_freq < header < 10_000


@pytest.mark.slow
def test_the_meta_device_will_do() -> None:
    target, draft = testing.widened_pair("8b", device="meta", context=8192)
    need = memory_of([target, draft], 4, 8192)
    per_token = 2 * 2 * (32 * 4096 + 16 * 2048)
    assert need.caches_bytes == 4 * 8192 * per_token
    assert need.weights_bytes == pytest.approx(2 * 9.02e9, rel=0.005)
    assert need.total_bytes == need.weights_bytes + need.caches_bytes


@pytest.mark.parametrize("family", ["gpt2", "opt", "falcon", "gemma3_text", "phi3"])
def test_every_architecture_tells_the_size_of_its_cache(family: str) -> None:
    model = tiny_model(family)
    requests = [Request([1, 2, 3], SamplingParams(max_new_tokens=4))]
    with torch.inference_mode():
        session = Session(model, None, methods.find("autoregressive")(), requests, VOCAB)
    (lm,) = session.lms
    capacity = bucket_of(3 + 4 + session.method.num_nodes(VOCAB, 4))
    assert slot_bytes(model) * capacity == lm.memory_bytes


def test_grouped_heads_take_their_share() -> None:
    assert slot_bytes(random_llama(hidden=32, num_layers=3)) == 3 * 2 * 16 * 4


def test_memory_adds_up() -> None:
    assert Memory(3, 4).total_bytes == 7


def test_a_cache_has_whole_buckets() -> None:
    model = random_llama(hidden=32, num_layers=3)
    slot = slot_bytes(model)
    for capacity in (1, 64, 65, 200, 257, 1000):
        assert memory_of([model], 2, capacity).caches_bytes == 2 * bucket_of(capacity) * slot


def test_models_that_share_a_device_must_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"cpu": 10 * 2**30, "cuda": 2**30}
    monkeypatch.setattr("mtad.model.memory.free_bytes", lambda device: float(free[device.type]))
    require_memory({"target": ("cpu", 10 * 2**30), "draft": ("cuda", 2**30)})
    require_memory({"target": ("cpu", 8 * 2**30), "draft": ("cpu", 2 * 2**30)})
    with pytest.raises(
        CheckpointError, match=r"'cpu', 10\.00 GiB.*target 8\.00 .* draft 2\.50 GiB"
    ):
        require_memory({"target": ("cpu", 8 * 2**30), "draft": ("cpu", 5 * 2**29)})
    with pytest.raises(
        CheckpointError, match=r"'cuda', 1\.00 GiB .*more: the draft 2\.00 GiB; load"
    ):
        require_memory({"target": ("cpu", 0), "draft": ("cuda", 2**31)})
