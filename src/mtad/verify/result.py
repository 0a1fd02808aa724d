"""What a verification found: one check per line, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from mtad.methods import describe
from mtad.speculative.method import Method

Outcome: TypeAlias = Literal["equal", "within rounding", "no difference", "differs", "left out"]
"""Of a check: "equal" and "within rounding" compare numbers, "no difference" is a test's."""


@dataclass(frozen=True)
class Check:
    """One line of the table.

    Attributes:
        name: what is compared.
        outcome: of it.
        found: in words, with its numbers.
        facts: the numbers for programs.
    """

    name: str
    outcome: Outcome
    found: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"name": self.name, "outcome": self.outcome, "found": self.found, **self.facts}


@dataclass(frozen=True)
class Verification:
    """All checks of a method on a pair.

    Attributes:
        method: with its options.
        checks: in the order of the work.
        notes: what must be known to read them.
    """

    method: Method
    checks: Sequence[Check]
    notes: Sequence[str] = ()

    @property
    def differs(self) -> list[str]:
        """Names of the checks that found a difference."""
        return [check.name for check in self.checks if check.outcome == "differs"]

    @property
    def is_proven(self) -> bool:
        """Whether the method says that it is lossless, and no check found otherwise."""
        return self.method.is_lossless and not self.differs

    @property
    def sentence(self) -> str:
        """The verdict."""
        name, found = self.method.name, ", ".join(self.differs)
        if not self.method.is_lossless:
            return f"{name} is lossy by design. " + (
                f"It differs from the target in: {found}." if found else "No difference was found."
            )
        if found:
            return f"{name} is NOT lossless on this pair. It differs from the target in: {found}."
        left = [check.name for check in self.checks if check.outcome == "left out"]
        but = f" Not checked: {', '.join(left)}." if left else ""
        return f"No difference from the target was found: {name} is lossless on this pair.{but}"

    @property
    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "method": describe(self.method),
            "claims_lossless": self.method.is_lossless,
            "is_proven": self.is_proven,
            "verdict": self.sentence,
            "checks": [check.as_dict for check in self.checks],
            "notes": list(self.notes),
        }
