"""What an acceptance rule makes of a recorded iteration, and which rules can judge it.

The target's logits and the draft's log-probabilities come from the trace, the random numbers from
the seed, and the decision from the method's own `verify`. What a rule reads is a fact of its
class, see `mtad.speculative.facts`: no method is asked for its name. Knows no model and no file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args, get_origin

import torch
from jaxtyping import Float
from torch import Tensor

from mtad import methods
from mtad.core.noise import Noise, signed
from mtad.core.schema import options_of
from mtad.core.tree import TokenTree
from mtad.engine.request import Request, prefix_of
from mtad.engine.step import Block
from mtad.errors import OptionError
from mtad.methods.autoregressive import Autoregressive
from mtad.sampling.truncation import NEVER
from mtad.sampling.warper import Warper
from mtad.speculative.beams import best_path
from mtad.speculative.facts import Reads
from mtad.speculative.method import Method
from mtad.trace.iteration import Iteration, accepted_block, decided


@dataclass(frozen=True)
class Rule:
    """What to judge by: a method, or the one that was recorded, with other options.

    Attributes:
        name: of the method; None for that of each iteration.
        options: what differs from the recorded options, or from the defaults of another method.

    Raises:
        ValueError: an unknown option, an impossible value, or an option of the draft.
    """

    name: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse options that no trace could be judged with."""
        if self.name is not None:
            _require_judging(methods.find(self.name), self.options)
            methods.make(self.name, self.options)

    @property
    def label(self) -> str:
        """The rule in words."""
        words = [self.name or "as recorded", *(f"{n}={v}" for n, v in self.options.items())]
        return " ".join(words)

    def is_of(self, seen: Iteration) -> bool:
        """Whether it is that of the recorded method, perhaps with other options."""
        return self.name is None or type(seen.method) is methods.find(self.name)

    def method_for(self, seen: Iteration) -> Method:
        """The method that judges an iteration.

        Raises:
            ValueError: the recorded method has no such option.
        """
        own = seen.method
        if seen.tree.depth == 0 and own.drafted_by == "none":
            return own  # a plain step, whatever the text's method
        if self.name is None or self.is_of(seen):
            _require_judging(type(own), self.options)
            return dataclasses.replace(own, **self.options)
        other = methods.make(self.name, self.options)
        if seen.tree.depth == 0 and other.endpoint == "sample":
            return Autoregressive()
        fits: dict[str, Any] = {"ratio_on": seen.ratio_on} if "ratio_on" in other.drafting else {}
        return dataclasses.replace(other, **fits)


def _require_judging(cls: type[Method], options: Collection[str]) -> None:
    """Raise `ValueError` for options that the method lacks, or that say what is drafted."""
    for option in options:
        methods.require_option(cls, option)
        if option in cls.drafting:
            raise ValueError(
                f"{option} says what is drafted, which the trace has decided; give an option of "
                "the acceptance rule, such as accept_threshold"
            )


def obstacle(method: Method, seen: Iteration) -> str | None:
    """Why the method cannot judge the iteration, None if it can."""
    is_own = type(seen.method) is type(method)
    if "target" in (seen.method.drafted_by, method.drafted_by):
        return None if is_own else "where the target makes a block itself, nothing is accepted"
    needs, refused = method.needs, _refused(method, seen)
    if refused is not None:
        return refused
    if seen.logits is None and (needs is None or needs.target == "logits"):
        why: str | None = "needs the target's logits, which --no-trace-laws left out"
    elif is_own:
        return None
    elif needs is None:
        why = "does not say what its rule reads of another method's draft"
    elif seen.tree.depth == 0:
        return None
    else:
        why = _lacks_logprobs(method, needs, seen) or _has_another_shape(needs, seen)
    return why and f"{method.name} {why}"


def _refused(method: Method, seen: Iteration) -> str | None:
    """Why the method would not decode with the sampling settings of the text, None if it would."""
    try:
        method.check(seen.sampling)
    except OptionError as error:
        return str(error)
    return None


def _lacks_logprobs(method: Method, needs: Reads, seen: Iteration) -> str | None:
    """What the draft lacks for the method, None if nothing."""
    own = seen.method
    if needs.draft != "nothing" and own.drafted_by == "none":
        return f"compares with the draft's log-probabilities, and drafts of {own.name} have none"
    if needs.draft == "distributions" and not seen.tree.draft_laws:
        return "needs the distributions that the draft drew from, and the trace has none"
    if needs.draft == "values" and method.ratio_on != seen.ratio_on:
        return f"compares {method.ratio_on} log-probabilities, and the draft's are {seen.ratio_on}"
    return None


