"""Toy pairs of known laws, one call that decodes a batch, and comparisons of samples with laws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from scipy import stats
from transformers import PreTrainedModel

import mtad.methods
from mtad.core.noise import Noise
from mtad.core.prefix import Prefix, select_rows
from mtad.core.tree import TokenTree
from mtad.engine.decode import decode
from mtad.engine.session import Request
from mtad.model.lm import LM
from mtad.sampling.params import SamplingParams
from mtad.sampling.warper import Warper
from mtad.speculative.method import Method, Verdict
from mtad.testing import Table, markov_model


@dataclass(frozen=True)
class MarkovPair:
    """Two models whose laws depend on the last token alone; `vocab` counts every row as a token."""

    target: PreTrainedModel
    draft: PreTrainedModel
    vocab: int

    @classmethod
    def of(cls, target: Table, draft: Table) -> MarkovPair:
        return cls(markov_model(target), markov_model(draft), len(target))

    @classmethod
    def everywhere(cls, p: Sequence[float], q: Sequence[float]) -> MarkovPair:
        """The same two laws after every token."""
        return cls.of([p] * len(p), [q] * len(q))


H_TARGET: Table = [
    [0.10, 0.55, 0.25, 0.10],
    [0.30, 0.10, 0.10, 0.50],
    [0.05, 0.45, 0.40, 0.10],
    [0.70, 0.10, 0.15, 0.05],
    [0.40, 0.30, 0.20, 0.10],
]
"""Target of toy pair H: four tokens, the last row is the law after its start token 4."""
H_DRAFT: Table = [
    [0.15, 0.40, 0.30, 0.15],
    [0.20, 0.20, 0.25, 0.35],
    [0.10, 0.30, 0.45, 0.15],
    [0.50, 0.20, 0.10, 0.20],
    [0.25, 0.35, 0.15, 0.25],
]
J_TARGET: Table = [[0.34, 0.33, 0.33], [0.05, 0.90, 0.05], [0.2, 0.2, 0.6], [0.50, 0.45, 0.05]]
"""Target of toy pair J, whose best first token leads to no good text; it starts with token 3."""
J_DRAFT: Table = [[0.40, 0.35, 0.25], [0.10, 0.80, 0.10], [0.25, 0.15, 0.6], [0.45, 0.50, 0.05]]


def make(name: str, **options: Any) -> Method:
    """A method by its registered name."""
    return mtad.methods.find(name)(**options)


def requests_of(
    prompts: Sequence[Sequence[int]], first_seed: int = 0, **sampling: Any
) -> list[Request]:
    """One request per prompt, with consecutive seeds and the same sampling settings."""
    params = SamplingParams(**sampling)
    return [
        Request(prompt, replace(params, seed=first_seed + i)) for i, prompt in enumerate(prompts)
    ]


def decode_all(
    target: PreTrainedModel,
    draft: PreTrainedModel | None,
    method: Method,
    requests: Sequence[Request],
    vocab: int,
) -> list[list[int]]:
    """The new tokens of every request."""
    texts: list[list[int]] = [[] for _ in requests]
    for step in decode(target, draft, method, requests, vocab):
        for block in step.blocks:
            texts[block.request] += block.token_ids
    return texts


@dataclass(frozen=True)
class Iteration:
    """One iteration of a method on a batch, outside the engine's loop."""

    tree: TokenTree
    verdict: Verdict
    target_logits: torch.Tensor
    warp: Warper

    @property
    def blocks(self) -> list[tuple[int, ...]]:
        """The accepted tokens of every row and the token after them."""
        v = self.verdict
        tokens = self.tree.tokens.gather(1, v.path).tolist()
        rows = zip(tokens, v.num_accepted.tolist(), v.next_token.tolist(), strict=True)
        return [(*path[:count], last) for path, count, last in rows]


def prefix_of(
    texts: Sequence[Sequence[int]], prompt_length: int = 1, budget: int = 16, entries: int = 0
) -> Prefix:
    """Texts of any length as the committed text of a batch."""
    lengths = torch.tensor([len(t) for t in texts])
    width = int(lengths.max()) + budget
    return Prefix(
        tokens=torch.tensor([[*t, *[0] * (width - len(t))] for t in texts]),
        lengths=lengths,
        prompt_lengths=torch.full_like(lengths, prompt_length),
        budgets=torch.full_like(lengths, budget),
        eos=torch.full((len(texts), 1), -1),
        horizon=budget,
        ledger=torch.zeros(len(texts), entries, dtype=torch.float64) if entries else None,
    )


