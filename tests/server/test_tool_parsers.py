"""Calls and thinking in texts: what is read does not depend on how the text was cut."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtad.server.api.tool_parsers.families import FAMILIES, Family, FamilyName, family_of
from mtad.server.api.tool_parsers.pieces import Reply
from mtad.server.api.tool_parsers.reading import Reading
from mtad.server.api.tool_parsers.scan import ObjectScan

NAMES = frozenset({"f", "get_time"})
Said = tuple[str, str | None, list[tuple[str, str]]]


def said_of(reply: Reply) -> Said:
    assert [call.index for call in reply.calls] == list(range(len(reply.calls)))
    assert len({call.id for call in reply.calls}) == len(reply.calls)
    return reply.content, reply.reasoning, [(c.name, c.arguments) for c in reply.calls]


def read(reading: Reading, pieces: list[str]) -> Said:
    reader = reading.reader()
    found = [piece for text in pieces for piece in reader.push(text)]
    reply = Reply.of([*found, *reader.finish()])
    assert reader.has_calls == bool(reply.calls)
    return said_of(reply)


def of(family: FamilyName, **more: Any) -> Reading:
    return Reading(FAMILIES[family], NAMES, **more)


ONE, TWO = ("f", '{"a": 1}'), ("get_time", '{"zone": "}\\" ]"}')
F, TIME = '{"name": "f", "arguments": {"a": 1}}', f'{{"name": "get_time", "arguments": {TWO[1]}}}'
P = '{"name": "f", "parameters": {"a": 1}}'

TEXTS: list[tuple[FamilyName, str, Said]] = [
    ("hermes", "a plain text\n", ("a plain text\n", None, [])),
    ("hermes", f"<tool_call>\n{F}\n</tool_call>", ("", None, [ONE])),
    ("hermes", f"Well.\n<tool_call>{F}</tool_call>\n", ("Well.", None, [ONE])),
    (
        "hermes",
        f"<tool_call>\n{F}\n</tool_call>\n<tool_call>\n{TIME}\n</tool_call>",
        ("", None, [ONE, TWO]),
    ),
    ("hermes", f"<tool_call>{F}</tool_call> done", (" done", None, [ONE])),
    ("hermes", f"<tool_call>{F}", ("", None, [ONE])),
    ("hermes", f"<tool_call>{F}</tool", ("", None, [ONE])),
    ("hermes", f"<tool_call><tool_call>{F}</tool_call>", ("<tool_call>", None, [ONE])),
    ("hermes", '<tool_call>{"name": "f"}</tool_call>', ("", None, [("f", "{}")])),
    ("hermes", "if a <tool_call> b", ("if a <tool_call> b", None, [])),
    ("hermes", "<tool_call>\n{F", ("<tool_call>\n{F", None, [])),
    ("hermes", F, (F, None, [])),
    ("hermes", "a <tool_c", ("a <tool_c", None, [])),
    ("llama3", P, ("", None, [ONE])),
    ("llama3", f"{P}; {TIME}", ("", None, [ONE, TWO])),
    ("llama3", f"\n<|python_tag|>{P}", ("", None, [ONE])),
    ("llama3", '{"a": 1} is JSON', ('{"a": 1} is JSON', None, [])),
    ("llama3", "<|python_tag|>print(1)", ("<|python_tag|>print(1)", None, [])),
    ("llama3", f"no: {P}", (f"no: {P}", None, [])),
    ("mistral", f"[TOOL_CALLS] [{F}, {TIME}]", ("", None, [ONE, TWO])),
    ("mistral", f"Yes [TOOL_CALLS][{F}]", ("Yes", None, [ONE])),
    ("mistral", f"[TOOL_CALLS]{F}", ("", None, [ONE])),
    ("mistral", "[TOOL_CALLS][1]", ("[TOOL_CALLS][1]", None, [])),
    ("mistral", "[TOOL_", ("[TOOL_", None, [])),
    ("json", F, ("", None, [ONE])),
    ("json", f" [{F},\n{TIME}]", ("", None, [ONE, TWO])),
    ("json", "[1, 2]", ("[1, 2]", None, [])),
    ("json", "", ("", None, [])),
    ("json", "  ", ("  ", None, [])),
]


@pytest.mark.parametrize(("family", "text", "said"), TEXTS, ids=lambda v: repr(v)[:40])
def test_texts_of_each_family(family: FamilyName, text: str, said: Said) -> None:
    for reading in (of(family), of(family, held=True)):
        assert read(reading, [text]) == said
        assert read(reading, list(text)) == said
        assert said_of(reading.reply(text)) == said


NO_CALLS = [
    '{"name": "other", "arguments": {}}',
    '{"name": "f", "arguments": [1]}',
    '{"name": "f", "arguments": "x"}',
    '{"name": "f", "arguments": {"a": NaN}}',
    '{"name": ["f"], "arguments": {}}',
    '{"name": "f", "arguments": {"a": 01}}',
    '{"name": "f" "arguments": {}}',
    '{"name": "f", "arguments": {]}',
    '{"arguments": {}}',
    '{"a":' * 3000,
    '{"name": "f", "arguments": ' + '{"a":' * 50_000 + "1" + "}" * 50_001,
]


@pytest.mark.parametrize("call", NO_CALLS, ids=lambda v: v[:40])
def test_what_is_no_call_stays_content(call: str) -> None:
    text = f"<tool_call>{call}</tool_call>!"
    for pieces in ([text], list(text)):
        assert read(of("hermes"), pieces) == (text, None, [])


def test_arguments_within_a_string_are_arguments() -> None:
    call = json.dumps({"name": "f", "arguments": '{"a": "ä"}'})
    assert read(of("json"), [call]) == ("", None, [("f", '{"a": "ä"}')])


def test_one_call_at_most() -> None:
    text = f"<tool_call>{F}</tool_call><tool_call>{TIME}</tool_call> and more"
    for pieces in ([text], list(text)):
        assert read(of("hermes", single=True), pieces) == ("", None, [ONE])


def test_what_a_grammar_holds_is_told_as_it_comes() -> None:
    text = f"<tool_call>\n{TIME}\n</tool_call>"
    for held in (True, False):
        reader = of("hermes", held=held).reader()
        calls = [piece.call for char in text for piece in reader.push(char) if piece.call]
        names, parts = [c.name for c in calls if c.name], [c.arguments for c in calls if not c.name]
        assert names == ["get_time"]
        assert "".join(parts) == TWO[1]
        assert (len(parts) > 5) == held
    cut = read(of("hermes", held=True), [text[:50]])
    assert cut[2][0][0] == "get_time"
    assert TWO[1].startswith(cut[2][0][1])


THINKING: list[tuple[bool, str, tuple[str, str | None]]] = [
    (False, "<think>\nso\nit is\n</think>\n\nyes", ("yes", "so\nit is")),
    (False, " yes", (" yes", None)),
    (False, "<thin", ("<thin", None)),
    (False, "a <think>b</think>", ("a <think>b</think>", None)),
    (False, "<think></think>\n\nyes", ("yes", None)),
    (True, "so </thin </think> yes", ("yes", "so </thin")),
    (True, "so on \n", ("", "so on")),
    (True, "so on </th", ("", "so on </th")),
    (True, "\n</think>yes </think>", ("yes </think>", None)),
]


@pytest.mark.parametrize(("opened", "text", "said"), THINKING, ids=lambda v: repr(v)[:40])
def test_thinking(opened: bool, text: str, said: tuple[str, str | None]) -> None:
    reading = Reading(thinks=True, opened=opened)
    for pieces in ([text], list(text)):
        assert read(reading, pieces)[:2] == said


MARKS = [
    *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<think>", "</think>"),
    *(F, P, TIME, "{", "}", "[", "]", ",", ";", '"', "\\", " ", "\n", "a", "ä", "name", "1"),
]


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_text_is_read_alike_however_it_is_cut(data: st.DataObject) -> None:
    text = "".join(data.draw(st.lists(st.sampled_from(MARKS), max_size=14)))
    reading = of(
        data.draw(st.sampled_from(list(FAMILIES))),
        single=data.draw(st.booleans()),
        thinks=data.draw(st.booleans()),
        opened=data.draw(st.booleans()),
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    borders = [0, *cuts, len(text)]
    pieces = [text[a:b] for a, b in pairwise(borders)]
    whole = said_of(reading.reply(text))
    assert read(reading, pieces) == read(reading, list(text)) == whole
    for name, arguments in whole[2]:
        assert name in NAMES
        assert isinstance(json.loads(arguments), dict)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(), VALUES), st.sampled_from([None, 1]), st.booleans(), st.text())
def test_the_end_of_an_object(value: Any, indent: int | None, ascii_only: bool, rest: str) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only, allow_nan=False)
    assert ObjectScan().push(text + rest) == len(text)
    scan = ObjectScan()
    ends = [scan.push(char) for char in text]
    assert ends == [None] * (len(text) - 1) + [1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(st.text(), VALUES), min_size=1, max_size=3), st.data())
def test_what_a_family_writes_is_read(given_arguments: list[Any], data: st.DataObject) -> None:
    family: Family = data.draw(st.sampled_from(list(FAMILIES.values())))
    calls = [json.dumps({"name": "f", family.arguments: value}) for value in given_arguments]
    found = read(of(family.name), list(family.written(calls)))
    assert found[:2] == ("", None)
    assert [json.loads(arguments) for _, arguments in found[2]] == given_arguments


TEMPLATES: list[tuple[str, FamilyName]] = [
    ("{{ tools | tojson }} write <tool_call> with the call in it", "hermes"),
    ("{{ messages }}", "hermes"),
    ("", "hermes"),
    ("{% if tools %}<|python_tag|>{% endif %}", "llama3"),
    ('{{ tools }} answer with {"name": function, "parameters": {}}', "llama3"),
    ("[AVAILABLE_TOOLS]{{ tools }}[TOOL_CALLS]", "mistral"),
    ("{{ tools }} answer in JSON", "json"),
]


@pytest.mark.parametrize(("template", "name"), TEMPLATES)
def test_the_family_is_what_the_template_says(template: str, name: FamilyName) -> None:
    assert family_of(template).name == name
