"""Folders of drafts that know a part of the target's tokens, and say which in a tensor `d2t`.

As speculators, vLLM and EAGLE-3 store it beside the weights: `d2t` (D,) has, for each token of the
draft, how much larger the target's id is, so that target id = draft id + d2t[draft id]. `t2d` (V,),
which may be there too, is true for the target's tokens that the draft has. The head has D rows; the
embedding has these rows, too, or one for each of the target's tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import safe_open
from torch import Tensor, nn

from mtad.errors import VocabularyMismatchError
from mtad.model.lm import Model
from mtad.model.trimmed import set_head, stand_for, stood_for


def save_trimmed(model: Model, folder: str | Path, vocab: int) -> None:
    """Write a model to a folder, with `d2t` and `t2d`.

    Args:
        model: one that `stand_for` was called with.
        folder: where to; it is made where it is not there.
        vocab: V, token ids of the target.
    """
    ids = stood_for(model)
    assert ids is not None, "the model's logits are of all tokens"
    state = model.state_dict()
    state["d2t"] = ids - torch.arange(len(ids), device=ids.device)
    state["t2d"] = torch.zeros(vocab, dtype=torch.bool).scatter(0, ids.cpu(), True)
    anything: Any = model
    anything.config.draft_vocab_size = len(ids)
    anything.save_pretrained(folder, state_dict=state)


def stored(path: str | Path, name: str, options: dict[str, Any]) -> Shaped[Tensor, "..."] | None:
    """A tensor of a folder's safetensors, None if there is none of this name."""
    folder = Path(path) / str(options.get("subfolder", ""))
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            if name in set(weights.keys()):
                found: Tensor = weights.get_tensor(name)
                return found
    return None


def _under_another_name(
    model: Any, path: str | Path, options: dict[str, Any]
) -> Shaped[Tensor, "..."] | None:
    """The head of a family whose files call it as the model once did; None if that is unclear."""
    known = {*model.state_dict(), "d2t", "t2d"}
    folder = Path(path) / str(options.get("subfolder", ""))
    names = [name for file in folder.glob("*.safetensors") for name in _names(file) - known]
    only = [name for name in names if name.endswith(".weight")]
    return stored(path, only[0], options) if len(only) == 1 else None


def _names(file: Path) -> set[str]:
    with safe_open(file, framework="pt") as weights:
        return set(weights.keys())


def token_ids_in(path: str | Path, options: dict[str, Any]) -> list[int] | None:
    """The target's token id of each of the draft's tokens; None where the folder has no `d2t`.

    Raises:
        VocabularyMismatchError: `d2t` is no vector of whole numbers, or says other than `t2d`.
    """
    offsets = stored(path, "d2t", options)
    if offsets is None:
        return None
    if offsets.dim() != 1 or offsets.is_floating_point() or offsets.dtype == torch.bool:
        raise VocabularyMismatchError(
            f"d2t in {str(path)!r} is {offsets.dtype} of shape {tuple(offsets.shape)}; it must be "
            "a vector of whole numbers, target id minus draft id for each of the draft's tokens"
        )
    ids = offsets.long() + torch.arange(len(offsets), device=offsets.device)
    mask = stored(path, "t2d", options)
    if mask is not None and not torch.equal(mask.nonzero().flatten(), ids.sort().values):
        raise VocabularyMismatchError(
            f"t2d in {str(path)!r} is true for other tokens than d2t leads to; d2t must hold "
            "target id minus draft id, and t2d be true for these target ids alone"
        )
    found: list[int] = ids.tolist()
    return found


def trimmed_as_stored(
    model: Any, token_ids: list[int], info: Any, path: str | Path, options: dict[str, Any]
) -> Model:
    """A model with the head that its folder has, of these tokens of the target.

    Args:
        model: as it was loaded; its head is new where its size is not that of the config.
        token_ids: the target's id of each row of the head.
        info: transformers' loading info; a head of another size is no longer a mismatch.
        path, options: where it was loaded from.

    Raises:
        VocabularyMismatchError: `d2t` doesn't fit the head.
    """
    head = model.get_output_embeddings()
    name = next((f"{name}.weight" for name, part in model.named_modules() if part is head), "")
    others = [entry for entry in info["mismatched_keys"] if entry[0] != name]
    weight = None
    if len(others) < len(info["mismatched_keys"]):
        weight = stored(path, name, options)
        if weight is None:
            weight = _under_another_name(model, path, options)
    if weight is not None:
        fitting = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        fitting.weight = nn.Parameter(weight.to(head.weight), requires_grad=False)
        set_head(model, fitting)
        info["mismatched_keys"] = others
    found: Model = stand_for(model, token_ids)
    return found
