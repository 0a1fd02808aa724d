"""Laws of next tokens: the target's exact ones against many draws of a method's own blocks.

For each position of a block there are two tests: the sum of Pearson's statistics of all contexts,
which adds up what is wrong everywhere, and the contexts one by one, corrected for their number by
Bonferroni, for what is wrong at one. Positions and tests share the chance of a false alarm equally.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mtad.api.pair import ModelPair
from mtad.engine.request import Request
from mtad.speculative.method import Method
from mtad.verify.contexts import Bins, Context, Judged, Tally
from mtad.verify.draws import Blocks, committed
from mtad.verify.laws import readings
from mtad.verify.places import contexts_of
from mtad.verify.result import Check, Outcome
from mtad.verify.scores import PathScores
from mtad.verify.statistics import chi2_tail, distance, power

MOST_DRAWS = 10_000_000
"""After each text."""
MOST_MORE = 2
"""Times the draws that the first token needs."""
NUM_COMMITTED = 32
"""Draws of each text that are compared with blocks which the engine commits."""
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")

Show = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Wanted:
    """What the tests of laws are to find.

    Attributes:
        bias: probability mass, moved in the law of the next token at every context of a position.
        power: least chance to find it in the law of the first token.
        level: chance that a sound method is called biased, over all tests.
        num_tokens: positions of a block that are tested.
        seed: of the draws.
    """

    bias: float = 0.01
    power: float = 0.9
    level: float = 0.01
    num_tokens: int = 2
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Place:
    """A text, the target's logits below it, and where laws are tested."""

    request: Request
    scores: PathScores
    contexts: Sequence[Context]


@dataclass(frozen=True)
class Plan:
    """How many draws are made, and what they will find.

    Attributes:
        wanted: what was asked for.
        num_draws: after each text.
        bins: of the open contexts, by position and text.
    """

    wanted: Wanted
    num_draws: int
    bins: Sequence[Sequence[Bins]]

    @property
    def level(self) -> float:
        """Of each of the two tests of a position."""
        return self.wanted.level / max(1, sum(map(bool, self.bins))) / 2

    def power(self, position: int) -> float:
        """The chance to find the bias where it is at every context of a position."""
        bins = self.bins[position]
        shift = sum(one.shift(self.wanted.bias, self.num_draws) for one in bins)
        return power(self.level, sum(one.df for one in bins), shift)

    def power_at_one(self, position: int) -> float:
        """The least chance to find it where it is at a single context."""
        bins = self.bins[position]
        level = self.level / len(bins) / 2
        shifts = ((one.df, one.shift(self.wanted.bias, self.num_draws)) for one in bins)
        return min(power(level, df, shift) for df, shift in shifts)

    def has_power(self, position: int) -> bool:
        """Whether a position has the power that was asked for, or nothing to test."""
        return not self.bins[position] or self.power(position) >= self.wanted.power


def plan_draws(contexts: Sequence[Sequence[Context]], wanted: Wanted) -> Plan:
    """The draws that give the first token the power that is wanted, to about 5 %.

    There are up to `MOST_MORE` times as many where later tokens need more; they may have less.

    Args:
        contexts: of each text.
        wanted: the bias to be found.

    Raises:
        ValueError: more than `MOST_DRAWS` would be needed.
    """

    def plan(num_draws: int) -> Plan:
        found: list[list[Bins]] = [[] for _ in range(wanted.num_tokens)]
        for one in (one for some in contexts for one in some if one.is_open):
            if (bins := one.bins(num_draws)).df:
                found[len(one.path)].append(bins)
        return Plan(wanted, num_draws, found)

    best = plan(1000)
    while not (best.bins[0] and best.has_power(0)):
        best = plan(_more(best.num_draws))
        if best.num_draws > MOST_DRAWS:
            raise ValueError(
                f"a bias of {wanted.bias} would take more than {MOST_DRAWS:,} draws after each "
                "text to be found; ask for a larger bias or less power"
            )
    most = min(MOST_DRAWS, MOST_MORE * best.num_draws)
    while best.num_draws < most and not all(map(best.has_power, range(wanted.num_tokens))):
        best = plan(min(most, _more(best.num_draws)))
    return best


def _more(num_draws: int) -> int:
    return math.ceil(num_draws * 1.05 / 100) * 100


def check_laws(
    pair: ModelPair, method: Method, requests: Sequence[Request], wanted: Wanted, show: Show
) -> list[Check]:
    """The checks of a method's sampling.

    Args:
        pair: the models.
        method: with its options.
        requests: the texts after which blocks are drawn.
        wanted: the bias to be found.
        show: called with what is done, how much of it, and of how much.

    Raises:
        ValueError: see `plan_draws`.
    """
    places = list[Place]()
    for done, request in enumerate(requests):
        show("laws of the target", done, len(requests))
        scores = PathScores(pair, request)
        places.append(Place(request, scores, contexts_of(pair, request, scores, wanted.num_tokens)))
    plan = plan_draws([place.contexts for place in places], wanted)
    forward, rounding = _check_forward(pair, places, show)
    engine, judged = _drawn(pair, method, places, plan, rounding, show)
    return [forward, engine, *(_check_position(plan, n, judged[n]) for n in range(len(judged)))]


