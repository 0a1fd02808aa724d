"""What `distill` was asked for, and how its time is shared out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import get_args

from mtad.atomic import write_text
from mtad.distill import Kind
from mtad.distill.corpus import Sampling
from mtad.distill.training import Schedule
from mtad.errors import DataError

ANSWERING = 0.55
"""Of the time: the target's answers, as more of them bring more than a longer training on the same.
Reading them again takes about a tenth; training has the rest."""

_HASTE: dict[Kind, float] = {"head": 1.0, "standalone": 3.0}
"""Times the learning rate, by kind. Layers that were taken out of their places say nothing that
makes sense at first, and have a long way to go: of SmolLM2-135M-Instruct, after 100 s on one core,
0.15 of their tokens were accepted at 3e-4, 0.195 at 1e-3 and 0.175 at 2.5e-3."""

_SINCE = {"kind": "head", "num_layers": None, "also_bundled": False}
"""What plans were like that were written before they said so."""


@dataclass(frozen=True)
class Plan:
    """A draft to be made.

    Attributes:
        target: folder, hub name or GGUF file.
        kind: of draft, see `mtad.distill.kinds`.
        hours: of wall time, over all runs that it takes.
        draft_vocab_size: tokens that the draft can say, the most frequent ones of the answers.
        sampling: how the target answers.
        learning_rate, batch_size, depth: see `Schedule`; of a standalone draft the rate is larger.
        prompts: the user's file; None for bundled ones.
        num_layers: of a draft of the kind `standalone`; None for what it has by default.
        also_bundled: bundled prompts and the target's own take turns with the user's.
    """

    target: str
    hours: float = 2.0
    draft_vocab_size: int = 8192
    sampling: Sampling = field(default_factory=Sampling)
    learning_rate: float = 3e-4
    batch_size: int = 1536
    depth: int = 3
    prompts: str | None = None
    kind: Kind = "head"
    num_layers: int | None = None
    also_bundled: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if not self.hours > 0:
            raise ValueError(f"--hours is {self.hours:g}; it must be above 0")
        if self.draft_vocab_size < 2:
            raise ValueError(
                f"--draft-vocab-size is {self.draft_vocab_size}; it must be at least 2"
            )
        if self.kind not in (kinds := get_args(Kind)):
            raise ValueError(f"--kind is {self.kind!r}; it must be {' or '.join(kinds)}")
        if self.also_bundled and self.prompts is None:
            raise ValueError("--also-bundled needs --prompts; without it, all prompts are bundled")
        if self.num_layers is not None and self.kind != "standalone":
            raise ValueError(
                f"--num-layers is {self.num_layers}, and a draft of the kind {self.kind!r} has "
                "none of the target's; leave it out, or give --kind standalone"
            )

    @property
    def cheaper(self) -> str:
        """What would make a drafted token cheaper, for messages."""
        return "" if self.kind == "head" else "fewer --num-layers, --kind head, "

    @property
    def answering_s(self) -> float:
        """Seconds for the answers."""
        return self.hours * 3600 * ANSWERING

    @property
    def schedule(self) -> Schedule:
        """How the draft is trained, in the time that is left to it."""
        seconds = self.hours * 3600 * (0.9 - ANSWERING)
        return Schedule(
            seconds,
            self.learning_rate * _HASTE[self.kind],
            self.batch_size,
            self.depth,
            save_every_s=min(60.0, seconds / 4),
            seed=self.sampling.seed,
        )

    def keep(self, path: Path) -> None:
        """Write the plan down, or see that it is the one that an earlier run followed.

        Raises:
            DataError: the folder has the work of another plan.
        """
        wanted = json.loads(json.dumps(asdict(self)))
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(wanted, indent=2) + "\n")
            return
        there = _SINCE | json.loads(path.read_text())
        different = [name for name in wanted if there.get(name) != wanted[name]]
        if different:
            name = different[0]
            raise DataError(
                f"{path.parent} has the work of another plan: its {name} is {there.get(name)!r}, "
                f"and not {wanted[name]!r}; give the same options to go on, or another --output"
            )
