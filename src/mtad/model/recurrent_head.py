"""A draft without attention and without a cache: a head that reads the target's hidden state.

The target's last hidden state says more of the next tokens than the tokens themselves do. Given the
state before a token, and that token, the head predicts the state after it, and reads the draft's
logits off with rows of the target's own head. The predicted state stands for the real one at the
next position, so a chain or a tree of any depth needs no more than one vector per node.

    x = fc([embedding(token), state]);  state' = x + mlp(norm(x));  logits = lm_head(state')

In the manner of EAGLE (Li et al., 2024), with a recurrence where EAGLE has a layer of attention.
States are those that enter the target's head, without the weight and bias of its last norm, so that
their channels are alike in size. Knows no cache and no tree.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu


@dataclass(frozen=True)
class HeadConfig:
    """The size of a head.

    Attributes:
        hidden_size: H, of the target.
        intermediate_size: of the head's feed-forward.
        vocab_size: V, token ids that the target has.
        draft_vocab_size: D, those that the head can draft.
        rms_norm_eps: added under the root of a norm.
        logit_scale: what the target's logits are multiplied by after its head.
        copy_rates: with which rates drafts also copy from the text, by the length of the match from
            0 on, see `mtad.speculative.copying`; empty where they do not.
    """

    model_type: ClassVar[str] = "mtad_recurrent"

    hidden_size: int
    intermediate_size: int
    vocab_size: int
    draft_vocab_size: int
    rms_norm_eps: float = 1e-6
    logit_scale: float = 1.0
    copy_rates: tuple[float, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


class RecurrentHead(nn.Module):
    """The head; its embedding and its output rows are the target's own.

    Args:
        config: the sizes.
        embedding: the target's token embedding, which stays the target's.

    Attributes:
        d2t: (D,) the target's token id of each token that the head drafts, ascending.
        norm_weight, norm_bias: (H,) of the target's last norm.
        lm_head: the target's output rows of the tokens in `d2t`.
        name_or_path: where it was loaded from, empty where it was not.
    """

    d2t: Tensor
    norm_weight: Tensor
    norm_bias: Tensor

    def __init__(self, config: HeadConfig, embedding: nn.Module | None = None) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.config, self.name_or_path = config, ""
        self._embedding = [embedding]  # in a list: its weights are not the head's own
        self.fc = nn.Linear(2 * hidden, hidden)
        dtype = self.fc.weight.dtype
        self.mlp_norm = nn.Parameter(torch.ones(hidden, dtype=dtype))
        self.gate_up = nn.Linear(hidden, 2 * inner, bias=False)
        self.down = nn.Linear(inner, hidden, bias=False)
        self.lm_head = nn.Linear(hidden, config.draft_vocab_size, bias=False)
        self.register_buffer("norm_weight", torch.ones(hidden, dtype=dtype))
        self.register_buffer("norm_bias", torch.zeros(hidden, dtype=dtype))
        self.register_buffer("d2t", torch.arange(config.draft_vocab_size))

    def attach(self, embedding: nn.Module) -> None:
        """Read tokens by this embedding, the target's, from now on."""
        self._embedding = [embedding]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mlp_norm.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.mlp_norm.dtype

    @cached_property
    def drafted_ids(self) -> tuple[int, ...]:
        """The tokens in `d2t`, on the host; not to be asked for before they are settled."""
        return tuple(self.d2t.tolist())

    def embed(self, tokens: Int[Tensor, "*place"]) -> Float[Tensor, "*place hidden"]:
        """The target's embedding of tokens, of root mean square 1."""
        embedding = self._embedding[0]
        assert embedding is not None, "the head has no target"
        return self._normed(embedding(tokens))

    def enter(self, hidden: Float[Tensor, "*place hidden"]) -> Float[Tensor, "*place hidden"]:
        """What enters the target's head, as a state of this one."""
        return (hidden - self.norm_bias) / self.norm_weight

    def forward(
        self, embedded: Float[Tensor, "*place hidden"], state: Float[Tensor, "*place hidden"]
    ) -> Float[Tensor, "*place hidden"]:
        """The state after a token, of the token as `embed` has it and the state before it."""
        mixed = self.fc(torch.cat([embedded, state], dim=-1))
        gate, up = self.gate_up(self._normed(mixed) * self.mlp_norm).chunk(2, dim=-1)
        predicted: Tensor = mixed + self.down(silu(gate) * up)
        return predicted

    def logits(self, state: Float[Tensor, "*place hidden"]) -> Float[Tensor, "*place draft_vocab"]:
        """Logits of the tokens in `d2t` after a state."""
        entering = state * self.norm_weight + self.norm_bias
        scored: Tensor = self.lm_head(entering) * self.config.logit_scale
        return scored

    def _normed(self, value: Tensor) -> Tensor:
        return rms_norm(value, value.shape[-1:], eps=self.config.rms_norm_eps)
