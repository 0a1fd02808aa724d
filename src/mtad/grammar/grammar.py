"""What form a text must have: a value, made of what users write.

Knows no tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from mtad.errors import OptionError

Kind: TypeAlias = Literal["json_schema", "regex", "choice", "grammar"]
KINDS: tuple[Kind, ...] = ("json_schema", "regex", "choice", "grammar")


@runtime_checkable
class HasJsonSchema(Protocol):
    """A pydantic model, or any class that describes itself in the same way."""

    def model_json_schema(self) -> dict[str, Any]:
        """The JSON schema of what the class can be made of."""
        ...


@dataclass(frozen=True)
class Grammar:
    """The form that a text must have.

    Attributes:
        kind: how it is written.
        source: a JSON schema, a regular expression, a JSON array of strings, or a grammar in
            the notation of Lark or of GBNF.
    """

    kind: Kind
    source: str

    @property
    def num_chars(self) -> int:
        """Of its text, and of what it refers to."""
        return len(self.source)

    @classmethod
    def json(cls, schema: Mapping[str, Any] | bool | str | None = None) -> Grammar:
        """JSON that a schema allows; any JSON object without one.

        Args:
            schema: as a mapping, or as the text of one.

        Raises:
            OptionError: the text is no JSON schema.
        """
        given: Any = {"type": "object"} if schema is None else schema
        if isinstance(given, str):
            try:
                given = json.loads(given)
            except (ValueError, RecursionError) as error:
                raise OptionError(f"the JSON schema is not JSON: {error}", "grammar") from error
        if not isinstance(given, Mapping | bool):
            raise OptionError(
                f"a JSON schema is {_shown(given)}; it must be an object, true or false", "grammar"
            )
        try:
            return cls("json_schema", json.dumps(given))
        except RecursionError as error:
            raise OptionError("the JSON schema is nested too deeply", "grammar") from error

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        """The whole text matches a regular expression of Rust's crate regex (no look-around)."""
        return cls("regex", pattern)

    @classmethod
    def choice(cls, texts: Sequence[str]) -> Grammar:
        """One of these texts.

        Raises:
            OptionError: there are none, or one that is empty or no string.
        """
        given: Any = [*texts] if isinstance(texts, Sequence) and not isinstance(texts, str) else []
        if not given or not all(isinstance(text, str) and text for text in given):
            raise OptionError(
                f"a choice is {_shown(texts)}; it must be a list of strings, none of them empty",
                "grammar",
            )
        return cls("choice", json.dumps(given))

    @classmethod
    def lark(cls, text: str) -> Grammar:
        """A grammar in llguidance's notation of Lark, or llama.cpp's GBNF."""
        return cls("grammar", text)

    @classmethod
    def of(cls, given: TextForm) -> Grammar | None:
        """What `generate` takes: a grammar, a JSON schema, or a class that has one.

        Raises:
            OptionError: it is something else.
        """
        if given is None or isinstance(given, cls):
            return given
        if isinstance(given, Mapping):
            return cls.json(given)
        if isinstance(given, HasJsonSchema):
            return cls.json(given.model_json_schema())
        raise OptionError(
            f"grammar is {_shown(given)}; it must be a mtad.Grammar, a JSON schema as a mapping, "
            "or a pydantic model",
            "grammar",
        )


TextForm: TypeAlias = Grammar | Mapping[str, Any] | HasJsonSchema | None
"""What `generate` takes as a grammar."""


@dataclass(frozen=True)
class JointGrammar(Grammar):
    """A grammar in Lark that refers to others, each with rules of its own.

    Attributes:
        named: those that stand in it as @name.
    """

    named: tuple[tuple[str, Grammar], ...]

    @property
    def num_chars(self) -> int:
        """Of its text, and of what it refers to."""
        return super().num_chars + sum(one.num_chars for _, one in self.named)


def _shown(value: object) -> str:
    """A value for a message, not too long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