def iterate(
    pair: MarkovPair,
    method: Method,
    texts: Sequence[Sequence[int]],
    seed: int = 0,
    budget: int = 16,
    **sampling: Any,
) -> Iteration:
    """`draft` and `verify` of a method, once, after each of the given texts (prompt: 1 token)."""
    prefix = prefix_of(texts, budget=budget, entries=len(method.kept))
    rows = len(texts)
    one = Warper.of([SamplingParams(**sampling)], pair.vocab, torch.device("cpu"))
    warp = select_rows(one, torch.zeros(rows, dtype=torch.int64))
    warp = warp.at(prefix)
    noise = Noise(seed * 10_000_019 + torch.arange(rows), prefix.num_new)
    capacity = prefix.tokens.shape[1] + method.num_nodes(pair.vocab, budget)
    model = {"draft": pair.draft, "target": pair.target, "none": None}[method.drafted_by]
    with torch.inference_mode():
        target = LM(pair.target, "target", pair.vocab, rows, capacity)
        target.prefill(texts)
        drafter = None
        if model is not None:
            drafter = LM(model, method.drafted_by, pair.vocab, rows, capacity)
            drafter.prefill(texts)
        narrow = warp.over(drafter.token_ids) if drafter else warp
        tree = method.draft(drafter, prefix, narrow, noise)
        logits = target.forward(tree)
        return Iteration(tree, method.verify(tree, logits, warp, noise), logits, warp)


def p_value(samples: Iterable[Hashable], law: Mapping[Any, float]) -> float:
    """Chi-squared p-value of samples against a law; cells of small expectation are pooled.

    A sample outside the law's support fails at once.
    """
    counts = Counter(samples)
    impossible = {k: n for k, n in counts.items() if law.get(k, 0.0) <= 0}
    assert not impossible, f"drawn, but of probability 0: {impossible}"
    expected = {key: counts.total() * chance for key, chance in law.items()}
    cells = [(counts[key], e) for key, e in expected.items() if e >= 5]
    rest = sum(expected.values()) - sum(e for _, e in cells)
    if rest > 1e-6 * counts.total():
        cells.append((counts.total() - sum(seen for seen, _ in cells), max(rest, 1.0)))
    statistic = sum((seen - e) ** 2 / e for seen, e in cells)
    return float(stats.chi2.sf(statistic, max(1, len(cells) - 1)))


def assert_law(samples: Iterable[Hashable], law: Mapping[Any, float], least: float = 1e-4) -> None:
    """Fail unless the samples could come from the law."""
    assert sum(law.values()) == pytest.approx(1, abs=1e-9)
    assert p_value(samples, law) > least


def assert_rate(hits: int, total: int, chance: float, sigmas: float = 5) -> None:
    """Fail unless a share of `hits` lies within `sigmas` of `chance`."""
    spread = (chance * (1 - chance) / total) ** 0.5
    assert abs(hits / total - chance) <= sigmas * spread + 1e-9


class TableLM(LM):
    """A fake drafter or target: every row has its own laws, which depend on the whole path.

    `laws` is (B, K, V); a node's law is that of its state, state = (state of its parent · 7 +
    token + 1) mod K, and the root's state is 0.
    """

    def __init__(self, laws: torch.Tensor) -> None:
        self.laws, self.name, self.vocab = laws, "table", laws.shape[2]

    def forward(self, tree: TokenTree) -> torch.Tensor:
        states = torch.zeros_like(tree.tokens)
        for i in range(1, tree.num_nodes):
            above = states.gather(1, tree.parents[:, i : i + 1])
            states[:, i : i + 1] = (above * 7 + tree.tokens[:, i : i + 1] + 1) % self.laws.shape[1]
        wanted = states[:, :, None].expand(-1, -1, self.vocab)
        return self.laws.log().gather(1, wanted).float()

    def forward_level(self, tree: TokenTree) -> torch.Tensor:
        return self.forward(tree)[:, tree.last_level]
