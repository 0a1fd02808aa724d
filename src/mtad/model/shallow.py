"""Models of some of another's layers: a start for a draft that learns from the other.

Takes apart what keeps its layers in one list, as Llama and most others do. Knows no draft's
training and no checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from mtad.errors import UnsupportedModelError
from mtad.model.forward import output_head
from mtad.model.lm import Model
from mtad.model.trimmed import set_head, stand_for
from mtad.runtime.linear.kernel import weight_of


def spread(num_layers: int, total: int) -> list[int]:
    """So many of a model's layers, evenly, the first and the last among them.

    Raises:
        ValueError: there are not so many.
    """
    if not 1 <= num_layers <= total:
        raise ValueError(
            f"num_layers is {num_layers}, and the target has {total}; it must be from 1 to {total}"
        )
    gaps = max(1, num_layers - 1)
    return [(2 * i * (total - 1) + gaps) // (2 * gaps) for i in range(num_layers)]


def layer_list(model: Model) -> str:
    """The name of the list of a model's layers.

    Raises:
        UnsupportedModelError: it has none that is as long as its config says, or several.
    """
    config: Any = model.config.get_text_config()
    if config is not model.config or config.is_encoder_decoder:
        raise _refusal(model, "it is more than one stack of layers")
    parts: Iterable[tuple[str, nn.Module]] = model.named_modules()
    lists = {name: len(part) for name, part in parts if isinstance(part, nn.ModuleList)}
    outer = [name for name in lists if not any(name.startswith(f"{one}.") for one in lists)]
    found = [name for name in outer if lists[name] == config.num_hidden_layers]
    if len(found) != 1:
        raise _refusal(
            model,
            f"of its lists of modules, {len(found)} are as long as its config's num_hidden_layers "
            f"says, {config.num_hidden_layers}",
        )
    [name] = found
    return name


def shallow(model: Model, layers: Sequence[int], token_ids: Int[Tensor, " tokens"]) -> Model:
    """A model of some layers of another, float32, whose logits are of some tokens alone.

    Embedding, norms and the head's rows are copies of the other's. It stays where it is made, on
    the CPU.

    Args:
        model: the other; it may be packed.
        layers: which of its layers, ascending.
        token_ids: the tokens of the logits.

    Raises:
        UnsupportedModelError: its layers cannot be taken, or its weights not be read.
    """
    name, anything = layer_list(model), _config_of(model, layers)
    head = output_head(model)
    if getattr(head, "bias", None) is not None:
        raise _refusal(model, "its output head has a bias")
    kind: Any = type(model)
    small: Any = kind(anything).float().eval()
    rows = nn.Linear(head.in_features, len(token_ids), bias=False, dtype=torch.float32)
    with torch.no_grad():
        rows.weight.copy_(weight_of(head)[token_ids.to(model.device)])
    own_head = output_head(small)
    sources = {f"{name}.{own}": f"{name}.{layer}" for own, layer in enumerate(layers)}
    for own_name, module in small.named_modules():
        if module is not own_head:
            _copy(model, _renamed(own_name, sources), module)
    set_head(small, rows)
    small.generation_config = copy.deepcopy(model.generation_config)
    return stand_for(small, token_ids.tolist())


def _config_of(model: Model, layers: Sequence[int]) -> Any:
    """The config of these layers; lists that have an entry per layer keep those of these."""
    config = copy.deepcopy(model.config)
    total = config.num_hidden_layers
    for key, value in model.config.to_dict().items():
        if isinstance(value, list | tuple) and len(value) == total and hasattr(config, key):
            setattr(config, key, [value[layer] for layer in layers])
    config.num_hidden_layers = len(layers)
    config.tie_word_embeddings = False
    return config


def _renamed(name: str, sources: Mapping[str, str]) -> str:
    """The name that a module has in the larger model."""
    for own, source in sources.items():
        if name == own or name.startswith(f"{own}."):
            return source + name[len(own) :]
    return name


@torch.no_grad()
def _copy(model: Model, name: str, module: nn.Module) -> None:
    """Give a module the larger model's parameters of that name."""
    for key, own in module.named_parameters(recurse=False):
        try:
            source = model.get_submodule(name)
            value = weight_of(source) if key == "weight" else getattr(source, key)
        except AttributeError:
            value = None
        if value is None or not value.is_floating_point() or value.shape != own.shape:
            raise _refusal(model, f"its {name}.{key} is not one that can be copied")
        own.copy_(value)


def _refusal(model: Model, why: str) -> UnsupportedModelError:
    kind = model.config.model_type
    return UnsupportedModelError(
        f"no draft can be made of layers of the target, whose architecture is {kind!r}: {why}; "
        "make a head (--kind head), or take another model as the draft"
    )
