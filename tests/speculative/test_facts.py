"""Facts of methods: checked when a class is made, and true of what its rule does."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from support.tiny import label, variants
from support.toys import MarkovPair, iterate, make

from mtad import methods
from mtad.core.noise import Noise
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.speculative.facts import Dial, Reads
from mtad.speculative.method import Method
from mtad.testing import TOY_DRAFT, TOY_TARGET

GIVEN = {
    "name": "mine",
    "lossless": False,
    "citation": "me",
    "drafting": ("depth",),
    "dial": Dial("bar", (0.0, 1.0)),
    "reads": Reads("chain"),
}


def made(**facts: object) -> type[Method]:
    """A class of methods with two options and these facts."""
    base = {"draft": lambda *_: None, "verify": lambda *_: None, "num_nodes": lambda *_: 1}
    base |= {"__annotations__": {"depth": int, "bar": float}, "depth": 4, "bar": 0.5}
    return dataclass(frozen=True)(type("Mine", (Method,), base | facts))


def test_a_class_with_all_facts_is_a_method() -> None:
    cls = made(**GIVEN)
    assert (cls(bar=0.1).needs, cls().is_lossless) == (Reads("chain"), False)
    assert made(**{n: v for n, v in GIVEN.items() if n not in ("dial", "reads")})().needs is None


@pytest.mark.parametrize("fact", ["name", "lossless", "citation", "drafting"])
def test_a_missing_fact_is_refused_when_the_class_is_made(fact: str) -> None:
    with pytest.raises(ValueError, match=f"Mine has no {fact}; it must be "):
        made(**{name: value for name, value in GIVEN.items() if name != fact})


@pytest.mark.parametrize(
    ("fact", "value", "why"),
    [
        ("name", "", "name is ''; it must be the name that users type"),
        ("lossless", "no", "lossless is 'no'; it must be True or False"),
        ("citation", None, "citation is None; it must be a text"),
        ("drafter", "model", "drafter is 'model'; it must be 'draft', 'target' or 'none'"),
        ("drafting", "depth", "drafting is 'depth'; it must be a tuple"),
        ("drafting", ("length",), "drafting names 'length'; its options: bar, depth"),
        ("dial", "bar", "dial is 'bar'; it must be a Dial, or None"),
        ("dial", Dial("threshold", (1.0,)), "dial names 'threshold'; its options: bar, depth"),
        ("reads", "chain", "reads is 'chain'; it must be a Reads, or None"),
    ],
)
def test_a_wrong_fact_is_refused_with_what_is_allowed(fact: str, value: object, why: str) -> None:
    with pytest.raises(ValueError, match=f"Mine: {why}"):
        made(**GIVEN | {fact: value})


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    "reads", [{"tree": "ring"}, {"draft": "laws"}, {"target": "nothing"}], ids=str
)
def test_reads_knows_its_words(reads: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"Reads: \w+ is '\w+'; it must be one of '\w+', "):
        Reads(**reads)


@pytest.mark.parametrize("values", [(), (0.5, 0.5), (0.5, float("inf"))])
def test_a_dial_has_finite_values_each_once(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="one or more finite numbers"):
        Dial("bar", values)


def test_a_class_to_inherit_from_needs_no_facts() -> None:
    class Chain(Method):
        """Says how many nodes, and leaves the rest open."""

        def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
            """Three."""
            return 3

    with pytest.raises(ValueError, match="Whole has no name"):
        type("Whole", (Chain,), {"draft": Method.num_nodes.__get__, "verify": lambda *_: None})


def test_a_subclass_inherits_facts_and_may_change_them() -> None:
    @dataclass(frozen=True)
    class Strict(SpeculativeSampling):
        """With another default."""

        dial: ClassVar[Dial | None] = None

    assert (Strict.drafting, Strict.dial) == (("num_draft_tokens",), None)


@pytest.mark.parametrize("name", methods.names())
def test_every_value_of_a_dial_is_an_option_that_can_be_had(name: str) -> None:
    cls = methods.find(name)
    for value in () if cls.dial is None else cls.dial.values:
        assert getattr(methods.make(name, {cls.dial.option: value}), cls.dial.option) == value


def test_what_a_rule_reads_may_depend_on_its_options() -> None:
    exact, threshold = Reads("chain", "distributions"), Reads("chain", "values", "values")
    assert make("speculative_sampling").needs == exact
    assert make("speculative_sampling", accept_threshold=0.5).needs == threshold
    assert (
        make("mcss").needs
        == make("mcss", replacement="with").needs
        == Reads("any", "distributions")
    )
    assert make("mcss", replacement="naive").needs == Reads("any")
    assert (make("mtad", ratio_on="raw").ratio_on, make("bild").ratio_on) == ("raw", "warped")


# --- the facts are true ---

TEXTS = [[0, number % 3] for number in range(40)]
PAIR = MarkovPair.of(TOY_TARGET, TOY_DRAFT)
OTHER_DRAFTS = {
    "num_draft_tokens": 9,
    "beam_width": 9,
    "beam": "search",
    "num_drafts": 9,
    "k_config": (9,),
    "fallback_threshold": 0.1,
    "max_matching_ngram_size": 9,
}


def of_other_methods() -> list[Method]:
    """The variants whose rule may judge the drafts of others."""
    return [method for method in variants() if method.needs is not None]


@pytest.mark.parametrize("method", of_other_methods(), ids=label)
def test_a_rule_does_not_read_the_options_that_say_what_is_drafted(method: Method) -> None:
    seen = iterate(PAIR, method, TEXTS)
    others = {n: v for n, v in OTHER_DRAFTS.items() if n in method.drafting}
    other = dataclasses.replace(method, **others)
    noise = Noise(torch.arange(len(TEXTS)), torch.ones(len(TEXTS), dtype=torch.int64))
    verdicts = [m.verify(seen.tree, seen.target_logits, seen.warp, noise) for m in (method, other)]
    for name, values in vars(verdicts[0]).items():
        other_values = getattr(verdicts[1], name)
        assert values is other_values is None or torch.equal(values, other_values), name


@pytest.mark.parametrize("method", of_other_methods(), ids=label)
def test_a_rule_reads_no_more_than_its_facts_say(method: Method) -> None:
    """What it does not need may be anything; the same nodes are accepted."""
    seen = iterate(PAIR, method, TEXTS)
    tree, needs = seen.tree, method.needs
    if needs.draft != "distributions":
        tree = dataclasses.replace(tree, draft_laws=())
    if needs.draft == "nothing":
        values = torch.full_like(tree.node_logprobs, -0.123)
        tree = dataclasses.replace(tree, node_logprobs=values)
    noise = Noise(torch.arange(len(TEXTS)), torch.ones(len(TEXTS), dtype=torch.int64))
    was = method.verify(seen.tree, seen.target_logits, seen.warp, noise)
    now = method.verify(tree, seen.target_logits, seen.warp, noise)
    assert torch.equal(was.num_accepted, now.num_accepted)
    assert torch.equal(was.next_token, now.next_token)
    if needs.tree in ("chain", "beam"):
        assert tree.is_chain
