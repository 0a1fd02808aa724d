"""Examines a pair: what it is, what its forwards cost, how many drafts are accepted, what pays."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtad.advice.acceptance import Counts, counts_by_kind, total
from mtad.advice.grid import fitting, with_defaults, with_options
from mtad.advice.models import Memory, memory_of, templates, vocabularies
from mtad.advice.prompts import Asked
from mtad.advice.timing import quickest, speed_ratio
from mtad.advice.verdict import Evidence, Verdict, judge
from mtad.api.costs import PLAIN, Costs
from mtad.api.pair import ModelPair
from mtad.api.paying import Offer, Prospect
from mtad.api.turns import completed, in_turns, num_texts
from mtad.distill.run import Observer, steps
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.speculative.method import Method

LONGEST = 8
"""Draft tokens up to which lengths are compared."""
NUM_TIMED, ROUNDS = 8, 2
"""Prompts of the timed runs, and how often each is decoded."""
NUM_FASTEST = 2
"""Methods with a draft that are timed, and one without: those that are expected to be fastest."""
BATCH = 16
"""Texts decoded at once while drafts are counted."""


@dataclass(frozen=True)
class Survey:
    """A method on the prompts.

    Attributes:
        method: with the longest draft.
        prospect: what its drafts cost.
        by_kind: drafts by kind of prompt.
    """

    method: Method
    prospect: Prospect
    by_kind: Mapping[str, Counts]

    @property
    def whole(self) -> Counts:
        """Drafts of all prompts."""
        return total(self.by_kind.values(), self.prospect.longest)

    @property
    def offer(self) -> Offer:
        """The length that is expected to be the fastest."""
        return self.prospect.best(self.whole.tokens)


@dataclass(frozen=True)
class Checkup:
    """What was found.

    Attributes:
        vocabulary, templates: how those of target and draft compare, in words.
        memory: that the pair needs.
        surveys: of the lossless methods, the chain first.
        evidence, verdict: what follows.
        num_prompts: that were asked.
        settings: of sampling.
        running: share of the time of the timings in which this process ran, at most 1.
    """

    vocabulary: str
    templates: str
    memory: Memory
    surveys: Sequence[Survey]
    evidence: Evidence
    verdict: Verdict
    num_prompts: int
    settings: Mapping[str, Any]
    running: float = 1.0


def check_up(
    pair: ModelPair,
    prompts: Sequence[Asked],
    observer: Observer,
    *,
    draft_tokenizer: Any = None,
    num_draft_tokens: int = SpeculativeSampling.num_draft_tokens,
    **settings: Any,
) -> Checkup:
    """Examine a pair.

    Args:
        pair: target and, perhaps, a draft.
        prompts: each is answered once with every lossless method, and some of them again with the
            best ones, in turns with plain decoding.
        observer: hears how far it is.
        draft_tokenizer: of the draft, whose chat template is compared.
        num_draft_tokens: the chain that the user would draft.
        settings: of sampling, as `ModelPair.generate` takes them.
    """
    longest = max(LONGEST, num_draft_tokens)
    candidates = lossless_methods(longest, pair.models.draft is not None, settings)
    costs, running = _costs_by_drafter(pair, candidates, observer)
    on_text = steps(observer, "counting accepted drafts", len(candidates) * len(prompts))
    kinds, asked = [one.kind for one in prompts], [one.prompt for one in prompts]
    surveys = []
    for method in candidates:
        prospect = Prospect.of(costs[method.drafted_by], method, pair.models.vocab)
        texts = completed(pair, method, asked, on_text, max_batch_size=BATCH, **settings)
        blocks = [text.blocks for text in texts]
        surveys.append(Survey(method, prospect, counts_by_kind(kinds, blocks, prospect.longest)))
    evidence = evidence_of(surveys, num_draft_tokens)
    evidence = _with_speeds(pair, prompts, evidence, observer, settings)
    return Checkup(
        vocabularies(pair.models),
        templates(pair.models, draft_tokenizer),
        memory_of(pair.models),
        surveys,
        evidence,
        judge(evidence),
        len(prompts),
        settings,
        running,
    )


def lossless_methods(longest: int, has_draft: bool, settings: Mapping[str, Any]) -> list[Method]:
    """The lossless methods that draft, the chain first, with drafts of so many tokens.

    Args:
        longest: draft tokens; trees keep their own shape.
        has_draft: without one only methods that need none.
        settings: of sampling; methods that can't honour them are left out.
    """
    methods = with_defaults(is_lossless=True)
    longest_ones = (
        with_options(m, num_draft_tokens=longest) if hasattr(m, "num_draft_tokens") else m
        for m in methods
    )
    found = fitting(longest_ones, settings, has_draft)
    return sorted(found, key=lambda method: not isinstance(method, SpeculativeSampling))


def evidence_of(surveys: Sequence[Survey], num_draft_tokens: int) -> Evidence:
    """What the surveys say, the first of them of chains; nothing is measured yet."""
    chain, drafter = surveys[0], surveys[0].method.drafted_by
    return Evidence(
        prospect=chain.prospect,
        rates=chain.whole.rates,
        by_kind={kind: counts.rates for kind, counts in chain.by_kind.items()},
        offers={s.method.name: s.offer for s in surveys if s.method.drafted_by == drafter},
        others={s.method.name: s.offer for s in surveys if s.method.drafted_by != drafter},
        measured={},
        num_draft_tokens=num_draft_tokens,
    )


def _costs_by_drafter(
    pair: ModelPair, candidates: Sequence[Method], observer: Observer
) -> tuple[dict[str, Costs], float]:
    """The costs of forwards by what drafts, and the share of the time in which they ran."""
    found: dict[str, Costs] = {}
    on_costs = steps(observer, "timing forwards", len({m.drafted_by for m in candidates}))
    began, ran = time.perf_counter(), time.process_time()
    for method in candidates:
        if method.drafted_by not in found:
            found[method.drafted_by] = pair.guards.costs(method, time.perf_counter)
            on_costs()
    taken, ran = time.perf_counter() - began, time.process_time() - ran
    is_cpu = pair.models.target.device.type == "cpu"
    return found, min(1.0, ran / taken) if is_cpu and taken else 1.0


def _with_speeds(
    pair: ModelPair,
    prompts: Sequence[Asked],
    evidence: Evidence,
    observer: Observer,
    settings: Mapping[str, Any],
) -> Evidence:
    """The evidence with the speeds of the best methods, measured beside plain decoding."""
    best = [*_best(evidence.offers, NUM_FASTEST), *_best(evidence.others, 1)]
    timed = [one.prompt for one in prompts[:NUM_TIMED]]
    plain, *drafted = in_turns(
        pair,
        [PLAIN, *(offer.shape.method for _, offer in best)],
        timed,
        ROUNDS,
        steps(observer, "timing in turns", num_texts(1 + len(best), len(timed), ROUNDS)),
        **settings,
    )
    speeds = {
        name: speed_ratio(quickest(rounds), quickest(plain))
        for (name, _), rounds in zip(best, drafted, strict=True)
    }
    return dataclasses.replace(evidence, measured=speeds)


def _best(offers: Mapping[str, Offer], count: int) -> list[tuple[str, Offer]]:
    """So many of the offers, the best first."""
    return sorted(offers.items(), key=lambda item: -item[1].speed_up)[:count]
