"""What a run notes of its models: packed weights are weights, too."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import mtad
from mtad.bench.conditions import conditions, fingerprint
from mtad.bench.plan import PairSpec
from mtad.runtime.linear.formats import BF16, convert
from mtad.runtime.linear.kernel import weight_of
from mtad.runtime.linear.packed import PackedLinear


@pytest.fixture(scope="module")
def plain() -> mtad.ModelPair:
    forms = {"target_weights": "plain", "draft_weights": "plain"}
    return mtad.load_pair("demo", dtype="bfloat16", **forms)


@pytest.fixture
def packed(plain: mtad.ModelPair) -> mtad.ModelPair:
    target = copy.deepcopy(plain.models.target)
    assert convert(target, BF16).kernels
    return mtad.ModelPair(target, plain.models.draft, plain.tokenizer)


def test_packed_models_have_the_parameters_and_the_fingerprint_of_plain_ones(
    plain: mtad.ModelPair, packed: mtad.ModelPair
) -> None:
    here, there = (conditions(pair, PairSpec(), {}) for pair in (plain, packed))
    assert here["target"]["num_parameters"] == plain.models.target.num_parameters()
    assert there["target"] == here["target"]
    assert there["model_fingerprint"] == here["model_fingerprint"]
    assert (here["target_kernels"], there["target_kernels"]) == ([], ["oneDNN"])


def test_another_packed_weight_is_another_pair(packed: mtad.ModelPair) -> None:
    before, target = fingerprint(packed), packed.models.target
    layer = next(module for module in target.modules() if isinstance(module, PackedLinear))
    other = nn.Linear(layer.in_features, layer.out_features, bias=False).bfloat16()
    with torch.no_grad():
        other.weight.copy_(weight_of(layer) * 2)
    layer.packed = PackedLinear(other).packed
    assert fingerprint(packed) != before
