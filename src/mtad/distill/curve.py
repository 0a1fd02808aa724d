"""How a draft came on while it was trained; kept, so that a run that was killed knows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtad.atomic import write_text
from mtad.distill.acceptance import Acceptance


@dataclass(frozen=True)
class Judged:
    """A draft on the held-out answers.

    Attributes:
        seconds: of training that it has had.
        acceptance: by the temperature of the answers.
    """

    seconds: float
    acceptance: dict[float, Acceptance]

    @property
    def worst(self) -> Acceptance:
        """At the temperature where the draft does worst."""
        return min(self.acceptance.values(), key=lambda found: found.tokens_per_call[-1])


def write_curve(curve: Sequence[Judged], path: Path) -> None:
    """Keep what `read_curve` reads."""
    rows = [
        {
            "seconds": judged.seconds,
            "acceptance": {
                str(temperature): [found.by_position, found.tokens_per_call]
                for temperature, found in judged.acceptance.items()
            },
        }
        for judged in curve
    ]
    write_text(path, json.dumps(rows))


def read_curve(path: Path) -> list[Judged]:
    """The draft as it was measured so far; nothing if it was not."""
    if not path.exists():
        return []
    return [
        Judged(
            row["seconds"],
            {
                float(temperature): Acceptance(tuple(by_position), tuple(tokens_per_call))
                for temperature, (by_position, tokens_per_call) in row["acceptance"].items()
            },
        )
        for row in json.loads(path.read_text())
    ]
