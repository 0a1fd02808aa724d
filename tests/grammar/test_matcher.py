"""Grammars as users give them, and what they allow along a path."""

from __future__ import annotations

from typing import Any

import pytest
from support.letters import grammars_of

import mtad
from mtad.errors import GrammarError, MtadError, OptionError
from mtad.grammar.grammar import Grammar
from mtad.grammar.matcher import TokenGrammars, state_of

TOKENS = ["a", "b", "ab", ",", "<end>"]
EOS = 4


@pytest.fixture(scope="module")
def grammars() -> TokenGrammars:
    return grammars_of(TOKENS)


def allowed(state: Any, *path: int) -> set[str] | None:
    found = state.excluded(path)
    return None if found is None else {TOKENS[i] for i in range(len(TOKENS)) if not found[i]}


def test_what_may_follow_is_a_function_of_the_path(grammars):
    state = grammars.begin(Grammar.regex("(ab|ba)(,a)*"), (EOS,))
    assert allowed(state) == {"a", "b", "ab"}
    assert allowed(state, 0) == {"b"}
    assert allowed(state, 0, 1) == allowed(state, 2) == {",", "<end>"}
    assert allowed(state, 2, 3) == {"a"}
    assert allowed(state, 1, 1) is None
    assert allowed(state, 1, 1, 0) is None


def test_looking_ahead_leaves_the_state(grammars):
    state = grammars.begin(Grammar.regex("(ab|ba)(,a)*"), (EOS,))
    assert not state.push(0)
    assert allowed(state, 1, 3) == {"a"}
    assert allowed(state) == {"b"}
    assert not state.push(1)
    assert allowed(state) == {",", "<end>"}
    assert allowed(state.restarted()) == {"a", "b", "ab"}


def test_a_text_that_can_only_end_is_finished(grammars):
    state = grammars.begin(Grammar.choice(["ab", "b"]), (EOS,))
    assert not state.push(0)
    assert state.push(1)
    assert state.is_finished
    open_ended = grammars.begin(Grammar.regex("a+"), (EOS,))
    assert not open_ended.push(0)
    assert not open_ended.is_finished


def test_a_token_that_may_not_follow_is_refused(grammars):
    state = grammars.begin(Grammar.choice(["ab"]), (EOS,))
    with pytest.raises(GrammarError, match="token 3 cannot follow"):
        state.push(3)


def test_only_the_ends_that_a_text_has_end_it(grammars):
    state = grammars.begin(Grammar.regex("a+"), ())
    assert not state.push(0)
    assert allowed(state) == {"a"}
    with_text = grammars.begin(Grammar.regex("a+(,b)?"), (EOS, 3))
    assert allowed(with_text) == {"a"}  # a comma ends the text, and is none before the first a
    assert allowed(with_text, 0) == {"a", ",", "<end>"}


def test_a_state_is_known_as_long_as_somebody_has_it(grammars):
    state = grammars.begin(Grammar.regex("a+"), (EOS,))
    number = state.number
    assert state_of(number) is state
    assert grammars.begin(Grammar.regex("a+"), (EOS,)).number != number
    del state
    with pytest.raises(KeyError):
        state_of(number)


def test_what_is_forced_is_said(grammars):
    assert grammars.begin(Grammar.regex("a,[ab]"), (EOS,)).forced()[:1] == [0]
    assert grammars.begin(Grammar.regex("[ab]a"), (EOS,)).forced() == []


def deep() -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(2000):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grammar.json("{"), "the JSON schema is not JSON"),
        (lambda: Grammar.json("[" * 5000), "the JSON schema is not JSON"),
        (lambda: Grammar.json(deep()), "the JSON schema is nested too deeply"),
        (lambda: Grammar.json("3"), "it must be an object, true or false"),
        (lambda: Grammar.choice([]), "it must be a list of strings"),
        (lambda: Grammar.choice("yes"), "it must be a list of strings"),
        (lambda: Grammar.choice(["a", ""]), "none of them empty"),
        (lambda: Grammar.of(3), "grammar is 3; it must be"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_grammar_is_refused(make, message):
    with pytest.raises(OptionError, match=message) as error:
        make()
    assert error.value.name == "grammar"


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        (Grammar.regex("(a"), "the regex cannot be honoured: .*unclosed group"),
        (Grammar.json({"type": "strin"}), "the JSON schema cannot be honoured: .*strin"),
        (Grammar.json({"allOf": [{"not": {}}]}), "the JSON schema cannot be honoured"),
        (Grammar.lark("start: foo"), 'the grammar cannot be honoured: .*"foo"'),
    ],
)
def test_what_cannot_be_honoured_is_refused(grammars, grammar, message):
    with pytest.raises(GrammarError, match=message) as error:
        grammars.begin(grammar, (EOS,))
    assert isinstance(error.value, MtadError) and error.value.name == "grammar"


def test_where_masks_take_too_much_effort_the_text_fails_and_nothing_else(grammars):
    with pytest.raises(GrammarError, match="lexer error: too many"):
        grammars.begin(Grammar.regex("(a|b)*a(a|b){30}"), (EOS,), effort=10)
    state = grammars.begin(Grammar.regex("(a|b)*a(a|b){30}"), (EOS,), effort=60)
    with pytest.raises(GrammarError, match="lexer error: too many"):
        while True:
            assert state.excluded((0, 1)) is None or state.excluded(()) is not None
            state.push(0)
    assert grammars.begin(Grammar.regex("(a|b)*a(a|b){30}"), (EOS,)).excluded(()) is not None


def test_a_text_that_fails_leaves_its_grammar_to_others(grammars):
    """All texts of a compiled grammar share a lexer, which does not recover."""
    grammar = Grammar.regex("(a|b)*b(a|b){30}")
    state = grammars.begin(grammar, (EOS,), effort=60)
    assert any(state.excluded((1,) * count) is None for count in range(30))
    again = grammars.begin(grammar, (EOS,), effort=60)
    assert not again.push(0) and again.excluded(()) is not None


def test_the_text_ends_where_no_mask_could_be_made_and_not_before(grammars):
    state = grammars.begin(Grammar.regex("a*"), (EOS,))
    state._unmasked = {(0, 0): GrammarError("here"), (1,): GrammarError("elsewhere")}
    assert not state.push(0) and not state.push(0)
    with pytest.raises(GrammarError, match="here"):
        state.push(0)


def test_compiled_grammars_are_kept_within_a_bound(grammars, monkeypatch):
    monkeypatch.setattr("mtad.grammar.matcher.MOST_KEPT_CHARS", 50)
    own = TokenGrammars(grammars._tokenizer)
    texts = ["ab", "b" * 20, "a" * 20]
    for text in (*texts, "ab", "a" * 30):
        own.begin(Grammar.choice([text]), (EOS,))
    assert [len(grammar.source) for grammar, _ in own._compiled] == [6, 34]
    own.begin(Grammar.choice(["a" * 99]), (EOS,))
    assert [len(grammar.source) for grammar, _ in own._compiled] == [103]


def test_a_grammar_needs_a_tokenizer():
    with pytest.raises(GrammarError, match="came without one"):
        TokenGrammars.of(None, 5, (4,))


def test_a_class_that_says_its_schema_is_one():
    class Person:
        @classmethod
        def model_json_schema(cls) -> dict[str, Any]:
            return {"type": "object"}

    assert Grammar.of(Person) == Grammar.json() == mtad.Grammar.of({"type": "object"})
