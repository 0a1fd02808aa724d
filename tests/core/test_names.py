"""Names that are nearly right: which one is meant."""

from __future__ import annotations

import pytest

from mtad.core.names import did_you_mean, same_name
from mtad.methods import find, names

METHODS = names()


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("mtad", "mtad"),
        ("MTAD", "mtad"),
        ("Speculative-Sampling", "speculative_sampling"),
        ("beam search", "beam_search"),
        (" bild ", "bild"),
    ],
)
def test_capitals_and_hyphens_make_no_difference(given: str, meant: str) -> None:
    assert same_name(given, METHODS) == meant
    assert find(given).name == meant


@pytest.mark.parametrize("given", ["", "mtda", "mtads", "speculativesampling", "bea"])
def test_anything_else_is_another_name(given: str) -> None:
    assert same_name(given, METHODS) is None


def test_a_name_that_two_could_be_is_taken_only_where_it_is_one_of_them() -> None:
    assert same_name("A", ["a", "A"]) == "A"
    assert same_name("x-Y", ["x_y", "X-y"]) is None


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("mtda", "mtad"),
        ("speculative_sampler", "speculative_sampling"),
        ("specinfr", "specinfer"),
        ("BEAM-SERCH", "beam_search"),
        ("typical", "typical_acceptance"),
        ("lookup", "prompt_lookup"),
        ("autoregresive", "autoregressive"),
    ],
)
def test_a_near_miss_gets_one_suggestion(given: str, meant: str) -> None:
    assert did_you_mean(given, METHODS) == f" (did you mean {meant!r}?)"


@pytest.mark.parametrize("given", ["", "a", "llama", "nucleus", "x" * 5000])
def test_what_is_far_from_all_gets_none(given: str) -> None:
    assert did_you_mean(given, METHODS) == ""
    assert did_you_mean(given, []) == ""


def test_those_that_are_equally_near_are_all_named() -> None:
    assert (
        did_you_mean("top_q", ["top_k", "top_p", "min_p"]) == " (did you mean 'top_k' or 'top_p'?)"
    )


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("max_token", "max_tokens"),
        ("max_new_tokens", "max_tokens"),
        ("topk", "top_k"),
        ("presence_penality", "presence_penalty"),
        ("length_penalty", ""),
        ("echo", ""),
        ("penalty", ""),
    ],
)
def test_what_may_be_right_elsewhere_is_suggested_where_it_is_a_slip(
    given: str, meant: str
) -> None:
    known = ["max_tokens", "top_k", "presence_penalty", "method"]
    assert did_you_mean(given, known, is_typo=True) == (meant and f" (did you mean {meant!r}?)")


def test_a_name_of_a_million_letters_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtad.core.names.SequenceMatcher", None)
    for is_typo in (False, True):
        assert did_you_mean("max_tokens" * 100_000, ["max_tokens"], is_typo=is_typo) == ""
