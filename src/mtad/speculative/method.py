"""What a decoding method is: a frozen dataclass with two functions, `draft` and `verify`.

The engine calls them in turn and never asks which method it runs. Knows no engine, no tokenizer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor

from mtad.core.noise import Noise
from mtad.core.prefix import Prefix
from mtad.core.schema import check_fields
from mtad.core.tree import TokenTree
from mtad.errors import OptionError
from mtad.sampling.params import SamplingParams
from mtad.sampling.warper import Warper
from mtad.speculative.facts import Dial, Reads, check_facts

if TYPE_CHECKING:
    from mtad.model.drafter import Drafter


@dataclass(frozen=True)
class Verdict:
    """What one iteration accepts, per row.

    Attributes:
        path: (B, D) indices of the accepted nodes from level 1 on; only the first `num_accepted`
            count.
        num_accepted: (B,) accepted draft tokens; -1 where nothing is committed, not even a next
            token.
        next_token: (B,) the token that follows them (bonus, correction or endpoint token).
        ledger: (B, S) the new `Method.entries` of each text; None leaves them as they are.
    """

    path: Int[Tensor, "rows depth"]
    num_accepted: Int[Tensor, " rows"]
    next_token: Int[Tensor, " rows"]
    ledger: Float[Tensor, "rows entries"] | None = None


@dataclass(frozen=True)
class Method(ABC):
    """A decoding method; its fields are its options.

    The annotations of the fields have their ranges, such as `Annotated[float, Ge(0)]`. A method
    with rules across fields has its own `__post_init__`, which calls this one.

    Class attributes, its facts; a class with a wrong or missing one cannot be made:
        name: the name users type, that of its file.
        lossless: whether the text follows the target's warped distribution exactly.
        citation: where the method comes from.
        drafter: which model drafts: "draft", "target" for a method that makes the block itself and
            accepts all of it, or "none" where no model is asked.
        drafting: the options that say what is drafted; the others are of the acceptance rule.
        dial: the option that trades quality for speed, None if there is none.
        judges_candidates: whether `verify` asks no more of the target than `warp(target_logits,
            tree)`, and of token ids only which are equal or lower. It then gets trees and
            log-probabilities of the few tokens that have any probability, numbered anew, see
            `mtad.speculative.judging`.
        entries: names of the numbers that the method keeps of each text, its ledger. They begin at
            0; `verify` reads them as `warp.ledger`, (B, S), and finds in the next iteration what
            its verdict has for them. They come with the answer as its receipt; over several texts
            they are added up, or the largest is taken where the name begins with "largest_".
        reads: what the rule reads; None if that is not known, so that only the method's own drafts
            can be judged by it.
    """

    name: ClassVar[str]
    lossless: ClassVar[bool]
    citation: ClassVar[str]
    drafter: ClassVar[Literal["draft", "target", "none"]] = "draft"
    drafting: ClassVar[tuple[str, ...]]
    dial: ClassVar[Dial | None] = None
    judges_candidates: ClassVar[bool] = False
    entries: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[Reads | None] = None

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Check the facts of a class that can be used."""
        super().__init_subclass__(**kwargs)
        steps = (cls.draft, cls.verify, cls.num_nodes)
        if not any(getattr(step, "__isabstractmethod__", False) for step in steps):
            check_facts(cls)

    def __post_init__(self) -> None:
        """Refuse options of another type or out of their range."""
        check_fields(self, f"{self.name}: ")

    @abstractmethod
    def draft(self, lm: Drafter | None, prefix: Prefix, warp: Warper, noise: Noise) -> TokenTree:
        """The tokens to verify.

        Args:
            lm: the drafter with the prefix in its cache, None where `drafted_by` is "none". May be
                fed level by level; is not to be committed.
            prefix: the committed text.
            warp: turns logits of either model into the log-probabilities to draw from, with each
                row's penalties, temperature, top-k, top-p and min-p; `verify` gets the same, here
                it is over `lm.token_ids`, the tokens that the drafter's logits are of.
            noise: the only source of randomness.
        """

    @abstractmethod
    def verify(
        self,
        tree: TokenTree,
        target_logits: Float[Tensor, "rows nodes vocab"],
        warp: Warper,
        noise: Noise,
    ) -> Verdict:
        """What of the tree is accepted, and the token after it; a pure function."""

    @abstractmethod
    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """Nodes of the largest tree, root included: how much room the caches keep for it."""

    @property
    def is_lossless(self) -> bool:
        """Whether it is lossless with these options."""
        return self.lossless

    @property
    def drafted_by(self) -> Literal["draft", "target", "none"]:
        """Which model drafts with these options."""
        return self.drafter

    @property
    def needs(self) -> Reads | None:
        """What the rule reads with these options."""
        return self.reads

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of all entries with these options; those that begin with "_" are not shown."""
        return self.entries

    @property
    def ratio_on(self) -> Literal["warped", "raw"]:
        """Which probabilities are compared: "raw" is before temperature and truncation."""
        return "warped"

    @property
    def endpoint(self) -> Literal["sample", "greedy"]:
        """How the token after the accepted path is taken from the target."""
        return "sample"

    def check(self, params: SamplingParams) -> None:
        """Raise `OptionError` naming the sampling settings that the method can't honour."""
        return None

    def _refuse_sampling(self, params: SamplingParams) -> None:
        """Refuse all but temperature 0 without truncation."""
        why = "it searches the model's own distribution, at temperature 0"
        if params.temperature != 0:
            given = f"{self.name} does not honour temperature={params.temperature!r}"
            raise OptionError(f"{given}: {why}; set temperature to 0", "temperature")
        self._refuse(params, {"top_k", "top_p", "min_p"}, why)

    def _refuse(self, params: SamplingParams, names: set[str], why: str) -> None:
        refused = sorted(names & params.active())
        if refused:
            given = ", ".join(f"{n}={getattr(params, n)!r}" for n in refused)
            raise OptionError(f"{self.name} does not honour {given}: {why}", refused[0])


def require(ok: bool, method: Method, option: str, allowed: str) -> None:
    """Raise `OptionError` unless `ok`, saying what was given and what is allowed."""
    if not ok:
        given = getattr(method, option)
        raise OptionError(f"{method.name}: {option} is {given!r}; it must be {allowed}", option)


def method_key(method: Method) -> Hashable:
    """What equal methods have in common, options included."""
    return type(method), repr(method)
