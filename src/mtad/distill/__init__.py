"""A draft for any target: prompts, the target's own answers to them, and what learns from those."""

from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["head", "standalone"]
"""Of drafts that can be made, see `mtad.distill.kinds`."""
