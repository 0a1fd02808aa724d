"""Nothing on the hot path reads a tensor back to the host.

Under `FakeTensorMode` tensors have shapes but no values, so a host read has nothing to return and
raises. One read per iteration, of what was accepted, is the engine's and is not called here.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from support.recorder import Interceptor, tensors
from support.tiny import (
    ARCHITECTURES,
    PROMPTS,
    VOCAB,
    label,
    some_variants,
    suited,
    tiny_model,
    variants,
)
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException

from mtad.core.noise import Noise
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.engine.request import prefix_of
from mtad.engine.session import Request, Session
from mtad.engine.step import block_tokens
from mtad.methods.autoregressive import Autoregressive
from mtad.model.lm import LM, Model
from mtad.runtime.cuda_graphs import mapped
from mtad.sampling.params import SamplingParams
from mtad.sampling.warper import Warper
from mtad.speculative.method import Method

READS_ONE_FLAG_PER_STEP = {"bild"}
EVERY_FIXED = some_variants(but=READS_ONE_FLAG_PER_STEP)
FIXED = [given.values[0] for given in EVERY_FIXED]
SETTINGS = [
    SamplingParams(temperature=0.0, max_new_tokens=6, eos_token_ids=[4, 5]),
    SamplingParams(temperature=0.7, top_k=5, top_p=0.9, min_p=0.01, max_new_tokens=8),
    SamplingParams(repetition_penalty=1.2, frequency_penalty=0.1, logit_bias={3: 1.0}),
]
JOINT_SETTINGS = [SamplingParams(max_new_tokens=4), SamplingParams(temperature=0.0)]


class Script(LM):
    """An `LM` without a model: logits of the right shape, of which nobody knows the values."""

    def __init__(self) -> None:
        pass

    def forward_level(self, tree: TokenTree) -> Tensor:
        return torch.empty(tree.num_rows, tree.widths[-1], VOCAB)

    def forward(self, tree: TokenTree) -> Tensor:
        return torch.empty(tree.num_rows, tree.num_nodes, VOCAB)


def faked(value: Any, mode: FakeTensorMode) -> Any:
    """A dataclass with fakes in place of its tensors."""
    if isinstance(value, Tensor):
        return mode.from_tensor(value)
    if not is_dataclass(value):
        return value
    return replace(value, **{f.name: faked(getattr(value, f.name), mode) for f in fields(value)})


def inputs(method: Method, mode: FakeTensorMode) -> tuple[Prefix, Warper, Noise]:
    """What the engine hands to a method, without values."""
    settings = JOINT_SETTINGS if method.drafted_by == "target" else SETTINGS
    settings = [replace(p, max_new_tokens=min(p.max_new_tokens, 8)) for p in settings]
    requests = [Request(p, suited(method, s)) for p, s in zip(PROMPTS, settings, strict=False)]
    prefix = prefix_of(requests, torch.device("cpu"), method.kept)
    warp = Warper.of([r.sampling for r in requests], VOCAB, torch.device("cpu"))
    noise = Noise(torch.arange(len(requests)), prefix.num_new)
    return tuple(faked(value, mode) for value in (prefix, warp, noise))


@pytest.mark.parametrize("method", EVERY_FIXED)
def test_draft_and_verify_never_read_a_value(method):
    script = Script()
    with FakeTensorMode() as mode:
        prefix, warp, noise = inputs(method, mode)
        warp = warp.at(prefix)
        tree = method.draft(script, prefix, warp, noise)
        verdict = method.verify(tree, script.forward(tree), warp, noise)
        prefix.append(block_tokens(tree, verdict), verdict.num_accepted + 1, verdict.ledger)
    assert verdict.next_token.shape == (prefix.lengths.shape[0],)


ON_MODELS = [
    pytest.param(*given.values, "llama", marks=given.marks, id=f"{given.id}-llama")
    for given in EVERY_FIXED
]
ON_MODELS += [
    pytest.param(method, name, id=f"{label(method)}-{name}")
    for method, name in zip(FIXED[-2:], ("gpt2", "gemma3_text"), strict=True)
]


def opened(model: Model, method: Method) -> Session:
    """A session that has read the prompts, its tensors without values."""
    settings = JOINT_SETTINGS if method.drafted_by == "target" else SETTINGS
    settings = [replace(p, max_new_tokens=min(p.max_new_tokens, 8)) for p in settings]
    requests = [Request(p, suited(method, s)) for p, s in zip(PROMPTS, settings, strict=False)]
    with torch.inference_mode():
        session = Session(model, model, method, requests, VOCAB)
        state = session._state
        state.bind(mapped(torch.empty_like, state.values))
    return session


@pytest.mark.slow
@pytest.mark.parametrize(("method", "name"), ON_MODELS)
def test_a_whole_iteration_on_a_real_model_never_reads_a_value(method, name):
    with FakeTensorMode(), torch.inference_mode():
        session = opened(tiny_model(name), method)
        committed = session._iterate(lambda phase: None)
    assert len(committed) == len(session.rows)


@pytest.mark.slow
@pytest.mark.parametrize("method", EVERY_FIXED)
def test_everything_of_an_iteration_is_on_the_models_device(method):
    """What is made on the host would have to be copied, and a device would wait for it."""
    assert_on_device(method, "llama")


USUAL = {"llama", "gpt2", "opt", "falcon", "gemma3_text"}
"""Architectures of different attention, positions and windows; the rest are slow tests."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(a, marks=() if a in USUAL else pytest.mark.slow) for a in ARCHITECTURES],
)
def test_nothing_of_any_architecture_comes_from_the_host(name):
    assert_on_device(FIXED[-2], name)


def assert_on_device(method: Method, name: str) -> None:
    def check(function, args, kwargs, run):
        result = run()
        assert {t.device.type for t in tensors((args, kwargs, result))} <= {"meta"}, function
        return result

    session = opened(tiny_model(name).to("meta"), method)
    with torch.inference_mode(), Interceptor(check):
        session._iterate(lambda phase: None)


def test_a_tensor_on_the_host_is_noticed():
    class Elsewhere(Autoregressive):
        def draft(self, lm, prefix, warp, noise):
            torch.arange(3)
            return super().draft(lm, prefix, warp, noise)

    with pytest.raises(AssertionError, match="arange"):
        assert_on_device(Elsewhere(), "llama")


@pytest.mark.slow
def test_a_read_is_noticed():
    """BiLD asks once per draft step whether any row goes on; the checks above would catch it."""
    method = next(m for m in variants() if m.name == "bild")
    with FakeTensorMode(), torch.inference_mode():
        session = opened(tiny_model("llama"), method)
        with pytest.raises(DataDependentOutputException):
            session._iterate(lambda phase: None)
    with FakeTensorMode() as mode:
        prefix, warp, noise = inputs(method, mode)
        with pytest.raises(DataDependentOutputException):
            method.draft(Script(), prefix, warp.at(prefix), noise)
