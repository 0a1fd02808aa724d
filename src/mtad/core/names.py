"""Names that people type: which known one is meant by a near miss.

Knows nothing of what the names stand for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import SequenceMatcher
from typing import Any

_ALIKE = 0.6
"""The least similarity at which a name is suggested, of 1."""
_CLOSE = 0.82
"""The same where a name may well be meant as it is: `repetition_penality`, not `length_penalty`."""
_PART = 3
"""Letters of a part of a name at which it is suggested whatever the similarity."""


def same_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that is spelled so, but for capitals and for hyphens as underscores.

    None where there is none, or more than one.
    """
    known = [*known]
    if name in known:
        return name
    found = [one for one in known if _folded(one) == _folded(name)]
    return found[0] if len(found) == 1 else None


def did_you_mean(name: str, known: Iterable[str], *, is_typo: bool = False) -> str:
    """A suggestion to put behind a name that is not known; empty where none is near.

    For example " (did you mean 'mtad'?)".

    Args:
        name: as it was typed.
        known: those that there are.
        is_typo: suggest only what differs by a slip, where the name may be right elsewhere.
    """
    scores = {one: _likeness(_folded(name), _folded(one), is_typo) for one in known}
    best = max(scores.values(), default=0.0)
    if best == 0.0:
        return ""
    meant = [repr(one) for one, score in scores.items() if score == best]
    return f" (did you mean {' or '.join(meant[:3])}?)"


def require_one_of(name: str, value: Any, known: Collection[str]) -> None:
    """Refuse a value that is none of the known ones; a near miss gets a suggestion.

    Raises:
        ValueError: with its name, the value and the known ones.
    """
    if value not in known:
        near = did_you_mean(str(value), known)
        raise ValueError(f"{name} is {value!r}{near}; it must be one of {', '.join(known)}")


def _folded(name: str) -> str:
    return name.strip().casefold().replace("-", "_").replace(" ", "_")


def _likeness(name: str, known: str, is_typo: bool) -> float:
    """How alike two names are, 0 where they are not; swapped letters count half."""
    is_part = not is_typo and len(name) >= _PART and name in known
    least = 0.0 if is_part else _CLOSE if is_typo else _ALIKE
    if 2 * min(len(name), len(known)) < least * len(name + known):
        return 0.0  # their lengths alone rule it out; a name may have a million letters
    matcher = SequenceMatcher(None, known, name)
    return matcher.ratio() + matcher.quick_ratio() if matcher.ratio() >= least else 0.0
