"""What a rule would have accepted of a recorded iteration, and which rules can tell.

The target's logits and the draft's laws come from the trace, the random numbers from the seed, and
the decision from the method's own `verify`. Knows no model and no file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

import torch
from jaxtyping import Float
from torch import Tensor

from mtad import methods
from mtad.core.noise import Noise
from mtad.core.options import option_types
from mtad.core.tree import TokenTree
from mtad.methods import no_such_option
from mtad.methods.autoregressive import Autoregressive
from mtad.sampling.params import SamplingParams
from mtad.sampling.truncation import NEVER
from mtad.sampling.warper import Warper
from mtad.speculative.beams import best_path
from mtad.speculative.facts import Reads
from mtad.speculative.method import Method
from mtad.trace.iteration import Iteration


@dataclass(frozen=True)
class Rule:
    """What to judge by: a method, or the one that was recorded, with other options.

    Attributes:
        name: of the method; None for that of each iteration.
        options: what differs from the recorded options, or from the defaults of another method.
    """

    name: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse options that the trace has decided already, and impossible ones."""
        if self.name is not None:
            _require_judging(methods.find(self.name), self.options)
            methods.make(self.name, self.options)

    @property
    def label(self) -> str:
        """The rule in words."""
        words = [self.name or "as recorded", *(f"{n}={v}" for n, v in self.options.items())]
        return " ".join(words)

    def method_for(self, seen: Iteration) -> Method:
        """The method that judges an iteration, fitted to the shape of its draft.

        Raises:
            ValueError: the recorded method has no such option.
        """
        own = seen.method
        if seen.tree.depth == 0 and own.drafter == "none":
            return own  # a plain step, whatever the text's method
        if self.name is None or type(own) is methods.find(self.name):
            _require_judging(type(own), self.options)
            return dataclasses.replace(own, **self.options)
        other = methods.make(self.name, self.options)
        if seen.tree.depth == 0 and other.endpoint == "sample":
            return Autoregressive()
        fits: dict[str, Any] = {"ratio_on": seen.law} if "ratio_on" in other.drafting else {}
        return dataclasses.replace(other, **fits)


def _require_judging(cls: type[Method], options: Collection[str]) -> None:
    """Raise `ValueError` for options that the method lacks, or that say what is drafted."""
    for option in options:
        if option not in option_types(cls):
            raise ValueError(no_such_option(cls, option))
        if option in cls.drafting:
            raise ValueError(
                f"{option} says what is drafted, which the trace has decided; give an option of "
                "the acceptance rule, such as accept_threshold"
            )


@dataclass(frozen=True)
class Outcome:
    """What a rule makes of an iteration.

    Attributes:
        tokens: the accepted tokens, and the one that follows them.
        num_accepted: accepted draft tokens.
        num_drafted: draft tokens that were judged.
        depth: draft tokens on the longest path.
        knows_endpoint: whether the token that follows is known; it takes the target's logits.
    """

    tokens: tuple[int, ...]
    num_accepted: int
    num_drafted: int
    depth: int
    knows_endpoint: bool


def obstacle(method: Method, seen: Iteration) -> str | None:
    """Why the method cannot judge the iteration, None if it can."""
    own, needs = seen.method, method.needs
    if "target" in (own.drafter, method.drafter):
        same = type(own) is type(method)
        return None if same else "where the target makes a block itself, nothing is accepted"
    if seen.logits is None and (needs is None or needs.target == "logits"):
        return f"{method.name} needs the target's logits, and the trace was written without laws"
    if type(own) is type(method):
        return None
    if needs is None:
        return f"nobody knows what the rule of {method.name} needs of another method's draft"
    return None if seen.tree.depth == 0 else _draft_obstacle(method, needs, seen)


def able_rules(seen: Collection[Iteration]) -> list[str]:
    """The rules that can judge at least one of these iterations, as the command line has them."""
    found = {rule: Rule(name, options) for rule, name, options in _named()}
    return [
        label
        for label, rule in found.items()
        if any(obstacle(rule.method_for(one), one) is None for one in seen)
    ]


def _named() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every rule there is: methods, and options that make another rule of one."""
    found = {name: methods.find(name) for name in methods.names()}
    yield from ((name, name, {}) for name in found)
    for name, cls in found.items():
        for option, value, shown in _choices(cls):
            if cls(**{option: value}).needs != cls().needs:
                yield f"{name} -o {option}={shown}", name, {option: value}


def _choices(cls: type[Method]) -> Iterator[tuple[str, Any, str]]:
    """Values of options of the acceptance rule to try: names, values, and what stands for them."""
    if cls.dial is not None:
        yield cls.dial.option, cls.dial.values[-1], "…"
    for option, kind in option_types(cls).items():
        if option not in cls.drafting and get_origin(kind) is Literal:
            yield from ((option, value, str(value)) for value in get_args(kind))


def _draft_obstacle(method: Method, needs: Reads, seen: Iteration) -> str | None:
    """What is missing of another method's draft."""
    own, tree = seen.method, seen.tree
    if needs.draft != "nothing" and own.drafter == "none":
        return f"{method.name} compares with the draft's law, and drafts of {own.name} have none"
    if needs.draft == "distributions" and not tree.draft_logprobs:
        return f"{method.name} needs the laws that the draft drew from, and the trace has none"
    if needs.draft == "values" and seen.law != method.ratio_on:
        return f"{method.name} compares {method.ratio_on} laws, and the draft's are {seen.law}"
    return _shape_obstacle(method, needs, seen)


