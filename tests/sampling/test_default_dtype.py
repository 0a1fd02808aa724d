"""Texts do not depend on torch's default dtype: every tensor is made with a dtype of its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import VOCAB, complete, honours, similar, some_variants

import mtad
from mtad.speculative.method import Method
from mtad.testing import random_llama

SOURCES = Path(mtad.__file__).parent
MAKERS = set("tensor zeros ones full empty eye linspace rand randn scalar_tensor".split())
"""Functions of torch whose results have the default dtype where none is named."""

PENALTIES = {"repetition_penalty": 1.2, "frequency_penalty": 0.3, "presence_penalty": 0.2}
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.01, **PENALTIES},
    {"logit_bias": {5: 1.0}, "suppress_tokens": [7], "min_new_tokens": 5, "eos_token_ids": [3]},
    {"temperature": 0.0, **PENALTIES},
    {},
]


@contextmanager
def default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.slow
@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float64, marks=pytest.mark.slow)], ids=str
)
@pytest.mark.parametrize("method", some_variants(fast=("mcss", "mmtad", "mtad", "mtjd")))
def test_the_default_dtype_changes_no_text(method: Method, dtype: torch.dtype) -> None:
    target = random_llama(vocab=VOCAB)
    draft = similar(target)
    for index, given in enumerate(s for s in SETTINGS if honours(method, **s)):
        params = mtad.SamplingParams(max_new_tokens=7, seed=index, **given)
        wanted = complete(target, draft, method, [[3, 5, 7], [8]], params)
        with default(dtype):
            texts = complete(target, draft, method, [[3, 5, 7], [8]], params)
        assert [t.token_ids for t in texts] == [t.token_ids for t in wanted]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_models_of_known_distributions_are_float32(dtype: torch.dtype) -> None:
    with default(dtype):
        made = [random_llama(), mtad.testing.markov_model([[0.5, 0.5], [0.1, 0.9]])]
    assert {model.dtype for model in made} == {torch.float32}
    assert torch.equal(made[0].lm_head.weight, random_llama().lm_head.weight)


def without_dtype(source: str) -> list[int]:
    """The lines where a tensor is made without a dtype."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [
        call.lineno
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in MAKERS
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "torch"
        and "dtype" not in {word.arg for word in call.keywords}
    ]


def test_how_tensors_without_dtype_are_found() -> None:
    assert without_dtype("torch.zeros(3)\ntorch.full((2,), 1)\ntorch.arange(4)") == [1, 2]
    assert without_dtype("torch.zeros(3, dtype=torch.int64)\nx.new_zeros(3)") == []


@pytest.mark.slow
def test_every_tensor_is_made_with_a_dtype() -> None:
    found = {
        f"{path.relative_to(SOURCES)}:{line}"
        for path in sorted(SOURCES.rglob("*.py"))
        for line in without_dtype(path.read_text(encoding="utf-8"))
    }
    assert found == set()
