"""A head as a folder: config.json and model.safetensors, in the form that speculators has.

`d2t` holds offsets (token id minus place), `t2d` which tokens are drafted; weights are named as
those of a decoder layer. Output rows that are the target's own are not stored. Knows no method.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mtad.errors import CheckpointError, VocabularyMismatchError, first_line
from mtad.model.context import embedding_rows
from mtad.model.copy_rates import NAME, checked
from mtad.model.drafter import Model
from mtad.model.forward import output_head
from mtad.model.recurrent_head import HeadConfig, RecurrentHead
from mtad.runtime.linear.kernel import Kernel, weight_of

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TYPE = "mtad_recurrent"
_NAMES = {
    "fc.weight": "fc.weight",
    "fc.bias": "fc.bias",
    "mlp_norm": "layers.0.post_attention_layernorm.weight",
    "down.weight": "layers.0.mlp.down_proj.weight",
    "norm_weight": "norm.weight",
    "norm_bias": "norm.bias",
}
"""Names in the file of what is stored as it is, by its name in the head."""
_GATE, _UP = "layers.0.mlp.gate_proj.weight", "layers.0.mlp.up_proj.weight"
_OUTPUT = "lm_head.weight"
_REQUIRED = {*_NAMES.values(), _GATE, _UP, "d2t"}
_KNOWN = _REQUIRED | {_OUTPUT, "t2d"}
_NUM_NORMS, _CLOSE = 16, 0.02
"""Rows of the target's embedding whose lengths a head remembers, and how near they must be: a
target in another type, or quantised, is the same; another model is not."""


def is_head(path: str | Path) -> bool:
    """Whether a folder holds a head that can be loaded.

    Raises:
        CheckpointError: it holds a speculator of another type.
    """
    try:
        config = json.loads((Path(path) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # whoever loads it as a model says what is wrong
    kind = config.get("speculators_model_type") if isinstance(config, dict) else None
    if kind not in (None, TYPE):
        raise _error(path, f"it is a speculator of type {kind!r}; of these, {TYPE!r} can be loaded")
    return kind == TYPE


def refuse_options(**given: Any) -> None:
    """Refuse options of the loading that a head cannot have.

    Raises:
        ValueError: one of them is set.
    """
    for name, value in given.items():
        if value:
            raise ValueError(
                f"{name} is {str(value)!r}, and the draft is a head: it is where its target is, in "
                "one process and one type; leave it out, or take a model as the draft"
            )


def save_head(head: RecurrentHead, folder: str | Path, target: Model) -> None:
    """Write a head to a folder, which is made where it is not there.

    Args:
        head: the head.
        folder: where to; a head that is there is replaced.
        target: the model that it was made for.
    """
    folder, state = Path(folder), head.state_dict()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: state[own] for own, name in _NAMES.items()}
    tensors[_GATE], tensors[_UP] = state["gate_up.weight"].chunk(2)
    ids, rows = state["d2t"], state[_OUTPUT]
    tensors["d2t"] = ids - torch.arange(len(ids), device=ids.device)
    tensors["t2d"] = torch.zeros(head.config.vocab_size, dtype=torch.bool)
    tensors["t2d"][ids.cpu()] = True
    if not torch.equal(rows, target_rows(target, ids).to(rows)):
        tensors[_OUTPUT] = rows
    save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, folder / WEIGHTS)
    text = json.dumps(_config_of(head, target), indent=2)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def _config_of(head: RecurrentHead, target: Model) -> dict[str, Any]:
    """What config.json says."""
    own = head.config
    layer = {
        "hidden_size": own.hidden_size,
        "intermediate_size": own.intermediate_size,
        "vocab_size": own.vocab_size,
        "rms_norm_eps": own.rms_norm_eps,
        "hidden_act": "silu",
    }
    verifier = {
        "name_or_path": str(target.name_or_path),
        "architectures": [type(target).__name__],
        "embedding_norms": _norms(target),
    }
    return {
        "architectures": [RecurrentHead.__name__],
        "speculators_model_type": TYPE,
        "speculators_version": f"mtad {version('mtad')}",
        "speculators_config": {
            "algorithm": TYPE,
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 4}],
            "verifier": verifier,
        },
        "transformer_layer_config": layer,
        "draft_vocab_size": own.draft_vocab_size,
        "logit_scale": own.logit_scale,
        NAME: list(own.copy_rates),
        "dtype": str(head.dtype).removeprefix("torch."),
    }


def load_head(
    folder: str | Path, target: Model, *, trust_vocabulary: bool = False
) -> RecurrentHead:
    """The head of a folder, in the type and on the device of its target's embedding.

    Args:
        folder: where `save_head` wrote it.
        target: the model that it was made for.
        trust_vocabulary: take a target whose embedding is another than that which it was made for.

    Raises:
        CheckpointError: nothing there, damaged, or tensors are missing or of another shape.
        VocabularyMismatchError: it was made for another target.
    """
    config = _read_config(folder)
    own = _head_config(folder, config)
    if (rows := embedding_rows(target)) != own.vocab_size:
        raise VocabularyMismatchError(
            f"the head in {str(folder)!r} was made for {own.vocab_size} token ids, and the target "
            f"has {rows}; take a head that was made for this target"
        )
    embedding: Any = target.get_input_embeddings()
    if (size := int(embedding.weight.shape[1])) != own.hidden_size:
        raise _error(
            folder,
            f"it reads hidden states of {own.hidden_size} numbers, and the target's have {size}; "
            "take a head that was made for this target",
        )
    if not trust_vocabulary:
        _require_same_target(folder, config, target)
    state = _read_state(folder, own, target)
    head = RecurrentHead(own, embedding)
    try:
        head.load_state_dict(state)
    except RuntimeError as error:
        shapes = str(error).partition("\n")[2].strip().split("\n")[0]
        raise _error(folder, f"its tensors are not those of its config: {shapes}") from error
    head.name_or_path = str(folder)
    return head.to(embedding.weight.device, embedding.weight.dtype).eval()


def target_rows(target: Model, ids: Int[Tensor, " tokens"]) -> Float[Tensor, "tokens hidden"]:
    """The target's output rows of these tokens.

    Raises:
        CheckpointError: they are not there as numbers.
    """
    output = output_head(target)
    is_readable = isinstance(output, Kernel) or hasattr(output, "weight")
    weight = weight_of(output) if is_readable else None
    if weight is None or not weight.is_floating_point():
        raise CheckpointError(
            "the output rows of the target cannot be read, since they are quantised; take a head "
            "that has rows of its own"
        )
    return weight[ids.to(weight.device)]


def _read_config(folder: str | Path) -> dict[str, Any]:
    try:
        config = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _error(folder, f"its {CONFIG} cannot be read ({first_line(error)})") from error
    if not isinstance(config, dict) or config.get("speculators_model_type") != TYPE:
        raise _error(folder, f"its {CONFIG} has no speculators_model_type {TYPE!r}")
    return config


def _head_config(folder: str | Path, config: dict[str, Any]) -> HeadConfig:
    try:
        layer = config["transformer_layer_config"]
        return HeadConfig(
            hidden_size=int(layer["hidden_size"]),
            intermediate_size=int(layer["intermediate_size"]),
            vocab_size=int(layer["vocab_size"]),
            draft_vocab_size=int(config["draft_vocab_size"]),
            rms_norm_eps=float(layer["rms_norm_eps"]),
            logit_scale=float(config.get("logit_scale", 1.0)),
            copy_rates=checked(config.get(NAME)),
        )
    except (KeyError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {first_line(error)}"
        raise _error(folder, f"its {CONFIG} is not that of a head ({what})") from error


def _read_state(folder: str | Path, own: HeadConfig, target: Model) -> dict[str, Tensor]:
    """The tensors by their names in the head."""
    try:
        found = load_file(Path(folder) / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise _error(folder, f"its {WEIGHTS} cannot be read ({first_line(error)})") from error
    for which, names in (("lacks", _REQUIRED - found.keys()), ("has", found.keys() - _KNOWN)):
        if names:
            there = ", ".join(sorted(names))
            also = "" if which == "lacks" else ", which a head does not have"
            raise _error(folder, f"its {WEIGHTS} {which} {there}{also}")
    ids = found["d2t"] + torch.arange(len(found["d2t"]))
    is_ascending = bool((ids.diff() > 0).all()) and len(ids) == own.draft_vocab_size
    if not is_ascending or int(ids[0]) < 0 or int(ids[-1]) >= own.vocab_size:
        raise _error(
            folder,
            f"its d2t must say {own.draft_vocab_size} ascending token ids below {own.vocab_size}",
        )
    state = {own_name: found[name] for own_name, name in _NAMES.items()}
    state["gate_up.weight"] = torch.cat([found[_GATE], found[_UP]])
    state["d2t"] = ids
    rows = found[_OUTPUT] if _OUTPUT in found else target_rows(target, ids)
    state[_OUTPUT] = rows.to(state["fc.weight"])
    return state


@torch.no_grad()
def _norms(target: Model) -> list[float]:
    """Lengths of some rows of the target's embedding."""
    embedding: Any = target.get_input_embeddings()
    count = embedding.weight.shape[0]
    some = [place * (count - 1) // (_NUM_NORMS - 1) for place in range(_NUM_NORMS)]
    rows = embedding.weight[torch.tensor(some, dtype=torch.int64, device=embedding.weight.device)]
    return [round(norm, 6) for norm in rows.float().norm(dim=1).tolist()]


def _require_same_target(folder: str | Path, config: dict[str, Any], target: Model) -> None:
    """Refuse a target whose embedding is another than that which the head was made for."""
    try:
        verifier = config["speculators_config"]["verifier"]
        made_for = [float(norm) for norm in verifier["embedding_norms"]]
        name = verifier.get("name_or_path") or "another model"
    except (KeyError, TypeError, ValueError) as error:
        raise _error(folder, f"its {CONFIG} does not say what target it was made for") from error
    ours = _norms(target)
    reach = _CLOSE * sum(ours) / len(ours)
    same = len(ours) == len(made_for) and all(
        abs(one - other) <= reach for one, other in zip(ours, made_for, strict=True)
    )
    if not same:
        raise VocabularyMismatchError(
            f"the head in {str(folder)!r} was made for {name}, whose embedding is another than the "
            "target's; take a head that was made for this target, or give trust_vocabulary=True "
            "(--trust-vocabulary) if their ids and states mean the same all the same"
        )


def _error(folder: str | Path, why: str) -> CheckpointError:
    return CheckpointError(f"cannot load the draft from {str(folder)!r}: {why}")
