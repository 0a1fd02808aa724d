"""Grammars of calls without a model: what they allow is read as calls of the schema."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest
from support.serving import demo

from mtad.errors import GrammarError
from mtad.grammar.grammar import Grammar
from mtad.server.api.tool_parsers.answers import begins_of, refuse_alike
from mtad.server.api.tool_parsers.families import FAMILIES, Family, family_of
from mtad.server.api.tool_parsers.grammars import CallGrammar
from mtad.server.api.tool_parsers.reading import Reading

UNITS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "unit": {"$ref": "#/$defs/unit"},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "note": {"type": "string", "maxLength": 5},
        "code": {"type": "string", "pattern": "^[ab]{2}$"},
    },
    "required": ["unit", "count"],
    "additionalProperties": False,
    "$defs": {"unit": {"enum": ["hours", "days"]}},
}
FLAG: dict[str, Any] = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}},
    "required": ["on"],
    "additionalProperties": False,
}
SCHEMAS = {"convert": UNITS, "switch": FLAG}
ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {"n": {"$ref": "#/$defs/n"}},
    "required": ["n"],
    "additionalProperties": False,
    "$defs": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
}
FORMS: dict[str, Family] = {family.name: family for family in FAMILIES.values()}
FORMS["mistral with [ARGS]"] = family_of("[TOOL_CALLS][ARGS]")
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("convert", {"unit": "days", "count": 5, "note": "a\nb", "code": "ab"}),
    ("switch", {"on": True}),
]


def of(family: Family, schemas: Any = SCHEMAS, **more: Any) -> CallGrammar:
    usual: dict[str, Any] = {"answer": None, "required": False, "single": False}
    usual |= {"thinks": False, "opened": False, "tokens": {}}
    if "answer" in more and not isinstance(more["answer"], Grammar):
        more["answer"] = Grammar.json(more["answer"])
    return CallGrammar(family=family, schemas=schemas, **usual | more)


def allows(form: CallGrammar, text: str) -> bool:
    pair = demo()
    state = pair.models.grammars.begin(form.grammar, pair.models.eos_token_ids)
    tokenizer: Any = pair.tokenizer
    try:
        for token in tokenizer(text, add_special_tokens=False).input_ids:
            state.push(token)
    except GrammarError:
        return False
    excluded = state.excluded(())
    return excluded is not None and not excluded[pair.models.eos_token_ids[0]]


def walk(form: CallGrammar, seed: int) -> str:
    """A text of the grammar whose tokens are drawn evenly; short ends are preferred."""
    pair, draw = demo(), random.Random(seed)
    tokenizer: Any = pair.tokenizer
    state = pair.models.grammars.begin(form.grammar, pair.models.eos_token_ids)
    ids = list[int]()
    while not state.is_finished and len(ids) < 400:
        excluded = state.excluded(())
        assert excluded is not None
        if not excluded[pair.models.eos_token_ids[0]] and draw.random() < 0.8:
            break
        allowed = [t for t in (~excluded).nonzero()[0] if t not in pair.models.eos_token_ids]
        token = int(draw.choice(allowed))
        ids.append(token)
        state.push(token)
    return str(tokenizer.decode(ids))


@pytest.mark.parametrize("family", FORMS.values(), ids=FORMS)
def test_what_is_allowed_is_read_as_calls_of_the_schemas(family: Family) -> None:
    reading = Reading(family, SCHEMAS)
    for seed in range(4):
        text = walk(of(family, required=True), seed)
        reply = reading.reply(text)
        assert reply.content == ""
        assert reply.calls, text
        for call in reply.calls:
            jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])


@pytest.mark.parametrize("family", FORMS.values(), ids=FORMS)
def test_an_answer_of_a_schema_or_calls(family: Family) -> None:
    both, must = of(family, answer=ANSWER), of(family, required=True)
    one, two = family.written(CALLS[1:]), family.written(CALLS[1:] * 2)
    assert allows(both, '{"n": 5}')
    assert allows(both, one) and allows(both, two)
    assert not allows(both, '{"n": 12}') and not allows(both, "text")
    assert not allows(both, '{"n": 5}' + one)
    assert not allows(both, one.replace("rue", "ree"))
    assert allows(must, one) and not allows(must, '{"n": 5}')
    assert not allows(of(family, answer=ANSWER, single=True), two)
    reading = Reading(family, SCHEMAS, alone=True)
    assert len(reading.reply(two).calls) == 2
    for seed in range(4):
        reply = reading.reply(walk(both, seed))
        assert bool(reply.calls) != bool(reply.content)
        if reply.content:
            jsonschema.validate(json.loads(reply.content), ANSWER)
        for call in reply.calls:
            jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])
    anything = of(family, answer=True)
    assert allows(anything, "[1]") and allows(anything, one)


OWN = """
start: call calls
call: "go" | answer
answer: TEXT
calls: " " head
head: /[a-c]{2}/
TEXT: "stop"
"""
ANSWERS: list[tuple[Grammar, list[str], list[str]]] = [
    (Grammar.regex("[a-z/]{2,4}\n?"), ["ab", "a/bc\n"], ["a", "abcde", "go ab"]),
    (Grammar.regex("(.|\\n){0,9}"), ["", "any\ntext", "<tool"], ["more than nine"]),
    (Grammar.choice(["yes", "no\n", '"']), ["yes", "no\n", '"'], ["ye", "yes\n", "go ab"]),
    (Grammar.lark(OWN), ["go ab", "stop cc"], ["go", "go abc", "yes"]),
    (Grammar.lark('root ::= "x" root | "y"'), ["y", "xxy"], ["x", "xyx"]),
]


@pytest.mark.parametrize("family", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("answer", "right", "wrong"), ANSWERS, ids=range(len(ANSWERS)))
def test_an_answer_of_any_form_or_calls(
    family: Family, answer: Grammar, right: list[str], wrong: list[str]
) -> None:
    both, thinking = of(family, answer=answer), of(family, answer=answer, thinks=True)
    call, think = family.written(CALLS[1:]), "<think>so</think>\n\n"
    reading = Reading(family, SCHEMAS, alone=True, held=True)
    for text in (*right, *(f"{think}{one}" for one in right if one[:1].isalpha())):
        assert allows(thinking if text.startswith(think) else both, text), text
    for text in right:
        assert (reading.reply(text).content, reading.reply(text).calls) == (text, [])
    assert allows(both, call) and allows(thinking, call) and allows(thinking, think + call)
    assert not any(allows(both, text) for text in [*wrong, call.replace("rue", "ree")])


ALIKE: list[tuple[str, Grammar]] = [
    ("hermes", Grammar.choice(["yes", " <tool_call>no"])),
    ("hermes", Grammar.lark("start: /<[a-z]+>/")),
    ("mistral", Grammar.regex("\\[TOOL_CALLS\\]+")),
    ("qwen3_coder", Grammar.lark('start: " "? "<function"')),
    ("llama3", Grammar.choice(["{", "}"])),
    ("llama3", Grammar.regex(r'\{"a": \d\}')),
    ("json", Grammar.lark('start: "[" /[0-9]/ "]"')),
]


@pytest.mark.parametrize(("name", "form"), ALIKE, ids=range(len(ALIKE)))
def test_an_answer_that_begins_as_a_call_does_is_refused(name: str, form: Grammar) -> None:
    pair, family = demo(), FORMS[name]
    begins = begins_of(family, thinks=False, opened=False)
    with pytest.raises(GrammarError, match="cannot begin as calls do"):
        refuse_alike(form, begins, pair.models.grammars, pair.models.eos_token_ids)
    with pytest.raises(GrammarError, match="cannot begin as calls do"):
        begins = begins_of(family, thinks=True, opened=False)
        spaced = Grammar.choice([" a"])
        refuse_alike(spaced, begins, pair.models.grammars, pair.models.eos_token_ids)
    for free in (Grammar.lark('start: "<" "b>"'), Grammar.regex("(.|\n)*")):
        refuse_alike(free, begins, pair.models.grammars, pair.models.eos_token_ids)


@pytest.mark.parametrize("family", FORMS.values(), ids=FORMS)
def test_text_is_free_until_a_call_begins(family: Family) -> None:
    free, begin = of(family), "" if family.is_bare else "Well. "
    one = begin + family.written(CALLS[1:])
    assert allows(free, "Well.") and allows(free, one)
    assert not allows(free, one.replace("rue", "ree"))
    any_arguments = of(family, {"switch": {}})
    assert allows(any_arguments, one)
    assert allows(any_arguments, begin + family.written([("switch", {"of": "x"})]))
    assert not allows(any_arguments, one.replace("switch", "swotch"))


def test_a_call_without_its_mark_is_held_too() -> None:
    family = FAMILIES["qwen3_coder"]
    bare = family.written(CALLS[1:]).removeprefix("<tool_call>\n")
    spaced = bare.replace("=switch>", "= switch >")
    form, once = of(family), of(family, single=True)
    for text in (bare, f"Well. {bare}\n", spaced, bare.removesuffix("\n</tool_call>") * 2):
        assert allows(form, text)
        assert not allows(form, text.replace("rue", "ree"))
        assert len(Reading(family, SCHEMAS).reply(text).calls) == text.count("<function")
    assert allows(form, "a <function=f> <function=") and allows(form, f"<function={bare}")
    assert allows(once, bare.removesuffix("\n</tool_call>"))
    assert not allows(once, bare.replace("rue", "ree").removesuffix("\n</tool_call>"))


def test_arguments_between_tags() -> None:
    family = FAMILIES["qwen3_coder"]
    form = of(family, required=True)
    quoted = CALLS[0][1] | {"code": '"ab"'}  # more is said of it than its length
    text = family.written([("convert", quoted)])
    assert allows(form, text)
    [call] = Reading(family, SCHEMAS).reply(text).calls
    assert json.loads(call.arguments) == CALLS[0][1]
    assert allows(form, family.written([("convert", {"unit": "days", "count": 5})]))
    wrong = [
        *({"unit": "days"}, {"count": 5, "unit": "days"}, {"unit": "year", "count": 5}),
        *({"unit": "days", "count": 100}, {"unit": "days", "count": 5, "note": "abcdef"}),
        {"unit": "days", "count": 5, "note": "</parameter>"},
    ]
    assert not any(allows(form, family.written([("convert", one)])) for one in wrong)


POINT = {"type": "object", "properties": {"x": {"type": "boolean"}}, "additionalProperties": False}
NODE: dict[str, Any] = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}, "kids": {"type": "array", "items": {"$ref": "#"}}},
    "additionalProperties": False,
}
ROOTS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]] = [
    ({"$ref": "#/$defs/n", "$defs": {"n": FLAG}}, {"on": True}, {"on": 1}),
    (NODE, {"kids": [{"on": True, "kids": []}]}, {"kids": [[]]}),
    (
        {"properties": {"a b": POINT, "c": {"items": {"$ref": "#/properties/a%20b"}}}},
        {"a b": {"x": True}, "c": [{"x": True}]},
        {"c": [{"y": True}]},
    ),
    ({"type": "object"}, {"any": "x"}, None),
    ({"additionalProperties": True}, {"any": "x"}, None),
    ({"type": "object", "properties": {}, "additionalProperties": False}, {}, {"any": "x"}),
    ({**FLAG, "strict": True, "x-order": 1, "propertyNames": {}}, {"on": True}, {"on": 1}),
]


@pytest.mark.parametrize(("schema", "right", "wrong"), ROOTS, ids=range(len(ROOTS)))
def test_schemas_of_arguments_between_tags(
    schema: dict[str, Any], right: dict[str, Any], wrong: dict[str, Any] | None
) -> None:
    family = FAMILIES["qwen3_coder"]
    form, text = of(family, {"f": schema}, required=True), family.written([("f", right)])
    assert allows(form, text)
    assert wrong is None or not allows(form, family.written([("f", wrong)]))
    [call] = Reading(family, {"f": schema}).reply(text).calls
    assert json.loads(call.arguments) == right


@pytest.mark.parametrize("family", FORMS.values(), ids=FORMS)
def test_arguments_are_an_object(family: Family) -> None:
    form = of(family, {"switch": {**FLAG, "type": ["null", "object"]}}, required=True)
    text = family.written(CALLS[1:])
    assert allows(form, text)
    if (null := text.replace('{"on": true}', "null")) != text:
        assert not allows(form, null)
    with pytest.raises(GrammarError, match="of switch are an object, and its schema says 'string'"):
        _: Grammar = of(family, {"switch": {"type": "string"}}, required=True).grammar


def test_what_is_said_of_all_arguments_cannot_be_held_between_tags() -> None:
    with pytest.raises(GrammarError, match="minProperties in the parameters of f"):
        _: Grammar = of(FAMILIES["qwen3_coder"], {"f": {"minProperties": 1}}, required=True).grammar


@pytest.mark.parametrize("family", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("opened", [False, True])
def test_thinking_may_come_before_an_answer_or_a_call(family: Family, opened: bool) -> None:
    form = of(family, answer=ANSWER, thinks=True, opened=opened)
    think, call = "so</think>\n\n" if opened else "<think>so</think>\n\n", family.written(CALLS[1:])
    assert allows(form, think + '{"n": 5}') and allows(form, think + call)
    assert allows(form, call) != opened
    assert not allows(form, think + "text")
    reading = Reading(family, SCHEMAS, alone=True, thinks=True, opened=opened)
    assert reading.reply(think + '{"n": 5}').content == '{"n": 5}'
    [one] = reading.reply(think + call).calls
    assert one.name == "switch"
