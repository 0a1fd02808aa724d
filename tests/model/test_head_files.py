"""Heads in files: what comes back, what is not stored, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.heads import random_head
from support.tiny import PROMPTS, tiny_model

from mtad import ModelPair, load_pair
from mtad.errors import CheckpointError, UnsupportedModelError, VocabularyMismatchError
from mtad.model.head_drafter import attach
from mtad.model.head_files import load_head, save_head
from mtad.model.lm import Model
from mtad.model.recurrent_head import RecurrentHead
from mtad.testing import random_llama

GREEDY = {"temperature": 0.0, "max_new_tokens": 12, "ignore_eos": True, "guard": False}


@pytest.fixture(scope="module")
def target() -> Model:
    return random_llama()


@pytest.fixture(scope="module")
def head(target: Model) -> RecurrentHead:
    return random_head(target, 40)


@pytest.fixture
def folder(tmp_path: Path, head: RecurrentHead, target: Model) -> Path:
    save_head(head, tmp_path / "head", target)
    return tmp_path / "head"


@pytest.fixture(scope="module")
def target_folder(tmp_path_factory: pytest.TempPathFactory, target: Model) -> Path:
    path = tmp_path_factory.mktemp("models") / "target"
    target.save_pretrained(path)
    return path


def edit(folder: Path, **changes: Any) -> None:
    """Change the config of a saved head."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_head_comes_back_as_it_was_and_without_the_targets_rows(folder, head, target):
    stored = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in stored
    places = torch.arange(40)
    assert torch.equal(stored["d2t"] + places, head.d2t)
    assert stored["t2d"].nonzero()[:, 0].tolist() == head.d2t.tolist()
    found, expected = load_head(folder, target).state_dict(), head.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_rows_that_are_not_the_targets_are_stored(tmp_path, target):
    head = random_head(target, 40)
    with torch.no_grad():
        head.lm_head.weight.mul_(1.5)
    save_head(head, tmp_path, target)
    assert torch.equal(load_head(tmp_path, target).lm_head.weight, head.lm_head.weight)


def test_a_config_says_what_the_form_of_speculators_does(folder, target):
    config = json.loads((folder / "config.json").read_text())
    assert config["speculators_model_type"] == "mtad_recurrent"
    assert config["draft_vocab_size"] == 40
    assert config["transformer_layer_config"]["hidden_size"] == target.config.hidden_size
    assert config["speculators_config"]["verifier"]["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.slow
def test_a_pair_with_a_heads_folder_decodes_as_the_target(folder, target_folder, target):
    pair = load_pair(target=target_folder, draft=folder)
    assert isinstance(pair.models.draft, RecurrentHead)
    texts = pair.generate(PROMPTS, "speculative_sampling", **GREEDY)
    alone = ModelPair(target).generate(PROMPTS, "autoregressive", **GREEDY)
    assert [text.token_ids for text in texts] == [text.token_ids for text in alone]


@pytest.mark.slow
def test_a_head_takes_the_type_of_its_target(folder, target_folder):
    pair = load_pair(target=target_folder, draft=folder, dtype="bfloat16")
    assert {weight.dtype for weight in pair.models.draft.parameters()} == {torch.bfloat16}
    assert pair.generate([PROMPTS[0]], "mtad", seed=1, **GREEDY | {"temperature": 1.0})


@pytest.mark.parametrize(
    "option", [{"draft_dtype": "float32"}, {"draft_device": "cpu"}, {"draft_options": {"token": 1}}]
)
def test_options_that_a_head_cannot_have_are_refused(folder, target_folder, option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} is .* the draft is a head"):
        load_pair(target=target_folder, draft=folder, **option)


def test_a_speculator_of_another_type_is_named(folder, target_folder):
    edit(folder, speculators_model_type="eagle3")
    with pytest.raises(CheckpointError, match="'eagle3'; of these, 'mtad_recurrent' can be loaded"):
        load_pair(target=target_folder, draft=folder)


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        ({"drop": "fc.weight"}, CheckpointError, "lacks fc.weight"),
        ({"add": "layers.0.self_attn.q_proj.weight"}, CheckpointError, "q_proj.weight, which a"),
        ({"swap": "d2t"}, CheckpointError, "d2t must say 40 ascending token ids below 61"),
        ({"cut": "fc.weight"}, CheckpointError, "not those of its config: size mismatch for fc"),
    ],
)
def test_tensors_that_are_not_a_heads_are_named(folder, target, spoil, error, words):
    tensors = load_file(folder / "model.safetensors")
    (how, name), *_ = spoil.items()
    if how == "add":
        tensors[name] = torch.zeros(1)
    else:
        value = tensors.pop(name)
        tensors |= {} if how == "drop" else {name: value.flip(0) if how == "swap" else value[1:]}
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(error, match=words):
        load_head(folder, target)


def test_files_that_are_missing_or_damaged_are_named(folder, target):
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_head(folder, target)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_head(folder, target)
    edit(folder, transformer_layer_config={})
    with pytest.raises(CheckpointError, match="not that of a head"):
        load_head(folder, target)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        load_head(folder, target)


def test_a_head_of_another_target_is_refused_unless_that_is_trusted(folder):
    other = random_llama(seed=3)
    with pytest.raises(VocabularyMismatchError, match="whose embedding is another"):
        load_head(folder, other)
    load_head(folder, other, trust_vocabulary=True)
    with pytest.raises(VocabularyMismatchError, match="61 token ids, and the target has 50"):
        load_head(folder, random_llama(vocab=50))
    with pytest.raises(CheckpointError, match="states of 32 numbers, and the target's have 64"):
        load_head(folder, random_llama(hidden=64))


def test_the_same_target_in_another_type_is_the_same_target(folder, target_folder):
    load_pair(target=target_folder, draft=folder, dtype="float16")


def test_a_head_that_does_not_fit_makes_no_pair(head, target):
    with pytest.raises(UnsupportedModelError, match=r"states of 32 numbers, .* have 64"):
        ModelPair(random_llama(hidden=64), head)
    with pytest.raises(VocabularyMismatchError, match="made for 61 token ids"):
        ModelPair(random_llama(vocab=50), head)
    with pytest.raises(ValueError, match=r"dtype is torch.float32, .* torch.bfloat16"):
        ModelPair(random_llama().bfloat16(), head)
    spread = tiny_model("llama")
    spread._tp_size = 2
    with pytest.raises(UnsupportedModelError, match="spread over 2 processes"):
        attach(head, spread)
