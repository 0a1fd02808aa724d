"""Exact laws of the decoding methods on tiny vocabularies, in plain Python.

Written from the definitions alone: nothing here imports mtad or torch. A `Law` gives the
probabilities of the next token after a text, a block law is {block: probability} for one iteration.
p = target, q = draft.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise, product

Text = tuple[int, ...]
Probs = Sequence[float]
Law = Callable[[Text], Probs]
Blocks = dict[Text, float]
Beam = tuple[Text, float]

# --- laws of texts ---------------------------------------------------------------------------


def markov(table: Sequence[Probs]) -> Law:
    """The law that depends on the last token alone."""
    return lambda text: table[text[-1]]


def log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


def joint(law: Law, text: Text, block: Text) -> float:
    """Probability of `block` after `text`."""
    return math.prod(law(text + block[:i])[token] for i, token in enumerate(block))


def text_law(law: Law, prompt: Text, length: int, eos: Iterable[int] = ()) -> Blocks:
    """The law of ancestral sampling: texts of `length` tokens, or up to their first EOS."""
    stops, done, open_ = set(eos), {}, {(): 1.0}
    for _ in range(length):
        longer = {
            (*text, token): weight * chance
            for text, weight in open_.items()
            for token, chance in enumerate(law(prompt + text))
            if chance > 0
        }
        done |= {text: w for text, w in longer.items() if text[-1] in stops}
        open_ = {text: w for text, w in longer.items() if text[-1] not in stops}
    return done | open_


def compose(blocks: Callable[[Text, int], Blocks], prompt: Text, length: int) -> Blocks:
    """The law of the first `length` tokens when texts grow block by block.

    `blocks(text, left)` is the law of one iteration, which may exceed the `left` tokens to go.
    """
    done: dict[Text, float] = defaultdict(float)

    def grow(text: Text, weight: float) -> None:
        if len(text) == length:
            done[text] += weight
            return
        for block, chance in blocks(prompt + text, length - len(text)).items():
            grow((text + block)[:length], weight * chance)

    grow((), 1.0)
    return dict(done)


def perplexity(texts: Mapping[Text, float], p: Law, prompt: Text) -> float:
    """Per-token perplexity under p of texts of one length, of a law on those texts."""
    nats = sum(-w * math.log(joint(p, prompt, text)) for text, w in texts.items() if w > 0)
    return math.exp(nats / len(next(iter(texts))))


def total_variation(a: Mapping[Text, float], b: Mapping[Text, float]) -> float:
    return sum(abs(a.get(k, 0.0) - b.get(k, 0.0)) for k in a.keys() | b.keys()) / 2


def mean_length(blocks: Blocks) -> float:
    """E[tokens per iteration]."""
    return sum(len(block) * weight for block, weight in blocks.items())


def norm(weights: Probs) -> list[float]:
    total = sum(weights)
    return [w / total for w in weights]


def excess(p: Probs, q: Probs) -> list[float]:
    """pos(p - q)."""
    return [max(a - b, 0.0) for a, b in zip(p, q, strict=True)]


def residual(p: Probs, q: Probs) -> list[float]:
    left = excess(p, q)
    return norm(left) if sum(left) > 1e-12 else list(p)


# --- warping ---------------------------------------------------------------------------------


def softmax(logits: Probs) -> list[float]:
    top = max(logits)
    return norm([math.exp(x - top) for x in logits])


def warp(
    logits: Probs,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> list[float]:
    """Section 1.2 of the definitions, on Python floats: temperature, top-k, top-p, min-p."""
    if temperature == 0:
        best = max(range(len(logits)), key=lambda i: logits[i])
        return [float(i == best) for i in range(len(logits))]
    scores = [x / temperature for x in logits]
    if top_k:
        floor = sorted(scores, reverse=True)[min(top_k, len(scores)) - 1]
        scores = [x if x >= floor else -math.inf for x in scores]
    if top_p < 1:
        probs, mass, kept = softmax(scores), 0.0, set()
        for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
            kept |= {i} if mass <= top_p else set()
            mass += probs[i]
        scores = [x if i in kept else -math.inf for i, x in enumerate(scores)]
    probs = softmax(scores)
    if min_p:
        floor = min_p * max(probs)
        probs = norm([x if x >= floor else 0.0 for x in probs])
    return probs


def penalized(
    logits: Probs,
    prompt: Text,
    output: Text,
    *,
    repetition_penalty: float = 1.0,
    frequency_penalty: float = 0.0,
    presence_penalty: float = 0.0,
    logit_bias: Mapping[int, float] | None = None,
    suppress_tokens: Iterable[int] = (),
    min_new_tokens: int = 0,
    eos: Iterable[int] = (),
) -> list[float]:
    """Logits after biases, penalties and bans, for the text prompt + output."""
    counts, scores = Counter(output), list(logits)
    for i, value in (logit_bias or {}).items():
        scores[i] += value
    for i in set(prompt + output):
        positive = scores[i] > 0
        scores[i] *= 1 / repetition_penalty if positive else repetition_penalty
    for i, count in counts.items():
        scores[i] -= frequency_penalty * count + presence_penalty
    banned = set(suppress_tokens) | (set(eos) if len(output) < min_new_tokens else set())
    return [-math.inf if i in banned else x for i, x in enumerate(scores)]


# --- one iteration of the lossless methods ----------------------------------------------------


def speculative_blocks(p: Law, q: Law, text: Text, depth: int) -> Blocks:
    """Speculative sampling: min(p, q) goes on, max(p - q, 0) ends the block."""
    blocks: dict[Text, float] = defaultdict(float)

    def go(path: Text, weight: float) -> None:
        a = p(text + path)
        if len(path) == depth:
            for token, chance in enumerate(a):
                blocks[(*path, token)] += weight * chance
            return
        b = q(text + path)
        for token, left in enumerate(excess(a, b)):
            blocks[(*path, token)] += weight * left
            if min(a[token], b[token]) > 0:
                go((*path, token), weight * min(a[token], b[token]))

    go((), 1.0)
    return dict(blocks)


def block_verification_blocks(p: Law, q: Law, text: Text, depth: int) -> Blocks:
    """Block verification: every draft, every η, the endpoint of each."""
    blocks: dict[Text, float] = defaultdict(float)
    for draft, weight in text_law(q, text, depth).items():
        w = [1.0]
        for i, token in enumerate(draft):
            path = text + draft[:i]
            w.append(min(1.0, w[-1] * p(path)[token] / q(path)[token]))
        left = [
            [
                max(w[i] * a - b, 0)
                for a, b in zip(p(text + draft[:i]), q(text + draft[:i]), strict=True)
            ]
            for i in range(depth)
        ]
        h = [1.0]
        for i in range(1, depth):
            room = sum(left[i]) + 1 - w[i]
            h.append(sum(left[i]) / room if room > 0 else 1.0)
        h.append(w[depth])
        above = 1.0
        for length in range(depth, -1, -1):
            chance = weight * above * h[length]
            above *= 1 - h[length]
            if chance == 0:
                continue
            end = p(text + draft) if length == depth else norm(left[length])
            for token, c in enumerate(end):
                blocks[(*draft[:length], token)] += chance * c
    return dict(blocks)


def division_factor(p: Probs, q: Probs, k: int) -> float:
    """ρ*: the root of 1 - (1 - β(ρ))^k = ρ β(ρ) in [1, k]."""

    def f(rho: float) -> float:
        beta = sum(min(b, a / rho) for a, b in zip(p, q, strict=True))
        return 1 - (1 - beta) ** k - rho * beta

    low, high = 1.0, float(k)
    while high - low > 1e-13:
        middle = (low + high) / 2
        low, high = (low, middle) if f(middle) <= 0 else (middle, high)
    return high


def spectr_blocks(p: Law, q: Law, text: Text, num_drafts: int, depth: int) -> Blocks:
    """SpecTr: all K independent chains, position by position."""
    blocks: dict[Text, float] = defaultdict(float)

    def go(path: Text, alive: list[Text], weight: float) -> None:
        a = p(text + path)
        if len(path) == depth:
            for token, chance in enumerate(a):
                blocks[(*path, token)] += weight * chance
            return
        b, i = q(text + path), len(path)
        rho = division_factor(a, b, len(alive))
        for chain in alive:
            accepted = min(1.0, a[chain[i]] / (rho * b[chain[i]]))
            if accepted > 0:
                same = [c for c in alive if c[i] == chain[i]]
                go((*path, chain[i]), same, weight * accepted)
            weight *= 1 - accepted
        if weight > 0:
            for token, chance in enumerate(residual(a, [rho * x for x in b])):
                blocks[(*path, token)] += weight * chance

    chains = text_law(q, text, depth)
    for drafts in product(chains.items(), repeat=num_drafts):
        go((), [chain for chain, _ in drafts], math.prod(w for _, w in drafts))
    return dict(blocks)


def tree_blocks(
    p: Law, q: Law, text: Text, k_config: Sequence[int], replacement: bool = True
) -> Blocks:
    """SpecInfer, and MCSS without replacement: children drawn at the moment they are tried."""
    blocks: dict[Text, float] = defaultdict(float)

    def node(path: Text, weight: float) -> None:
        a = list(p(text + path))
        if len(path) == len(k_config):
            end(path, a, weight)
        else:
            child(path, a, list(q(text + path)), k_config[len(path)], weight)

    def end(path: Text, a: Probs, weight: float) -> None:
        for token, chance in enumerate(a):
            blocks[(*path, token)] += weight * chance

    def child(path: Text, a: Probs, b: Probs, tries: int, weight: float) -> None:
        if tries == 0 or sum(b) == 0:
            end(path, a, weight)
            return
        for token, drawn in enumerate(b):
            if drawn == 0:
                continue
            accepted = min(1.0, a[token] / drawn)
            if accepted > 0:
                node((*path, token), weight * drawn * accepted)
            if accepted < 1:
                rest = [0.0 if i == token else x for i, x in enumerate(b)]
                shrunk = norm(rest) if sum(rest) > 0 else rest
                left = weight * drawn * (1 - accepted)
                child(path, residual(a, b), b if replacement else shrunk, tries - 1, left)

    node((), 1.0)
    return {block: weight for block, weight in blocks.items() if weight > 0}


def naive_blocks(p: Law, q: Law, text: Text, k_config: Sequence[int]) -> Blocks:
    """MCSS's naive rule: y ~ p goes on if one of k independent draws from q equals it."""
    blocks: dict[Text, float] = defaultdict(float)

    def node(path: Text, weight: float) -> None:
        for token, chance in enumerate(p(text + path)):
            covered = 0.0
            if len(path) < len(k_config):
                covered = 1 - (1 - q(text + path)[token]) ** k_config[len(path)]
            blocks[(*path, token)] += weight * chance * (1 - covered)
            if covered * chance > 0:
                node((*path, token), weight * chance * covered)

    node((), 1.0)
    return dict(blocks)


