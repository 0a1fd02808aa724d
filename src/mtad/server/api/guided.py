"""The form that an answer must have: OpenAI's `response_format`, and vLLM's names for the same.

Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from mtad.errors import OptionError
from mtad.grammar.grammar import Grammar
from mtad.server.api.parts import Part
from mtad.server.http.errors import ApiError

MAX_CHOICES = 1024
MAX_SOURCE = 2**15
"""Characters of a regular expression or a grammar."""

JsonSchema: TypeAlias = dict[str, Any] | bool
Source: TypeAlias = Annotated[str, Field(min_length=1, max_length=MAX_SOURCE)]
Choices: TypeAlias = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True),
]


class TextFormat(Part):
    """Any text."""

    type: Literal["text"]


class ObjectFormat(Part):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(Part):
    """A JSON schema with its name."""

    name: Annotated[str, Field(max_length=512)]
    description: str | None = None
    schema_: JsonSchema | None = Field(None, alias="schema")
    strict: bool | None = Field(None, description="It is always kept.")


class SchemaFormat(Part):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat: TypeAlias = Annotated[
    TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")
]


class StructuredOutputs(Part):
    """vLLM's object; one of its fields is to be given."""

    json_: JsonSchema | Source | None = Field(None, alias="json")
    regex: Source | None = None
    choice: Choices | None = None
    grammar: Source | None = None
    json_object: bool | None = None


class Guided(Part):
    """Which form the answer must have; one field at most is to be given."""

    response_format: ResponseFormat | None = Field(
        None, description="`json_object`, or `json_schema` with a schema, which is always kept."
    )
    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonSchema | Source | None = Field(
        None, description="A JSON schema, as an object or as its text."
    )
    guided_regex: Source | None = Field(
        None, description="The whole text matches it; without look-around."
    )
    guided_choice: Choices | None = Field(None, description="The text is one of these.")
    guided_grammar: Source | None = Field(None, description="A grammar of Lark or GBNF.")


def grammar_in(body: Guided) -> tuple[str, Grammar] | None:
    """The parameter that holds the answer's form, and the form; None for any text.

    Raises:
        ApiError: two of them are given, or one that is no form.
    """
    given = list(_given(body))
    if len(given) > 1:
        (param, _), (other, _) = given[:2]
        raise ApiError(
            400, f"{param} and {other} both say what form the answer has; give one", other
        )
    if not given:
        return None
    param, make = given[0]
    try:
        return param, make()
    except OptionError as error:
        raise ApiError(400, f"{param}: {error}", param) from error


def _given(body: Guided) -> Iterator[tuple[str, Any]]:
    """Parameters that are given, and what makes grammars of them."""
    format_, json, choice = body.response_format, body.guided_json, body.guided_choice
    if isinstance(format_, ObjectFormat):
        yield "response_format", Grammar.json
    elif isinstance(format_, SchemaFormat):
        yield "response_format", lambda: Grammar.json(format_.json_schema.schema_)
    yield from _named("guided_", json, body.guided_regex, choice, body.guided_grammar)
    if found := body.structured_outputs:
        names = "structured_outputs."
        yield from _named(names, found.json_, found.regex, found.choice, found.grammar)
        if found.json_object:
            yield f"{names}json_object", Grammar.json


def _named(
    prefix: str,
    json: JsonSchema | str | None,
    regex: str | None,
    choice: list[str] | None,
    grammar: str | None,
) -> Iterator[tuple[str, Any]]:
    if json is not None:
        yield f"{prefix}json", lambda: Grammar.json(json)
    if regex is not None:
        yield f"{prefix}regex", lambda: Grammar.regex(regex)
    if choice is not None:
        yield f"{prefix}choice", lambda: Grammar.choice(choice)
    if grammar is not None:
        yield f"{prefix}grammar", lambda: Grammar.lark(grammar)
