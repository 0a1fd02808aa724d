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

SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"$ref": "#/$defs/a"},
        "zone": {"type": "string"},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "on": {"type": "boolean"},
        "list": {"type": "array", "items": {"type": "integer"}},
        "word": {"type": "string", "pattern": "^[a-z]+$"},
        "kind": {"enum": ["1", "2"]},
        "ratio": {"type": ["number", "null"]},
    },
    "$defs": {"a": {"type": "integer"}},
}
SCHEMAS: dict[str, Any] = {"f": SCHEMA, "get_time": {"type": "object", **SCHEMA}}
NAMES = frozenset(SCHEMAS)
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


def of(family: FamilyName | Family, **more: Any) -> Reading:
    chosen = FAMILIES[family] if isinstance(family, str) else family
    return Reading(chosen, SCHEMAS, **more)


NAMED = family_of("[TOOL_CALLS] [ARGS]")


ONE, TWO = ("f", '{"a": 1}'), ("get_time", '{"zone": "}\\" ]"}')
F, TIME = '{"name": "f", "arguments": {"a": 1}}', f'{{"name": "get_time", "arguments": {TWO[1]}}}'
P = '{"name": "f", "parameters": {"a": 1}}'

X1 = "<function=f>\n<parameter=a>\n1\n</parameter>\n</function>"
ZONE = json.loads(TWO[1])["zone"]
X2 = f"<function=get_time>\n<parameter=zone>\n{ZONE}\n</parameter>\n</function>"
LISTED = '{"list": [1, 2], "maybe": null, "on": true, "word": "x", "kind": "1", "ratio": 1.5}'
XS = "".join(
    f"<parameter={key}>{value}</parameter>"
    for key, value in [
        *(("list", "[1, 2]"), ("maybe", "null"), ("on", "True"), ("word", '"x"')),
        *(("kind", "\n1"), ("ratio", "1.5")),
    ]
)

TEXTS: list[tuple[FamilyName | Family, str, Said]] = [
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
    ("mistral", f'[TOOL_CALLS][{F[:-1]}, "id": "abcdefghi"}}]', ("", None, [ONE])),
    (NAMED, 'Yes[TOOL_CALLS]f[ARGS]{"a": 1}', ("Yes", None, [ONE])),
    (
        NAMED,
        f'[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{{"a": 1}}[TOOL_CALLS]get_time[ARGS] {TWO[1]}',
        ("", None, [ONE, TWO]),
    ),
    (NAMED, 'a [TOOL_CALLS]g[ARGS]{"a": 1}', ('a [TOOL_CALLS]g[ARGS]{"a": 1}', None, [])),
    (NAMED, "[TOOL_CALLS]f[ARGS]", ("[TOOL_CALLS]f[ARGS]", None, [])),
    (NAMED, f"[TOOL_CALLS][{F}, {TIME}]", ("", None, [ONE, TWO])),
    (NAMED, f"[TOOL_CALLS]{'f' * 500}{{}}", (f"[TOOL_CALLS]{'f' * 500}{{}}", None, [])),
    ("qwen3_coder", f"So:\n<tool_call>\n{X1}\n</tool_call>", ("So:", None, [ONE])),
    (
        "qwen3_coder",
        f"<tool_call>{X1}</tool_call>\n<tool_call>\n{X2}\n</tool_call>\n",
        ("", None, [ONE, TWO]),
    ),
    ("qwen3_coder", "<tool_call><function=f></function></tool_call>", ("", None, [("f", "{}")])),
    ("qwen3_coder", "<tool_call><function=f></tool_call>.", (".", None, [("f", "{}")])),
    ("qwen3_coder", f"<tool_call><function=f>{XS}</function>", ("", None, [("f", LISTED)])),
    (
        "qwen3_coder",
        "<tool_call><function=f><parameter=zone>\n a\n<b>\n\n</parameter>!</function>",
        ("", None, [("f", '{"zone": " a\\n<b>\\n"}')]),
    ),
    (
        "qwen3_coder",
        "<tool_call><function=f><parameter=a>one</parameter><parameter=new>[1]</parameter></function>",
        ("", None, [("f", '{"a": "one", "new": [1]}')]),
    ),
    ("qwen3_coder", f"<tool_call>{F}</tool_call>", ("", None, [ONE])),
    (
        "qwen3_coder",
        "<tool_call><function=g></function></tool_call>",
        ("<tool_call><function=g></function></tool_call>", None, []),
    ),
    ("qwen3_coder", "<tool_call><fun", ("<tool_call><fun", None, [])),
    ("qwen3_coder", f"So:\n{X1}\n</tool_call>\n", ("So:", None, [ONE])),
    ("qwen3_coder", f"{X1}\n{X2}", ("", None, [ONE, TWO])),
    (
        "qwen3_coder",
        f"{X1}\n</tool_call>\n<tool_call>\n{X2}\n</tool_call>{X1}.",
        (".", None, [ONE, TWO, ONE]),
    ),
    ("qwen3_coder", f"<function=g>{X1}", ("<function=g>", None, [ONE])),
    ("qwen3_coder", "a <func", ("a <func", None, [])),
    ("qwen3_coder", "a <function=", ("a <function=", None, [])),
    ("qwen3_coder", "<function=f", ("<function=f", None, [])),
    ("hermes", X1, (X1, None, [])),
    ("json", F, ("", None, [ONE])),
    ("json", f" [{F},\n{TIME}]", ("", None, [ONE, TWO])),
    ("json", "[1, 2]", ("[1, 2]", None, [])),
    ("json", "", ("", None, [])),
    ("json", "  ", ("  ", None, [])),
]