def optimal_transport(p: Probs, q: Probs, k: int) -> float:
    """The largest acceptance probability any rule can reach with k independent drafts.

    By the max-flow min-cut theorem: min over sets S of p(S) + P(some draft is outside S).
    """
    subsets = product((0, 1), repeat=len(p))
    return min(
        sum(a for a, inside in zip(p, s, strict=True) if inside)
        + 1
        - sum(b for b, inside in zip(q, s, strict=True) if inside) ** k
        for s in subsets
    )


# --- beams, MTAD, MMTAD ----------------------------------------------------------------------


def candidates(q: Law, text: Text, beams: Sequence[Beam], eos: Iterable[int] = ()) -> list[Beam]:
    """All (beam, token) continuations with their joint probabilities, beam by beam.

    A beam that ended in an EOS is its own only continuation.
    """
    found: list[Beam] = []
    for path, weight in beams:
        if path and path[-1] in set(eos):
            found.append((path, weight))
            continue
        chances = enumerate(q(text + path))
        found += [((*path, token), weight * chance) for token, chance in chances if chance > 0]
    return found


def ranked(beams: Iterable[Beam]) -> list[Beam]:
    """Best first; equals keep their order."""
    return sorted(beams, key=lambda beam: -beam[1])


def beam_search(q: Law, text: Text, width: int, depth: int) -> list[list[Beam]]:
    """The beams of every level, best first."""
    levels: list[list[Beam]] = [[((), 1.0)]]
    for _ in range(depth):
        levels.append(ranked(candidates(q, text, levels[-1]))[:width])
    return levels[1:]