def _has_another_shape(needs: Reads, seen: Iteration) -> str | None:
    """Why a rule cannot verify a tree of this shape, None if it can."""
    own, tree = seen.method, seen.tree
    if needs.tree == "beams" and seen.is_selected:
        return f"judges all beams, and {own.name} sent one of them to the target"
    is_beams = tree.is_chain or (own.needs is not None and own.needs.tree == "beams")
    is_even = len({*tree.widths[1:]}) == 1
    fits = {"any": True, "chains": is_even, "beam": is_beams, "beams": is_beams}
    if fits.get(needs.tree, tree.is_chain):
        return None
    if needs.tree == "beams":
        return f"judges beams, and {own.name} drafts a tree of draws"
    wanted = "chains" if needs.tree == "chains" else "a chain"
    return f"judges {wanted}, and the trace has a tree"


def able_rules(seen: Collection[Iteration]) -> list[str]:
    """The rules that can judge at least one of these iterations, as the command line has them."""
    return [label for label, rule in _named() if any(_is_able(rule, one) for one in seen)]


def _is_able(rule: Rule, seen: Iteration) -> bool:
    """Whether a rule can judge an iteration, and has a draft to judge or is the recorded one."""
    method = rule.method_for(seen)
    return obstacle(method, seen) is None and (seen.tree.depth > 0 or rule.is_of(seen))


def _named() -> Iterator[tuple[str, Rule]]:
    """Every rule there is: methods, and options that make a rule with other needs of one."""
    found = {name: methods.find(name) for name in methods.names()}
    yield from ((name, Rule(name)) for name in found)
    for name, cls in found.items():
        for option, value, shown in _choices(cls):
            if cls(**{option: value}).needs != cls().needs:
                yield f"{name} -o {option}={shown}", Rule(name, {option: value})


def _choices(cls: type[Method]) -> Iterator[tuple[str, Any, str]]:
    """Options of the acceptance rule with values to try, and what stands for these in print."""
    if cls.dial is not None:
        yield cls.dial.option, cls.dial.values[-1], "…"
    for name, option in options_of(cls).items():
        if name not in cls.drafting and get_origin(option.type) is Literal:
            yield from ((name, value, str(value)) for value in get_args(option.type))


def judge(method: Method, seen: Iteration, receipt: Mapping[str, float]) -> Block:
    """What the method accepts of the iteration; `obstacle` must have found none.

    Args:
        method: the method.
        seen: the iteration.
        receipt: what the method has kept of the text so far.
    """
    tree, (logits, warp) = seen.tree, _evidence(seen)
    end = Request([int(tree.previous), int(tree.tokens[:, 0])], seen.sampling, receipt=receipt)
    prefix = prefix_of([end], torch.device("cpu"), method.kept)
    warp = warp.at(replace(prefix, prompt_lengths=prefix.lengths - seen.position))
    if not tree.is_chain and method.needs is not None and method.needs.tree == "beam":
        path = best_path(tree)
        tree, logits = tree.select(path), logits[:, [0, *path[0].tolist()]]
    counters = [signed(seen.sampling.seed), seen.position]
    seeds, positions = torch.tensor(counters, dtype=torch.int64)[:, None]
    verdict = method.verify(tree, logits, warp, Noise(seeds, positions))
    if verdict.ledger is not None:
        receipt = dict(zip(method.kept, verdict.ledger[0].tolist(), strict=True))
    return accepted_block(method, tree, *decided(verdict), receipt)


def has_endpoint(method: Method, seen: Iteration) -> bool:
    """Whether the token after the accepted ones is known; without logits it is not."""
    return seen.logits is not None or method.drafted_by == "target"


def _evidence(seen: Iteration) -> tuple[Float[Tensor, "rows nodes vocab"], Warper]:
    """The target's logits and the warper of the text; with values alone, these as they are."""
    sampling, cpu = [seen.sampling], torch.device("cpu")
    if seen.logits is None:
        return _on_nodes(seen.tree, seen.target_logprobs), _AsGiven.of(sampling, 0, cpu)
    vocab = seen.logits.shape[2]
    warp = Warper.of(sampling, vocab, cpu)
    return seen.logits, dataclasses.replace(warp, width=min(vocab, seen.width))


def _on_nodes(
    tree: TokenTree, values: Float[Tensor, "rows nodes"]
) -> Float[Tensor, "rows nodes vocab"]:
    """Log-probabilities of the drafted tokens below each node, minus infinity for the others."""
    vocab = int(tree.tokens.max()) + 1
    logprobs = values.new_full((1, tree.num_nodes, vocab), NEVER)
    logprobs[0, tree.parents[0, 1:], tree.tokens[0, 1:]] = values[0, 1:]
    return logprobs


class _AsGiven(Warper):
    """For log-probabilities that were warped before they were recorded."""

    def __call__(
        self, logits: Float[Tensor, "rows nodes vocab"], tree: TokenTree, nodes: slice | None = None
    ) -> Float[Tensor, "rows nodes vocab"]:
        """The log-probabilities as they are."""
        return logits if nodes is None else logits[:, nodes]

    raw = __call__
