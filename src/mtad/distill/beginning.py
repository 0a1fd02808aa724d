"""How a head begins: in closed form, from the target's own weights; nothing is random.

A ridge regression from (embedding of a token, state before it) to the state after it gives at once
what long training gives a draft that begins elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mtad.distill.states import States
from mtad.model.context import embedding_rows
from mtad.model.forward import output_head
from mtad.model.lm import Model
from mtad.model.recurrent_head import HeadConfig, RecurrentHead
from mtad.runtime.linear.kernel import weight_of

RIDGE = 1e-2
"""Added to the diagonal, per place, in units of the inputs' mean square."""


def frequent_tokens(tokens: Iterable[int], size: int, vocab: int) -> Int[Tensor, " draft_vocab"]:
    """The ids of the `size` tokens that occur most, ascending; the lowest ids where too few do."""
    counts = Counter(dict.fromkeys(range(vocab), 0))
    counts.update(tokens)
    kept = sorted(token for token, _ in counts.most_common(min(size, vocab)))
    return torch.tensor(kept, dtype=torch.int64)


def logits_after(model: Model) -> Callable[[Tensor], Tensor]:
    """What gives the target's logits (n, V), float32, after states (n, H) that enter its head."""
    output, dtype, config = output_head(model), model.dtype, _config(model)

    def read(hidden: Tensor) -> Tensor:
        return as_logits(config, output(hidden.to(model.device, dtype)).float())

    return read


def as_logits(config: Any, scored: Float[Tensor, "n tokens"]) -> Float[Tensor, "n tokens"]:
    """The logits that a model of this config makes of what its output layer says."""
    scored = scored * _logit_scale(config)
    cap = getattr(config, "final_logit_softcapping", None)
    return torch.tanh(scored / cap) * cap if cap else scored


def head_for(model: Model, d2t: Int[Tensor, " draft_vocab"]) -> RecurrentHead:
    """An untrained head: the target's norm, output rows and, where it has the form, feed-forward.

    Args:
        model: the target.
        d2t: the tokens that the head can draft.
    """
    rows, config, mlp = weight_of(output_head(model)), _config(model), _last_mlp(model)
    inner = mlp.gate_proj.out_features if mlp else 3 * config.hidden_size
    head = RecurrentHead(
        HeadConfig(
            hidden_size=config.hidden_size,
            intermediate_size=inner,
            vocab_size=embedding_rows(model),
            draft_vocab_size=len(d2t),
            rms_norm_eps=getattr(config, "rms_norm_eps", 1e-6),
            logit_scale=_logit_scale(config),
        ),
        model.get_input_embeddings(),
    )
    weight, bias = last_norm(model)
    with torch.no_grad():
        head.d2t.copy_(d2t)
        head.norm_weight.copy_(weight)
        head.norm_bias.copy_(bias)
        head.lm_head.weight.copy_(rows[d2t])
        for blank in (head.fc.weight, head.fc.bias, head.down.weight):
            blank.zero_()
        if mlp:
            head.gate_up.weight.copy_(torch.cat([weight_of(mlp.gate_proj), weight_of(mlp.up_proj)]))
            head.mlp_norm.copy_(_norm_before_mlp(model))
    return head


@torch.no_grad()
def fit_linear(head: RecurrentHead, states: States, num_places: int = 131_072) -> float:
    """Set `head.fc` to the ridge regression of the next state; the share of variance it explains.

    Args:
        head: begun by `head_for`.
        states: of the target's answers.
        num_places: most places that are looked at.
    """
    places = states.starts(1)
    places = places[:: max(1, len(places) // num_places)]
    width = 2 * head.config.hidden_size + 1
    gram = head.fc.weight.new_zeros(width, width)
    cross, total = (head.fc.weight.new_zeros(rows, width // 2) for rows in (width, 2))
    for chunk in torch.split(places, 8192):
        read = embedded(head, states, chunk), entered(head, states, chunk)
        x = torch.cat([*read, gram.new_ones(len(chunk), 1)], dim=1)
        y = entered(head, states, chunk + 1)
        gram += x.T @ x
        cross += x.T @ y
        total += torch.stack([y.sum(0), y.square().sum(0)])
    ridge = gram.new_full((width,), RIDGE * len(places))
    ridge[-1] = 0.0
    solved = torch.linalg.solve(gram + ridge.diag(), cross)
    head.fc.weight.copy_(solved[:-1].T)
    head.fc.bias.copy_(solved[-1])
    variance = total[1].sum() - (total[0].square() / len(places)).sum()
    error = total[1].sum() - 2 * (solved * cross).sum() + (solved * (gram @ solved)).sum()
    return float(1 - error / variance)


def embedded(
    head: RecurrentHead, states: States, places: Int[Tensor, " chunk"]
) -> Float[Tensor, "chunk hidden"]:
    """The embeddings of the tokens at some places, on the head's device."""
    return head.embed(states.tokens[places].to(head.device)).float()


def entered(
    head: RecurrentHead, states: States, places: Int[Tensor, " chunk"]
) -> Float[Tensor, "chunk hidden"]:
    """The states before those tokens, as the head has them, on its device."""
    return head.enter(states.hidden[places].to(head.device).float())


@torch.inference_mode()
def last_norm(model: Model) -> tuple[Float[Tensor, " hidden"], Float[Tensor, " hidden"]]:
    """The weight and bias that the target's last norm has in effect, as float32.

    Found by what it makes of a vector of mean 0 and mean square 1, and of its opposite, so that
    norms which add 1 to their weight, or center, need no knowledge of their own. Ones and zeros
    where the target ends in no norm.
    """
    size = _config(model).hidden_size
    norm = _last_norm_module(model)
    if norm is None:
        ones = torch.ones(size, dtype=torch.float32)
        return ones, ones * 0
    weight = next(norm.parameters())
    probe = torch.ones(size, dtype=weight.dtype, device=weight.device)
    probe[1::2] = -1.0
    up, down = norm(probe[None])[0].float().cpu(), norm(-probe[None])[0].float().cpu()
    effective = (up - down) / 2 * probe.float().cpu()
    return torch.where(effective.abs() < 1e-3, 1e-3, effective), (up + down) / 2


def _last_norm_module(model: Model) -> nn.Module | None:
    """The last module with "norm" or "ln" in its name that lies outside of the layers."""
    base: Any = model.base_model
    base = getattr(base, "decoder", base)
    named = [m for name, m in base.named_children() if "norm" in name or name.startswith("ln")]
    return named[-1] if named and next(named[-1].parameters(), None) is not None else None


def _last_mlp(model: Model) -> Any | None:
    """The feed-forward of the last layer, if it is a gated one in the manner of Llama."""
    layers: Any = getattr(model.base_model, "layers", None)
    mlp: Any = getattr(layers[-1], "mlp", None) if layers is not None else None
    names = ("gate_proj", "up_proj", "down_proj")
    return mlp if mlp is not None and all(hasattr(mlp, name) for name in names) else None


def _norm_before_mlp(model: Model) -> Tensor:
    layers: Any = model.base_model.layers
    norm = getattr(layers[-1], "post_attention_layernorm", None)
    weight = getattr(norm, "weight", None)
    size = _config(model).hidden_size
    return torch.ones(size, dtype=torch.float32) if weight is None else weight


def _config(model: Model) -> Any:
    return model.config.get_text_config()


def _logit_scale(config: Any) -> float:
    """What some families multiply, or divide, the logits by."""
    return float(getattr(config, "logit_scale", None) or 1 / getattr(config, "logits_scaling", 1))