def beam_sampling(
    q: Law, text: Text, width: int, depth: int, replacement: bool, eos: Iterable[int] = ()
) -> dict[tuple[Beam, ...], float]:
    """The law of the final beams, each outcome sorted best first."""
    states: dict[tuple[Beam, ...], float] = {(((), 1.0),): 1.0}
    for _ in range(depth):
        after: dict[tuple[Beam, ...], float] = defaultdict(float)
        for beams, weight in states.items():
            pool = candidates(q, text, beams, eos)
            for chosen, chance in _selections(pool, width, replacement).items():
                after[tuple(ranked(pool[i] for i in sorted(chosen)))] += weight * chance
        states = dict(after)
    return states


def _selections(pool: list[Beam], width: int, replacement: bool) -> dict[frozenset[int], float]:
    """The law of the set of selected candidates."""
    sets: dict[frozenset[int], float] = {frozenset(): 1.0}
    for _ in range(width if replacement else min(width, len(pool))):
        after: dict[frozenset[int], float] = defaultdict(float)
        for chosen, weight in sets.items():
            taken = set() if replacement else chosen
            total = sum(score for i, (_, score) in enumerate(pool) if i not in taken)
            for i, (_, score) in enumerate(pool):
                if i not in taken:
                    after[chosen | {i}] += weight * score / total
        sets = dict(after)
    return sets


