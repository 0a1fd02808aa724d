"""The grammar of a call in tags, in llguidance's notation of Lark."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mtad.errors import GrammarError
from mtad.grammar.json_schema import as_read
from mtad.server.api.tool_parsers.xml_values import is_text, property_of

_KNOWN = {
    *("type", "properties", "required", "additionalProperties", "$defs", "definitions"),
    *("title", "description", "$schema", "$id", "$comment", "default", "examples", "deprecated"),
}
"""What a schema of arguments may say; others would be of all arguments together."""
_LINE = '"\\n"'
_END = "\\n</parameter>\\n"


def tagged_call(rule: str, name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    """The rules of a call.

    Args:
        rule: its name.
        name: of the tool.
        schema: of the arguments; an empty one allows any.

    Raises:
        GrammarError: the schema says what tags cannot be held to.
    """
    yield f"{rule}: {json.dumps(f'<function={name}>')} {rule}_rest"
    begin, end = f"{rule}_rest: {_LINE}", '"</function>"'
    if not schema:
        yield f'{begin} ("<parameter=" /[^<>\\n]+/ ">\\n" {rule}_any)* {end}'
        yield f"{rule}_any[lazy]: {_text({}, rule)}"
        return
    if unknown := sorted(schema.keys() - _KNOWN):
        raise GrammarError(
            f"this model writes calls argument by argument, so that {unknown[0]} in the "
            f"parameters of {name} cannot be honoured: leave it out"
        )
    properties, required = schema.get("properties") or {}, schema.get("required") or []
    names = [*properties, *(key for key in required if key not in properties)]
    parts = [f"{rule}_{i}{'' if key in required else '?'}" for i, key in enumerate(names)]
    yield f"{begin} {' '.join(parts)} {end}"
    for key, part in zip(names, (f"{rule}_{i}" for i in range(len(names))), strict=True):
        tag = json.dumps(f"<parameter={key}>\n")
        yield from _argument(part, tag, property_of(schema, key), schema)


def _argument(
    rule: str, tag: str, schema: Mapping[str, Any], root: Mapping[str, Any]
) -> Iterator[str]:
    """The rules of one argument."""
    choices = [schema["const"]] if "const" in schema else schema.get("enum")
    if not is_text(schema):
        defs = {key: root[key] for key in ("$defs", "definitions") if key in root}
        read = as_read(defs | dict(schema), r"\x20?")
        yield f'{rule}: {tag} {rule}_json "{_END}"'
        yield f"{rule}_json: %json {json.dumps(read)}"
    elif choices is not None:
        yield f'{rule}: {tag} ({" | ".join(map(json.dumps, choices))}) "{_END}"'
    else:
        yield f"{rule}: {tag} {rule}_text"
        yield f"{rule}_text[lazy]: {_text(schema, rule)}"


def _text(schema: Mapping[str, Any], rule: str) -> str:
    """A text up to its tag."""
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    size = f"{{{least},{most}}}"
    return rf'(/(.|\n){size}/ & ~/(.|\n)*<\/parameter>(.|\n)*/) "{_END}"'
