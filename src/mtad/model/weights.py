"""The form that the weights of a pair's models are kept in, as the user asked or as is usual.

The target's form decides whether it is the model that was loaded: plain and bf16 weights give the
same logits, int8 ones are another model's. Knows no checkpoint.
"""

from __future__ import annotations

from typing import get_args

from transformers import PreTrainedModel

from mtad.core.names import require_one_of
from mtad.errors import UnsupportedModelError
from mtad.model import parallel
from mtad.model.balancing import balance_target
from mtad.model.drafter import Draft
from mtad.model.settings import Weights
from mtad.model.steady_attention import use_steady_attention
from mtad.model.vocabulary import Tokenizer
from mtad.runtime.linear.formats import (
    BF16,
    INT8,
    MIN_WEIGHTS,
    PLAIN,
    Conversion,
    convert,
    objection_to,
    usual_format,
)
from mtad.runtime.linear.norm import replace_norms

TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers of transformers' models that read the same input; others are multiplied one by one."""
_FORMATS = {one.name: one for one in (PLAIN, BF16, INT8)}


def require_weights(name: str, value: str, has_model: bool = True) -> None:
    """Refuse a form that there is not, or one for a model that there is not.

    Args:
        name: of the option.
        value: what was given.
        has_model: whether there is a model for it.

    Raises:
        ValueError: with the forms that there are.
    """
    require_one_of(name, value, get_args(Weights))
    if value != "auto" and not has_model:
        raise ValueError(f"{name} is {value!r}, and there is no draft; leave {name} out")


def take_form(
    model: Draft, name: str, weights: Weights = "auto", tokenizer: Tokenizer | None = None
) -> Conversion:
    """Bring a model's linear weights into a form, in place; what was done.

    A target in int8 gets the attention of `steady_attention`, so that it is one target whichever
    tree it scores, and the norms of `mtad.runtime.linear.norm` where zentorch is installed; before,
    inputs of its layers are balanced.

    Args:
        model: the target or the draft.
        name: which of them.
        weights: the form; auto is packed bf16 where that is quicker, and leaves the rest alone.
        tokenizer: the target's, see `balance_target`.

    Raises:
        ValueError: the model can't have that form.
        UnsupportedModelError: no layer of the model can, or its attention cannot be switched.
    """
    is_whole = parallel.num_parts(model) == 1
    format = PLAIN
    if weights != "auto":
        format = _FORMATS[weights]
    elif is_whole:
        format = usual_format(model)
    objection = objection_to(format, model) if is_whole or format is PLAIN else "it is in parts"
    if objection:
        raise ValueError(
            f"{name}_weights is {weights!r}, and the {name} can't have that: {objection}; leave "
            f"{name}_weights at 'auto'"
        )
    num_balanced = 0
    if format is INT8 and name == "target" and isinstance(model, PreTrainedModel):
        _make_steady(model)
        num_balanced = balance_target(model, tokenizer)
        replace_norms(model)
    done = convert(model, format, TOGETHER)
    done.num_balanced = num_balanced
    if format is INT8 and not done.kernels:
        raise UnsupportedModelError(
            f"{name}_weights is {weights!r}, and the {name} has no linear layer that could be: "
            f"layers are left alone where they have less than {MIN_WEIGHTS} weights, are quantised "
            f"already, or have no kernel that multiplies correctly; leave {name}_weights at 'auto'"
        )
    return done


def _make_steady(model: PreTrainedModel) -> None:
    if use_steady_attention(model):
        return
    kind = model.config.get_text_config().model_type
    raise UnsupportedModelError(
        f"target_weights is 'int8', and the attention of {kind!r} cannot be switched to one that "
        "reads each token on its own; its 8-bit logits of a token would depend on the tree around "
        "it, and texts of lossless methods on the method; leave target_weights at 'auto'"
    )


def notes_of(done: Conversion, name: str) -> tuple[str, ...]:
    """A line on what the user should know of the form, if there is anything."""
    if done.format is not INT8:
        return ()
    kernels = " and ".join(f"{count} by {label}" for label, count in done.kernels.items())
    left = f"; {done.num_left} layers stay as they are" if done.num_left else ""
    return (
        f"the {name}'s linear weights are int8 ({kernels}), which are off by "
        f"{done.relative_error:.2%} of them (root mean square); inputs of {done.num_balanced} are "
        f"balanced{left}",
    )
