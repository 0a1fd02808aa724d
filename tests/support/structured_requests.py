"""Requests for structured answers and tools, and such that are almost right.

A generator that knows the API's description alone seldom makes a schema that can be kept, and never
a grammar; what is here is changed in one or two places at a time, wherever these are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

PET: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4, "pattern": "^[a-z]*$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 30},
        "owner": {"anyOf": [{"$ref": "#/$defs/owner"}, {"type": "null"}]},
        "born": {"type": "string", "format": "date"},
        "kinds": {"type": "array", "items": {"enum": ["cat", "dog", None, 1.5]}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
    "$defs": {"owner": {"type": "object", "properties": {"id": {"const": 7}}}},
}
LARK = 'start: greeting " " NAME\ngreeting: "hello" | "bye"\nNAME: /[a-z]{1,5}/\n'
_FUNCTION = {"name": "find", "description": "Finds pets.", "parameters": PET, "strict": True}
_OTHER = {"name": "stop", "parameters": {"type": "object", "properties": {}}}
_TOOLS = [{"type": "function", "function": one} for one in (_FUNCTION, _OTHER)]
_NAMED = {"type": "function", "function": {"name": "find"}}
_SOME = {"mode": "required", "tools": [_NAMED]}
_CALL = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
_TURNS = [
    {"role": "user", "content": [{"type": "text", "text": "Any cats?"}]},
    {"role": "assistant", "content": None, "tool_calls": [_CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "none"},
]
_GUIDED: list[dict[str, Any]] = [
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "pet", "schema": PET}}},
    {"guided_json": PET},
    {"guided_regex": "[a-c]{2,4}(x|y)?"},
    {"guided_choice": ["yes", "no"]},
    {"guided_grammar": LARK},
    {"structured_outputs": {"grammar": 'root ::= "a" | "b" root'}},
    {"structured_outputs": {"json": PET}, "method": "specinfer"},
]
_CALLED: list[dict[str, Any]] = [
    {"tools": _TOOLS},
    {"tools": _TOOLS, "tool_choice": "required", "parallel_tool_calls": False},
    {"tools": _TOOLS, "tool_choice": _NAMED, "messages": _TURNS},
    {"tools": _TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": _SOME}},
    {"tools": _TOOLS[1:], "guided_json": PET},
]
_FLAT = [{"type": "function"} | one for one in (_FUNCTION, _OTHER)]
_SCHEMA = {"type": "json_schema", "name": "pet", "schema": PET, "strict": True}
_ITEMS = [
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Any?"}]},
    {"type": "reasoning", "id": "rs_1", "summary": []},
    {"type": "function_call", "call_id": "c1", "name": "find", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "none"},
]
_ASKED: list[dict[str, Any]] = [
    {"text": {"format": {"type": "json_object"}}},
    {"text": {"format": _SCHEMA}, "top_logprobs": 1},
    {"tools": _FLAT, "tool_choice": "required"},
    {"tools": _FLAT, "tool_choice": {"type": "function", "name": "find"}, "input": _ITEMS},
]
_CHAT = {"model": "demo", "messages": [{"role": "user", "content": "A cat?"}], "max_tokens": 4}
_PROMPT = {"model": "demo", "prompt": "def area(r):", "max_tokens": 4}
_INPUT = {"model": "demo", "input": "A cat?", "max_output_tokens": 4, "store": False}
REQUESTS: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [_CHAT | more for more in (*_GUIDED, *_CALLED)],
    "/v1/completions": [_PROMPT | more for more in _GUIDED],
    "/v1/responses": [_INPUT | more for more in _ASKED],
}
"""Requests that are answered, by their route."""

_WORDS = """
    type properties items enum const anyOf allOf oneOf not $ref $defs #/$defs/owner #/properties #
    pattern format date-time minLength maxItems minimum multipleOf required additionalProperties
    prefixItems minProperties string integer null object array function find stop auto none required
    json_schema json_object text user tool assistant [a-z]+ (a|b)*c ^$ (?=x) ( \\ud800 {} []
""".split()
_NUMBERS = st.sampled_from([0, 1, -1, 2, 3.5, 1e300, 2**53, 10**20, -0.0])
_LEAVES = st.one_of(
    st.sampled_from(_WORDS), _NUMBERS, st.none(), st.booleans(), st.text("aé\n", max_size=3)
)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(_WORDS), inner, max_size=2)
    ),
    max_leaves=4,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all parts of a value but the whole."""
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from _places(one, (*path, key))


def _changed(body: dict[str, Any], draw: Any) -> None:
    """Replace, leave out, rename or double a part of a body, in place."""
    inner = [place for place in _places(body) if len(place) > 1] or [*_places(body)]
    deep = [place for place in inner if "properties" in place] or inner
    *above, key = draw(st.sampled_from(deep) | st.sampled_from(inner))
    holder: Any = body
    for step in above:
        holder = holder[step]
    change = draw(st.sampled_from(["replace", "drop", "rename", "add"]))
    if change == "replace":
        holder[key] = draw(_VALUES)
    elif change == "drop":
        del holder[key]
    elif isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    else:
        given = holder.pop(key) if change == "rename" else draw(_VALUES)
        holder[draw(st.sampled_from(_WORDS))] = given


@st.composite
def almost_right(draw: Any, route: str) -> dict[str, Any]:
    """A request of a route that is changed in one or two places."""
    body: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(REQUESTS[route])))
    for _ in range(draw(st.integers(1, 2))):
        _changed(body, draw)
    return body
