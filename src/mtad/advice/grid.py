"""The settings that are tried: a few values of each method's options, from its facts alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from mtad import methods
from mtad.api.costs import PLAIN
from mtad.sampling.params import SamplingParams, numeric_settings
from mtad.speculative.method import Method

LENGTHS = (1, 2, 3, 4, 6, 8)
"""Draft tokens of chains."""
TREES = ((2,), (2, 2), (4, 2, 2))
"""Children by level of trees."""
NUM_DIALS = 3
"""Values of a lossy method's dial, spread over those that it names."""


def lossless_grid(settings: Mapping[str, Any], has_draft: bool) -> list[Method]:
    """The lossless methods with several lengths, plain decoding first.

    Args:
        settings: of sampling; methods that can't honour them are left out.
        has_draft: without one only methods that need none.
    """
    return [
        PLAIN,
        *fitting(
            (m for default in with_defaults(True) for m in _lengths(default)), settings, has_draft
        ),
    ]


def lossy_grid(settings: Mapping[str, Any], has_draft: bool, max_loss: float) -> list[Method]:
    """The lossy methods that draft, with several values of what trades quality for speed.

    Args:
        settings, has_draft: as of `lossless_grid`.
        max_loss: nats per token that may be lost; methods with a budget of regret get that of a
            whole text.
    """
    found = (m for default in with_defaults(False) for m in _dials(default))
    budget = max_loss * int(settings.get("max_new_tokens", SamplingParams.max_new_tokens))
    capped = (
        with_options(m, regret_budget=budget) if hasattr(m, "regret_budget") else m for m in found
    )
    return fitting(capped, settings, has_draft)


def with_defaults(is_lossless: bool) -> Iterator[Method]:
    """Methods that draft and are lossless, or not, with their defaults."""
    for method in (methods.find(name)() for name in methods.names()):
        drafts = method != PLAIN and method.drafted_by != "target"
        if drafts and method.is_lossless == is_lossless:
            yield method


def _lengths(method: Method) -> Iterator[Method]:
    """The method with several draft lengths."""
    if hasattr(method, "num_draft_tokens"):
        yield from (with_options(method, num_draft_tokens=length) for length in LENGTHS)
    elif hasattr(method, "k_config"):
        yield from (with_options(method, k_config=tree) for tree in TREES)
    else:
        yield method


def _dials(method: Method) -> Iterator[Method]:
    """The method with several values of its dial."""
    if method.dial is None:
        yield method
        return
    values = method.dial.values
    places = {round((n + 1) * (len(values) - 1) / (NUM_DIALS + 1)) for n in range(NUM_DIALS)}
    yield from (
        with_options(method, **{method.dial.option: values[place]}) for place in sorted(places)
    )


def with_options(method: Method, **options: Any) -> Method:
    """The method with some of its options changed."""
    return dataclasses.replace(method, **options)


def fitting(found: Iterator[Method], settings: Mapping[str, Any], has_draft: bool) -> list[Method]:
    """Those that can honour the sampling settings and have what they need, each once."""
    params = SamplingParams(**{n: v for n, v in settings.items() if n in numeric_settings()})
    kept: list[Method] = []
    for method in found:
        if method in kept or (method.drafted_by == "draft" and not has_draft):
            continue
        try:
            method.check(params)
        except ValueError:
            continue
        kept.append(method)
    return kept