def _check_forward(pair: ModelPair, places: Sequence[Place], show: Show) -> tuple[Check, float]:
    """The laws that blocks are judged by against the target's own forward of each text alone.

    A logit that is rounded to its neighbour moves at most a quarter of a unit of the mass.

    Returns:
        The check, and the mean distance.
    """
    apart, rounding = list[float](), 0.0
    found = [(place, context) for place in places for context in place.contexts]
    for done, (place, context) in enumerate(found, 1):
        show("the target alone", done, len(found))
        copies = (1,) if context.path else (1, 3)
        alone = readings(pair, place.request, context.path, copies)
        apart.append(min(context.law.distance(law) for law in alone))
        rounding = max(rounding, alone[0].unit / 4, alone[0].distance(alone[-1]))
    worst = max(apart)
    is_fine = worst <= 4 * rounding
    text = f"{len(apart)} laws, at most {worst:.2g} of the mass apart, rounding {rounding:.1g}"
    facts = {"num_laws": len(apart), "largest_tv": worst, "rounding_tv": rounding}
    outcome: Outcome = "equal" if worst == 0 else "within rounding" if is_fine else "differs"
    name = "target in a tree, and its own forward"
    return Check(name, outcome, text, facts), sum(apart) / len(apart)


def _drawn(
    pair: ModelPair,
    method: Method,
    places: Sequence[Place],
    plan: Plan,
    rounding: float,
    show: Show,
) -> tuple[Check, list[list[Judged]]]:
    """The engine's own blocks against the same draws, and the contexts of each position judged."""
    judged: list[list[Judged]] = [[] for _ in plan.bins]
    total, done, compared, same = plan.num_draws * len(places), 0, 0, 0
    for number, place in enumerate(places):
        blocks = Blocks(pair, method, place.request, place.scores)
        tally, first = Tally(place.contexts, plan.wanted.seed), plan.wanted.seed
        for start in range(0, plan.num_draws, blocks.num_rows):
            drawn = blocks.draw(first + number * MOST_DRAWS * 2 + start)
            tally.add(drawn[: plan.num_draws - start])
            if start == 0:
                sample = drawn[:NUM_COMMITTED]
            done += min(blocks.num_rows, plan.num_draws - start)
            show(f"draws of {method.name}", done, total)
        blocks.close()
        place.scores.close()
        seeds = [first + number * MOST_DRAWS * 2 + row for row in range(len(sample))]
        own = committed(pair, method, place.request, seeds)
        compared += len(own)
        same += sum(one == block[: len(one)] for one, block in zip(own, sample, strict=True))
        counts = dict(zip((one.path for one in place.contexts), tally.after(), strict=True))
        for position, bins in enumerate(plan.bins):
            own_bins = [one for one in bins if any(one.context is c for c in place.contexts)]
            judged[position] += [one.judge(counts[one.context.path]) for one in own_bins]
    allowed = 1 + math.ceil(8 * rounding * method.num_nodes(pair.models.vocab, 1) * compared)
    found = f"{same} of {compared} blocks equal those that the engine commits"
    outcome: Outcome = "equal" if same == compared else "within rounding"
    outcome = "differs" if compared - same > allowed else outcome
    facts = {"num_blocks": compared, "num_equal": same, "allowed_to_differ": allowed}
    return Check("draws, and blocks of the engine", outcome, found, facts), judged


def _check_position(plan: Plan, position: int, judged: Sequence[Judged]) -> Check:
    """The two tests of a position."""
    name = f"law of the {ORDINALS[position]} token"
    if not judged:
        return Check(name, "left out", "the target leaves it to chance after none of the texts")
    df = sum(one.bins.df for one in judged)
    pooled = chi2_tail(sum(one.x2 for one in judged), df)
    single = min(1.0, len(judged) * min(one.p for one in judged))
    p = min(1.0, 2 * min(pooled, single))
    differs = min(pooled, single) < plan.level
    tv, low, high = distance([(one.counts, one.bins.law) for one in judged])
    num_draws = sum(sum(one.counts) + one.rare for one in judged)
    bias = f"{100 * plan.wanted.bias:.3g} %"
    found = (
        f"{num_draws:,} draws, {len(judged)} contexts, p = {p:.2g}; "
        f"a bias of {bias} is found in {_chance(plan.power(position))} of runs; "
        f"distance {100 * tv:.2f} % [{100 * low:.2f}, {100 * high:.2f}]"
    )
    facts = {
        "num_draws": num_draws,
        "num_contexts": len(judged),
        "p": p,
        "pooled": {"df": df, "p": pooled},
        "least_of_contexts": single,
        "level": 2 * plan.level,
        "power": plan.power(position),
        "power_at_one_context": plan.power_at_one(position),
        "tv": {"value": tv, "low": low, "high": high, "level": 0.95},
    }
    return Check(name, "differs" if differs else "no difference", found, facts)


def _chance(value: float) -> str:
    return "over 99 %" if value > 0.99 else f"{100 * value:.0f} %"
