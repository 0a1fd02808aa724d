"""The grammar of a call in tags, in llguidance's notation of Lark."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mtad.errors import GrammarError
from mtad.grammar.json_schema import UNKEPT, as_read, is_void
from mtad.server.api.tool_parsers.references import moved, resolved
from mtad.server.api.tool_parsers.xml_values import is_text, property_of

_OF_ALL = UNKEPT | {
    *("anyOf", "oneOf", "allOf", "const", "enum", "minProperties", "maxProperties"),
    *("patternProperties", "$ref", "x-guidance"),
}
"""What a schema says of all arguments together."""
_ELSEWHERE = re.compile(r'"\$ref": "#(?!/\$defs/|/definitions/)')
"""A reference to another place than the definitions."""
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
    schema = resolved(schema, schema)
    properties, required = schema.get("properties") or {}, schema.get("required") or []
    refused = [key for key in schema if key in _OF_ALL and not is_void(key, schema[key])]
    if not (properties or required or refused) and schema.get("additionalProperties", True) is True:
        yield f'{begin} ("<parameter=" /[^<>\\n]+/ ">\\n" {rule}_any)* {end}'
        yield f"{rule}_any[lazy]: {_text({}, rule)}"
        return
    if refused:
        raise GrammarError(
            f"this model writes calls argument by argument, so that {refused[0]} in the "
            f"parameters of {name} cannot be honoured: leave it out"
        )
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
        read = as_read(_alone(schema, root), r"\x20?")
        yield f'{rule}: {tag} {rule}_json "{_END}"'
        yield f"{rule}_json: %json {json.dumps(read)}"
    elif choices is not None:
        yield f'{rule}: {tag} ({" | ".join(map(json.dumps, choices))}) "{_END}"'
    else:
        yield f"{rule}: {tag} {rule}_text"
        yield f"{rule}_text[lazy]: {_text(schema, rule)}"


def _alone(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of an argument as a document, with that of all arguments for its references."""
    defs = {key: root[key] for key in ("$defs", "definitions") if key in root}
    if not _ELSEWHERE.search(json.dumps([schema, defs])):
        return defs | dict(schema)
    return {**moved(schema, "#/$defs/all"), "$defs": {"all": moved(root, "#/$defs/all")}}


def _text(schema: Mapping[str, Any], rule: str) -> str:
    """A text up to its tag."""
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    size = f"{{{least},{most}}}"
    return rf'(/(.|\n){size}/ & ~/(.|\n)*<\/parameter>(.|\n)*/) "{_END}"'