def ratios(p: Law, q: Law, text: Text, draft: Text) -> list[float]:
    """p(d_1…d_i)/q(d_1…d_i) for every i."""
    steps = range(1, len(draft) + 1)
    return [joint(p, text, draft[:i]) / joint(q, text, draft[:i]) for i in steps]


def mtad_length(p: Law, q: Law, text: Text, draft: Text, threshold: float) -> int:
    """η: the longest prefix whose joint ratio reaches the threshold."""
    passing = [i for i, r in enumerate(ratios(p, q, text, draft), 1) if r >= threshold and r > 0]
    return max(passing, default=0)


def mmtad_path(
    p: Law, text: Text, levels: Sequence[Sequence[Beam]], threshold: float, rule: str
) -> Text:
    """The path MMTAD commits, given the beams of every level, best first."""
    star, best = levels[-1][0][0], ()
    weights = [dict(level) for level in levels]
    for depth, level in enumerate(levels, 1):
        bar = {
            "own": lambda path, d=depth: weights[d - 1][path],
            "max": lambda path, d=depth: max(weights[d - 1].values()),
            "star": lambda path, d=depth: weights[d - 1][star[:d]],
        }[rule]
        passing = [
            path
            for path, _ in level
            if joint(p, text, path) > 0 and joint(p, text, path) >= threshold * bar(path)
        ]
        if passing:
            best = max(passing, key=lambda path: joint(p, text, path))
    return best


def then_endpoint(p: Law, text: Text, path: Text) -> Blocks:
    """The block law of a path followed by one token of the target."""
    return {(*path, token): chance for token, chance in enumerate(p(text + path)) if chance > 0}


# --- MTJD ------------------------------------------------------------------------------------


def joint_blocks(p: Law, text: Text, depth: int, joint_warp: Callable[[Probs], Probs]) -> Blocks:
    """All blocks of a length, with `joint_warp` applied to their joint law."""
    blocks = text_law(p, text, depth)
    warped = joint_warp([math.log(w) for w in blocks.values()])
    return {block: w for block, w in zip(blocks, warped, strict=True) if w > 0}


# --- helpers of the tests themselves ----------------------------------------------------------


def is_descending(values: Sequence[float], slack: float = 1e-6) -> bool:
    return all(a >= b - slack for a, b in pairwise(values))
