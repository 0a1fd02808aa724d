"""What a forward needs of the hardware, and so the least time that an iteration can take.

With b rows, n tokens per row, a committed prefix of L tokens, and the device's rates B and F:

    bytes   = weights + b · n · embedding row + b · L · keys and values of a token
    flops   = 2 · weights that are multiplied · b · n
    limit   = max(bytes / B, flops / F),   added up over the forwards of the iteration

Reads of what was just written and the arithmetic of attention are left out: the limit is a bound
from below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from mtad.bench.speed.limits import Limits
from mtad.model.attention import head_size_of
from mtad.model.drafter import Draft, Model
from mtad.model.recurrent_head import RecurrentHead
from mtad.runtime.linear.formats import large_layers


@dataclass(frozen=True)
class ModelCost:
    """What a model reads and multiplies.

    Attributes:
        num_parameters: all of them.
        weight_bytes: weights that every forward reads: all but an embedding table that is not the
            head as well.
        matrix_parameters: weights that every token is multiplied with.
        embedding_row_bytes: read for every token.
        kv_bytes: keys and values of one token in all layers.
    """

    num_parameters: int
    weight_bytes: int
    matrix_parameters: int
    embedding_row_bytes: int
    kv_bytes: int


def cost_of(model: Draft, form: str = "plain") -> ModelCost:
    """The cost of a model whose weights are all plain parameters, or of a head.

    Args:
        model: with plain weights.
        form: that its linear weights have where it decodes.
    """
    cost = _head_cost(model) if isinstance(model, RecurrentHead) else _model_cost(model)
    return replace(cost, weight_bytes=cost.weight_bytes - _saved_bytes(model, form))


def _saved_bytes(model: Draft, form: str) -> int:
    """By 8-bit weights: a byte each, and the scale of each channel."""
    if form != "int8":
        return 0
    layers = [layer for _, _, layer in large_layers(model)]
    return sum(m.weight.nbytes - m.weight.numel() - 4 * m.out_features for m in layers)


def _model_cost(model: Model) -> ModelCost:
    embedding: Any = model.get_input_embeddings().weight
    whole: Any = model  # transformers leaves this call untyped
    head: Any = whole.get_output_embeddings()
    weights = list(model.parameters())  # a shared one comes once
    is_tied = head is not None and head.weight is embedding
    read = [w for w in weights if is_tied or w is not embedding]
    return ModelCost(
        num_parameters=sum(w.numel() for w in weights),
        weight_bytes=sum(w.numel() * w.element_size() for w in read),
        matrix_parameters=sum(w.numel() for w in read if w.ndim > 1),
        embedding_row_bytes=embedding.shape[1] * embedding.element_size(),
        kv_bytes=_kv_bytes(model, embedding.element_size()),
    )


def _head_cost(head: RecurrentHead) -> ModelCost:
    """A head reads all of its weights, a row of its target's embedding, and no cache."""
    weights = list(head.parameters())
    size = head.lm_head.weight.element_size()
    return ModelCost(
        num_parameters=sum(w.numel() for w in weights),
        weight_bytes=sum(w.numel() * w.element_size() for w in weights),
        matrix_parameters=sum(w.numel() for w in weights if w.ndim > 1),
        embedding_row_bytes=head.config.hidden_size * size,
        kv_bytes=0,
    )


def _kv_bytes(model: Model, element_size: int) -> int:
    config: Any = model.config.get_text_config()
    num_heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or num_heads
    return 2 * int(config.num_hidden_layers * kv_heads * head_size_of(config) * element_size)


@dataclass(frozen=True)
class Forwards:
    """Forwards of one shape.

    Attributes:
        model: "target" or "draft".
        num_rows: texts that were decoded together.
        num_tokens: fed per row.
        count: how many there were.
    """

    model: str
    num_rows: int
    num_tokens: int
    count: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Forwards:
        """The forwards of a JSON object."""
        return cls(**row)


@dataclass(frozen=True)
class PairCost:
    """A pair on a device.

    Attributes:
        limits: the device's rates.
        models: the cost by name, "target" and "draft".
    """

    limits: Limits
    models: Mapping[str, ModelCost]

    def seconds(self, forwards: Iterable[Forwards], prefix: float) -> float:
        """The least time of these forwards.

        Args:
            forwards: of one or many iterations.
            prefix: mean number of committed tokens that they read the keys and values of.
        """
        return float(sum(f.count * self.forward_s(f, prefix) for f in forwards))

    def forward_s(self, forward: Forwards, prefix: float) -> float:
        """The least time of one forward: of reading or of multiplying, whichever takes longer."""
        cost, tokens = self.models[forward.model], forward.num_rows * forward.num_tokens
        read = cost.weight_bytes + tokens * cost.embedding_row_bytes
        read_s = (read + forward.num_rows * prefix * cost.kv_bytes) / self.limits.bytes_per_s
        return max(read_s, 2 * cost.matrix_parameters * tokens / self.limits.flops_per_s)

    def plain_s(self, num_rows: int, prefix: float) -> float:
        """The least time of an iteration without a draft."""
        return self.forward_s(Forwards("target", num_rows, 1, 1), prefix)

    def as_dict(self) -> dict[str, Any]:
        """The cost for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> PairCost:
        """The cost of a JSON object."""
        models = {name: ModelCost(**cost) for name, cost in row["models"].items()}
        return cls(Limits(**row["limits"]), models)
