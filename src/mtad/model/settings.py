"""Which models, and how they are loaded: keys of the server's file, and flags of every command.

Imports nothing heavy: it is read for `mtad --help`. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from mtad.core.options import Doc
from mtad.pairs import CHOICE, DEMO, PairName, require_alone

Dtype: TypeAlias = Literal["auto", "bfloat16", "float16", "float32", "float64"]
Weights: TypeAlias = Literal["auto", "plain", "bf16", "int8"]


@dataclass(frozen=True)
class ModelSettings:
    """Which models, and where they are."""

    pair: Annotated[PairName | None, Doc(f"{CHOICE}. Without models, demo.")] = None
    target_model: Annotated[
        str | None, Doc("Folder, GGUF file or hub name; without it a pair by name.")
    ] = None
    draft_model: Annotated[str | None, Doc("Folder, GGUF file or hub name.")] = None
    dtype: Annotated[Dtype, Doc("Of the weights; auto: as in the checkpoint.")] = "auto"
    draft_dtype: Annotated[Dtype | None, Doc("The draft's, if another.")] = None
    target_weights: Annotated[
        Weights,
        Doc("Form of the target's linear weights; int8: faster on a CPU, and another target."),
    ] = "auto"
    draft_weights: Annotated[Weights, Doc("The draft's; lossless methods stay so.")] = "auto"
    device: Annotated[str, Doc("auto, cpu, cuda, cuda:1, …")] = "auto"
    draft_device: Annotated[str | None, Doc("The draft's, if another.")] = None
    device_map: Annotated[
        str | None, Doc("Spreads the target over devices (needs accelerate): auto, …")
    ] = None
    trust_vocabulary: Annotated[
        bool, Doc("Don't compare the two tokenizers.", flag="--trust-vocabulary")
    ] = False

    def require_one_pair(self) -> None:
        """Refuse a named pair beside models; raises as `mtad.pairs.require_alone` does."""
        require_alone(self.pair, self.target_model, self.draft_model)

    @property
    def name(self) -> str:
        """Of the pair, or of its target."""
        return self.target_model or self.pair or DEMO

    @property
    def has_draft(self) -> bool:
        """Whether there is a draft; pairs with a name have one."""
        return bool(self.draft_model or not self.target_model)

    def missing(self) -> Iterator[tuple[str, str]]:
        """Names of a setting and of one that it needs, and that was not given."""
        if self.draft_model and not self.target_model:
            yield "draft_model", "target_model"
        for name in ("draft_dtype", "draft_device"):
            if getattr(self, name) is not None and self.target_model and not self.draft_model:
                yield name, "draft_model"
        if self.draft_weights != "auto" and not self.has_draft:
            yield "draft_weights", "draft_model"

    @property
    def placement(self) -> dict[str, Any]:
        """Options of `load_models`."""
        names = (
            *("dtype", "draft_dtype", "target_weights", "draft_weights"),
            *("device", "draft_device", "device_map", "trust_vocabulary"),
        )
        return {name: getattr(self, name) for name in names}
