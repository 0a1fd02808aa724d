"""Schemas that llguidance alone would keep in part: refused by name, or said more tightly."""

from __future__ import annotations

import pytest
from support.letters import grammars_of

from mtad.errors import GrammarError, OptionError
from mtad.grammar.grammar import Grammar
from mtad.grammar.matcher import GrammarState, TokenGrammars

CHARACTERS = [chr(code) for code in range(32, 127)]
END = len(CHARACTERS)


@pytest.fixture(scope="module")
def grammars() -> TokenGrammars:
    return grammars_of([*CHARACTERS, "<end>"])


def accepts(state: GrammarState, text: str) -> bool:
    try:
        for character in text:
            state.push(CHARACTERS.index(character))
    except GrammarError:
        return False
    excluded = state.excluded(())
    return excluded is not None and not excluded[END]


OLD = "http://json-schema.org/draft-07/schema#"


def nested(levels: int) -> str:
    return '{"items": ' * levels + "{}" + "}" * levels


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (False, "no text satisfies"),
        ({"x-guidance": {"lenient": True}, "not": {}}, "x-guidance"),
        ({"dependencies": {"a": ["b"]}}, "dependencies is not implemented, at #"),
        ({"$schema": OLD, "unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"properties": {"a": {"not": {}}}}, "not is not implemented, at #/properties/a"),
        ({"$ref": "#/mine/a", "mine": {"a": {"extends": {}}}}, "extends"),
        ({"uniqueItems": True}, "uniqueItems"),
        ({"propertyNames": {"type": "string", "maxLength": 3}}, "propertyNames"),
        ({"type": "string", "format": "uri-reference"}, "uri-reference"),
        ({"prefixItems": [{"type": "string"}], "additionalItems": False}, "of different drafts"),
        ({"type": "object", "minProperties": 2}, "minProperties is 2"),
        ({"const": [{"a": 2**53 + 1}]}, r"9007199254740993 is not below 2\*\*53, at #/const"),
        ({"enum": [1e300]}, "1e.300 is not below"),
        ({"format": "date", "allOf": 3}, "allOf"),
        ({"const": "a\0b"}, "control character"),
        ({"properties": {"a\x01": {}}}, "control character"),
        (nested(600), "nested too deeply|recursion limit"),
    ],
)
def test_what_would_be_passed_over_is_refused_by_name(grammars, schema, message):
    with pytest.raises(GrammarError, match=f"(cannot be honoured|is false).*{message}"):
        grammars.begin(Grammar.json(schema), (END,))


def test_a_schema_that_is_nested_too_deeply_for_python_is_refused(grammars):
    with pytest.raises(OptionError, match="recursion"):
        Grammar.json(nested(3000))


FREE = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("schema", "accepted", "rejected"),
    [
        (True, ["1", '{"a":[]}'], ["{"]),
        ({"uniqueItems": False, "type": "array"}, ["[1,1]"], ["1"]),
        ({"propertyNames": {"type": "string"}, "type": "object"}, ['{"a":1}'], ["1"]),
        ({"format": "password", "type": "string"}, ['"a"'], ["1"]),
        (FREE, ['{"a":1}', '{"b":"x"}'], ['{"a":"x"}', r'{"\u0061":"x"}']),
        ({"type": "object", "minProperties": 1}, ['{"a":1}'], ["{}"]),
        ({"$schema": OLD, "prefixItems": [{"type": "null"}]}, ["[null]", "1"], ["[1]"]),
        ({"type": "integer", "minimum": 2**53 + 1}, ["9007199254740994"], ["9007199254740992"]),
        ({"type": "integer", "maximum": 2**63 - 1}, ["9223372036854774784"], [str(2**63)]),
        ({"format": "date"}, ['"2024-02-29"', "1"], ['"2023-02-29"', '"0000-01-01"', '"x"']),
        ({"format": "date", "pattern": "^1"}, ['"1999-12-31"'], ['"2000-01-01"', '"1999-13-01"']),
        ({"format": "hostname"}, ['"a.b-c"', '"a--b"'], ['"xn--a.b"', '"' + "a." * 127 + 'a"']),
    ],
)
def test_texts_are_held_to_what_llguidance_alone_would_not_keep(
    grammars, schema, accepted, rejected
):
    begin = grammars.begin(Grammar.json(schema), (END,))
    assert all(accepts(begin.restarted(), text) for text in accepted)
    assert not any(accepts(begin.restarted(), text) for text in rejected)


def test_properties_come_in_the_order_of_the_schema_also_beside_a_reference(grammars):
    second = {"$defs": {"b": {"properties": {"b": {}}}}, "$ref": "#/$defs/b"}
    begin = grammars.begin(Grammar.json({"properties": {"a": {}}} | second), (END,))
    assert accepts(begin.restarted(), '{"a":1,"b":2}')
    assert not accepts(begin.restarted(), '{"b":2,"a":1}')