def _shape_obstacle(method: Method, needs: Reads, seen: Iteration) -> str | None:
    """Why the method cannot verify a tree of this shape."""
    own, tree = seen.method, seen.tree
    if needs.tree == "beams" and seen.is_selected:
        return f"{method.name} judges all beams, and {own.name} sent one of them to the target"
    if needs.tree == "any" or tree.is_chain:
        return None
    has_beams = own.needs is not None and own.needs.tree == "beams"
    if needs.tree == "beams":
        return (
            None
            if has_beams
            else f"{method.name} judges beams, and {own.name} drafts a tree of draws"
        )
    if needs.tree == "chains":
        is_even = len({*tree.widths[1:]}) == 1
        return None if is_even else f"{method.name} judges chains, and the trace has a tree"
    if needs.tree == "beam" and has_beams:
        return None
    return f"{method.name} judges a chain, and the trace has a tree"


def recorded(seen: Iteration) -> Outcome:
    """What was accepted when it was recorded."""
    own = seen.method.drafter == "target"
    return _outcome(seen.tree, seen.tokens, own, knows_endpoint=True)


def judge(method: Method, seen: Iteration, sampling: SamplingParams) -> Outcome:
    """What the method accepts of the iteration; `obstacle` must have found none.

    Args:
        method: the rule.
        seen: the iteration.
        sampling: temperature, truncation and seed of the text.
    """
    tree, vocab = seen.tree, 0 if seen.logits is None else seen.logits.shape[2]
    warp = Warper.of([sampling], vocab, torch.device("cpu"))
    if seen.logits is None:
        logits = _on_nodes(tree, seen.target_logprobs)
        warp = _AsGiven(**{f.name: getattr(warp, f.name) for f in dataclasses.fields(warp)})
    else:
        logits, warp = seen.logits, dataclasses.replace(warp, width=min(vocab, seen.width))
    if not tree.is_chain and method.needs is not None and method.needs.tree == "beam":
        path = best_path(tree)
        nodes = torch.nn.functional.pad(path, (1, 0))
        tree, logits = tree.select(path), logits[:, nodes[0]]
    seed = (sampling.seed + 2**63) % 2**64 - 2**63
    noise = Noise(torch.tensor([seed]), torch.tensor([seen.position]))
    verdict = method.verify(tree, logits, warp, noise)
    path = verdict.path[0, : int(verdict.num_accepted)]
    tokens = (*tree.tokens[0, path].tolist(), int(verdict.next_token))
    own = method.drafter == "target"
    return _outcome(tree, tokens, own, knows_endpoint=own or seen.logits is not None)


def _outcome(tree: TokenTree, tokens: tuple[int, ...], own: bool, knows_endpoint: bool) -> Outcome:
    if own:  # nothing was drafted for it
        return Outcome(tokens, 0, 0, 0, knows_endpoint)
    alive = tree.alive[0, 1:]
    depth = int(tree.depths[1:][alive].max()) if bool(alive.any()) else 0
    return Outcome(tokens, len(tokens) - 1, int(alive.sum()), depth, knows_endpoint)


def _on_nodes(
    tree: TokenTree, values: Float[Tensor, "rows nodes"]
) -> Float[Tensor, "rows nodes vocab"]:
    """Laws that know nothing but the drafted tokens."""
    vocab = int(tree.tokens.max()) + 1
    laws = values.new_full((1, tree.num_nodes, vocab), NEVER)
    for node in range(1, tree.num_nodes):
        laws[0, tree.parents[0, node], tree.tokens[0, node]] = values[0, node]
    return laws


class _AsGiven(Warper):
    """For laws that were warped before they were recorded."""

    def __call__(
        self, logits: Float[Tensor, "rows nodes vocab"], tree: TokenTree, nodes: slice | None = None
    ) -> Float[Tensor, "rows nodes vocab"]:
        """The law as it is."""
        return logits if nodes is None else logits[:, nodes]

    def ratio_logprobs(
        self,
        ratio_on: str,
        warped: Float[Tensor, "rows nodes vocab"],
        logits: Float[Tensor, "rows nodes vocab"],
        tree: TokenTree,
        nodes: slice | None = None,
    ) -> Float[Tensor, "rows nodes vocab"]:
        """The recorded one."""
        return warped