@pytest.mark.parametrize(("family", "text", "said"), TEXTS, ids=lambda v: repr(v)[:40])
def test_texts_of_each_family(family: FamilyName | Family, text: str, said: Said) -> None:
    reading = of(family)
    assert said_of(reading.reply(text)) == said
    assert read(reading, list(text)) == said
    for place in range(len(text) + 1):
        assert read(reading, [text[:place], text[place:]]) == said


NO_CALLS = [
    '{"name": "other", "arguments": {}}',
    '{"name": "other", "arguments',
    '{"name": "f", "arguments": [1]}',
    '{"name": "f", "arguments": "x"}',
    '{"arguments": {"a": NaN}, "name": "f"}',
    '{"name": ["f"], "arguments": {}}',
    '{"name": "f" "arguments": {}}',
    '{"arguments": {}}',
    '{"city": {}}',
    '{"a":' * 3000,
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


BROKEN: list[tuple[FamilyName | Family, str, str, Said]] = [
    ("hermes", '{"a": NaN}}</tool_call>', "!", ("!", None, [("f", '{"a": NaN}}')])),
    ("hermes", '{"a": 01}}</tool_call>', "!", ("!", None, [("f", '{"a": 01}')])),
    (
        "hermes",
        '{"a": "</tool_call>", ]</tool',
        "",
        ("", None, [("f", '{"a": "</tool_call>", ]</tool')]),
    ),
    ("hermes", '{"a": 1}\n</tool_call>', "!", ("!", None, [ONE])),
    ("hermes", '{"a": 1}, "b": 2 ?', "!", ("?!", None, [ONE])),
    ("hermes", '{"a": "x', "", ("", None, [("f", '{"a": "x')])),
    ("hermes", '{"a":' * 3000, "", ("", None, [("f", '{"a":' * 3000)])),
    ("json", '{"a": oh} so', "", ("", None, [("f", '{"a": oh} so')])),
]


@pytest.mark.parametrize(
    ("family", "arguments", "after", "said"), BROKEN, ids=lambda v: repr(v)[:40]
)
def test_a_call_whose_name_was_sent_stays_one(
    family: FamilyName, arguments: str, after: str, said: Said
) -> None:
    text = f'{FAMILIES[family].begin}{{"name": "f", "arguments": {arguments}{after}'
    assert read(of(family), [text]) == read(of(family), list(text)) == said


@pytest.mark.parametrize("text", ["<tool_call>", '<tool_call>\n{"name": "f", "argu'])
def test_a_held_call_that_is_cut_off_before_its_name_is_no_content(text: str) -> None:
    for before, calls in (("", []), (f"<tool_call>\n{F}\n</tool_call>\n", [ONE])):
        for pieces in ([before + text], list(before + text)):
            assert read(of("hermes", held=True), pieces) == ("", None, calls)


@pytest.mark.parametrize("family", ["hermes", "qwen3_coder"])
@pytest.mark.parametrize(
    "end", ["<tool_c", "</tool_call>\n<tool", "</tool_call>\n<tool_call>\n<fun"]
)
def test_where_only_calls_can_follow_a_mark_that_is_cut_off_is_no_content(
    family: FamilyName, end: str
) -> None:
    call = {"hermes": F, "qwen3_coder": X1}[family]
    text = end if end.startswith("<t") else f"<tool_call>\n{call}\n{end}"
    calls = [] if end.startswith("<t") else [ONE]
    for pieces in ([text], list(text)):
        assert read(of(family, held=True, required=True), pieces) == ("", None, calls)
        if calls:
            assert read(of(family, held=True, alone=True), pieces) == ("", None, calls)


CUT = [("<parameter=zone>ab</para", '{"zone": "ab'), ("<parameter=a>1", '{"a": '), ("<param", "")]


@pytest.mark.parametrize(("text", "arguments"), CUT)
def test_a_call_in_tags_that_was_cut_off_has_what_came_of_it(text: str, arguments: str) -> None:
    text = f"<tool_call><function=f>{text}"
    for pieces in ([text], list(text)):
        assert read(of("qwen3_coder"), pieces) == ("", None, [("f", arguments)])


STREAMED: list[tuple[FamilyName | Family, str]] = [
    ("hermes", f"<tool_call>\n{TIME}\n</tool_call>"),
    ("llama3", TIME),
    ("mistral", f"[TOOL_CALLS][{TIME}]"),
    (NAMED, f"[TOOL_CALLS]get_time[ARGS]{TWO[1]}"),
    ("qwen3_coder", f"<tool_call>\n{X2}\n</tool_call>"),
    ("json", TIME),
]


@pytest.mark.parametrize(("family", "text"), STREAMED, ids=lambda v: repr(v)[:20])
def test_a_call_is_told_as_it_comes(family: FamilyName | Family, text: str) -> None:
    reader = of(family).reader()
    calls = [piece.call for char in text for piece in reader.push(char) if piece.call]
    names, parts = [c.name for c in calls if c.name], [c.arguments for c in calls if not c.name]
    assert (names, calls[0].name) == (["get_time"], "get_time")
    assert json.loads("".join(parts)) == json.loads(TWO[1])
    assert len(parts) > 5


def test_an_answer_beside_calls_has_none() -> None:
    answer = f'{{"a": "<tool_call>{F}</tool_call>"}}'.replace('"name"', "'name'")
    for family, text in (
        ("hermes", answer),
        ("llama3", '{"a": "<|python_tag|>"}'),
        ("json", "[1]"),
    ):
        for pieces in ([text], list(text)):
            assert read(of(family, alone=True), pieces) == (text, None, [])  # type: ignore[arg-type]
    call = f"<tool_call>\n{F}\n</tool_call>"
    assert read(of("hermes", alone=True), list(call)) == ("", None, [ONE])
    assert read(of("hermes", alone=True), ["<tool_"]) == ("<tool_", None, [])


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
    *("f[ARGS]", "[CALL_ID]", "<function=f>", "</function>", "<parameter=", "zone>", "a>"),
    *(
        "</parameter>",
        X1,
        X2,
        F[:-2],
        F,
        P,
        TIME,
        "{",
        "}",
        "[",
        "]",
        ",",
        ";",
        '"',
        "\\",
        " ",
        "\n",
        "a",
        "ä",
        "name",
        "1",
    ),
]


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_text_is_read_alike_however_it_is_cut(data: st.DataObject) -> None:
    text = "".join(data.draw(st.lists(st.sampled_from(MARKS), max_size=14)))
    reading = of(
        data.draw(st.sampled_from([*FAMILIES, NAMED])),
        single=data.draw(st.booleans()),
        alone=data.draw(st.booleans()),
        held=data.draw(st.booleans()),
        required=data.draw(st.booleans()),
        thinks=data.draw(st.booleans()),
        opened=data.draw(st.booleans()),
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    borders = [0, *cuts, len(text)]
    pieces = [text[a:b] for a, b in pairwise(borders)]
    whole = said_of(reading.reply(text))
    assert read(reading, pieces) == read(reading, list(text)) == whole
    assert all(name in NAMES for name, _ in whole[2])


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(), VALUES), st.sampled_from([None, 1]), st.booleans(), st.text())
def test_the_end_of_an_object(value: Any, indent: int | None, ascii_only: bool, rest: str) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only, allow_nan=False)
    assert ObjectScan().push(text + rest) == len(text)
    scan = ObjectScan()
    ends = [scan.push(char) for char in text]
    assert ends == [None] * (len(text) - 1) + [1]


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(st.text(), VALUES), min_size=1, max_size=3), st.data())
def test_what_a_family_writes_is_read(given_arguments: list[Any], data: st.DataObject) -> None:
    forms = [one for one in (*FAMILIES.values(), NAMED) if one.form != "xml"]
    family: Family = data.draw(st.sampled_from(forms))
    text = family.written([("f", value) for value in given_arguments])
    found = read(of(family), list(text))
    assert found[:2] == ("", None)
    assert [json.loads(arguments) for _, arguments in found[2]] == given_arguments


TAGGED = st.fixed_dictionaries(
    {},
    optional={
        "a": st.integers(),
        "zone": st.text().filter(lambda text: "</parameter>" not in text),
        "on": st.booleans(),
        "list": st.lists(st.integers()),
        "ratio": st.floats(allow_nan=False, allow_infinity=False) | st.none(),
    },
)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.lists(TAGGED, min_size=1, max_size=3))
def test_what_is_written_in_tags_is_read_by_the_schema(given_arguments: list[Any]) -> None:
    family = FAMILIES["qwen3_coder"]
    text = family.written([("f", value) for value in given_arguments])
    found = read(of(family), list(text))
    assert found == read(of(family), [text])
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
    ("{{ tools }} <tool_call>\n<function=name>", "qwen3_coder"),
]


@pytest.mark.parametrize(("template", "name"), TEMPLATES)
def test_the_family_is_what_the_template_says(template: str, name: FamilyName) -> None:
    assert family_of(template).name == name


def test_the_templates_marks_say_which_of_mistrals_forms_it_is() -> None:
    assert family_of("[TOOL_CALLS]").form == family_of("", "mistral").form == "json"
    assert family_of("[TOOL_CALLS] [ARGS]").form == family_of("[ARGS]", "mistral").form == "named"
