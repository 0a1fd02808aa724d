"""Folders of drafts that know a part of the target's tokens: loaded, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.saved_pair import folder, tokenizer
from support.trimmed import trimmed
from transformers import LlamaForCausalLM

from mtad.api.pair import ModelPair, load_pair
from mtad.errors import CheckpointError, VocabularyMismatchError
from mtad.model.trimmed import stand_for, stood_for

KNOWN = [*range(4, 60, 3), *range(100, 290, 2)]


def draft_folder(
    to: Path, embedding: bool, d2t: torch.Tensor | None = None, t2d: bool | None = True
) -> Path:
    """The saved draft with the head's rows of some tokens alone, and the map beside its weights."""
    whole = LlamaForCausalLM.from_pretrained(folder() / "draft")
    model = trimmed(whole, KNOWN, embedding)
    model.save_pretrained(to)
    file = to / "model.safetensors"
    weights = load_file(file)
    ids = torch.tensor(KNOWN)
    weights["d2t"] = ids - torch.arange(len(KNOWN)) if d2t is None else d2t
    if t2d is not None:
        mask = torch.zeros(len(tokenizer()), dtype=torch.bool)
        mask[ids] = t2d
        weights["t2d"] = mask
    save_file(weights, file, metadata={"format": "pt"})
    size = len(KNOWN) if embedding else len(tokenizer())
    config = json.loads((to / "config.json").read_text(encoding="utf-8"))
    (to / "config.json").write_text(json.dumps({**config, "vocab_size": size}), encoding="utf-8")
    return to


@pytest.mark.slow
@pytest.mark.parametrize("embedding", [False, True])
def test_a_folder_with_its_map(tmp_path: Path, embedding: bool) -> None:
    pair = load_pair(target=folder() / "target", draft=draft_folder(tmp_path, embedding))
    assert pair.models.draft is not None
    ids = stood_for(pair.models.draft)
    assert ids is not None and ids.tolist() == KNOWN
    expected = LlamaForCausalLM.from_pretrained(folder() / "draft").lm_head.weight[KNOWN]
    assert torch.equal(pair.models.draft.lm_head.weight, expected)
    greedy = {"temperature": 0.0, "max_new_tokens": 20}
    plain = pair.generate("the cat", "autoregressive", **greedy)[0]
    for method in ("mcss", "mtad"):
        done = pair.generate("the cat", method, guard=False, **greedy)[0]
        assert done.token_ids == plain.token_ids
        assert done.stats.as_dict()["num_spec_steps"] < 20 or embedding


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        (torch.zeros(5, dtype=torch.int64), r"5 token ids are given for the \d+ rows"),
        (torch.full((len(KNOWN),), 299), r"row \d+ stands for token id \d+, and the target has"),
        (-torch.arange(len(KNOWN)), "rows 0 and 1 both stand for token id 0"),
        (torch.full((len(KNOWN),), -1), "row 0 stands for token id -1; ids are 0 or more"),
        (torch.zeros(len(KNOWN)), "must be a vector of whole numbers"),
    ],
    ids=["length", "range", "twice", "negative", "floats"],
)
def test_maps_that_cannot_be(tmp_path: Path, offsets: torch.Tensor, message: str) -> None:
    path = draft_folder(tmp_path, True, offsets, t2d=None)
    with pytest.raises(VocabularyMismatchError, match=message):
        load_pair(target=folder() / "target", draft=path)


def test_a_map_that_holds_ids_where_offsets_belong(tmp_path: Path) -> None:
    with pytest.raises(VocabularyMismatchError, match=r"t2d .* other tokens than d2t leads to"):
        load_pair(
            target=folder() / "target", draft=draft_folder(tmp_path, True, torch.tensor(KNOWN))
        )


def test_another_weight_of_another_size(tmp_path: Path) -> None:
    path = draft_folder(tmp_path, False)
    weights = load_file(path / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"][:8].clone()
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError):
        load_pair(target=folder() / "target", draft=path)


def test_models_in_memory() -> None:
    target = LlamaForCausalLM.from_pretrained(folder() / "target")
    draft = trimmed(LlamaForCausalLM.from_pretrained(folder() / "draft"), KNOWN)
    pair = ModelPair(target, draft, tokenizer())
    assert pair.generate("the cat", "mtad", seed=0, max_new_tokens=5)[0].token_ids
    with pytest.raises(VocabularyMismatchError, match="2 token ids are given for"):
        stand_for(draft, [1, 2])
