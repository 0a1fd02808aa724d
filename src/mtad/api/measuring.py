"""Measures what the forwards of a pair take, on a text of a few tokens that nobody sees.

The quickest of a few rounds counts: nothing makes a forward quicker than it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from mtad.api.costs import Costs, Curve
from mtad.core.tree import TokenTree
from mtad.engine.session import Session
from mtad.measure.device import synchronize
from mtad.model.lm import LM

Clock = Callable[[], float]

NUM_TOKENS = (1, 2, 3, 5, 9, 33)
"""Tokens of the target's forwards that are timed; the last only where batches are as large."""
DRAFTED = (1, 9)
"""Nodes of the levels that the draft is timed on."""
NUM_ROUNDS = range(2, 6)
"""Rounds at least, and at most."""
LIMIT_S = 0.2
"""Seconds after which there is no further round, where texts wait for the measurement."""


@torch.inference_mode()
def costs_of(
    session: Session,
    num_tokens: int,
    clock: Clock,
    limit_s: float = LIMIT_S,
    rounds: range = NUM_ROUNDS,
) -> Costs:
    """The costs of a session's forwards.

    Args:
        session: of one row, with room for `NUM_TOKENS[-1]` more tokens; nothing is committed.
        num_tokens: of the largest forwards that are to be predicted.
        clock: shows seconds.
        limit_s: seconds after which there is no further round.
        rounds: from the fewest that are made to more than the most.
    """
    root, target, drafter = session.prefix.root(), session.target, session.drafter
    sizes = [n for n in NUM_TOKENS if n <= NUM_TOKENS[-2] or n <= num_tokens]
    works: list[Callable[[], object]] = [partial(target.forward, star(root, n)) for n in sizes]
    if drafter is not None:
        drafter.forward_level(root)
        works += [partial(drafter.forward_level, star(root, n + 1)) for n in DRAFTED]
    works[len(sizes) - 1]()  # the first forward of all takes longer
    devices = {d for lm in session.lms for d in lm.devices}
    seconds = _quickest(works, clock, devices, limit_s, rounds)
    draft = Curve(DRAFTED, tuple(seconds[len(sizes) :])) if drafter is not None else None
    scored = Curve(tuple(sizes), tuple(seconds[: len(sizes)]))
    return Costs(scored, draft, reads_text=isinstance(drafter, LM))


def star(root: TokenTree, num_nodes: int) -> TokenTree:
    """A tree of so many nodes, all but the first of them children of the root."""
    if num_nodes == 1:
        return root
    tokens = root.tokens.expand(-1, num_nodes - 1)
    alive = torch.ones_like(tokens, dtype=torch.bool)
    return root.grow(
        tokens, torch.zeros_like(tokens), alive, torch.zeros_like(tokens, dtype=torch.float32)
    )


def _quickest(
    works: list[Callable[[], object]],
    clock: Clock,
    devices: set[torch.device],
    limit_s: float,
    rounds: range,
) -> list[float]:
    """Seconds of each, the least of some rounds in turns."""
    least, began = [float("inf")] * len(works), clock()
    for turn in range(rounds.stop - 1):
        if turn >= rounds.start and clock() - began > limit_s:
            break
        for place, work in enumerate(works):
            synchronize(*devices)
            start = clock()
            work()
            synchronize(*devices)
            least[place] = min(least[place], clock() - start)
    return [max(one, 1e-9) for one in least]
