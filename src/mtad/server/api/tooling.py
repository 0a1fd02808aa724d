"""What the tools of a chat ask of its texts: what is refused, how they are read, their grammar.

Decodes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mtad.core.names import did_you_mean
from mtad.errors import GrammarError
from mtad.grammar.grammar import Grammar
from mtad.grammar.json_schema import as_read
from mtad.grammar.matcher import GrammarState
from mtad.server.api.messages import NamedTool, SomeTools, Tool
from mtad.server.api.rendering import parameters_of
from mtad.server.api.request_models import ChatRequest, Decoding
from mtad.server.api.service import Service
from mtad.server.api.tool_parsers import thinking
from mtad.server.api.tool_parsers.answers import refuse_alike
from mtad.server.api.tool_parsers.closing import closed
from mtad.server.api.tool_parsers.grammars import CallGrammar
from mtad.server.api.tool_parsers.reading import Reading
from mtad.server.http.errors import ApiError


@dataclass(frozen=True)
class Offer:
    """Which tools an answer may call.

    Attributes:
        tools: that the prompt describes.
        names: of those that may be called.
        required: whether there must be a call.
        single: whether there is at most one.
    """

    tools: Sequence[Tool] = ()
    names: frozenset[str] = frozenset()
    required: bool = False
    single: bool = False

    @property
    def callable(self) -> list[Tool]:
        """The tools that may be called."""
        return [tool for tool in self.tools if tool.function.name in self.names]

    @property
    def is_free(self) -> bool:
        """Whether any text may be the answer."""
        is_strict = any(tool.function.strict for tool in self.tools)
        return not (self.required or is_strict or len(self.names) < len(self.tools))


def offer_of(body: Decoding) -> Offer:
    """Which tools the answer may call; with the choice `none` there are none.

    Raises:
        ApiError: two have one name, or the choice is of a tool that is not among them.
    """
    if not isinstance(body, ChatRequest):
        return Offer()
    tools, choice = body.tools or [], body.tool_choice
    names = [tool.function.name for tool in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            place = f"tools[{index}].function.name"
            raise ApiError(400, f"{place}: there is another tool called {name!r}", place)
    if choice == "none":
        return Offer()
    if choice not in (None, "auto") and not tools:
        raise ApiError(400, "tool_choice needs tools, and the request has none", "tool_choice")
    single = body.parallel_tool_calls is False
    if isinstance(choice, NamedTool):
        return Offer(tools, _chosen([choice], names), required=True, single=True)
    if isinstance(choice, SomeTools):
        given = choice.allowed_tools
        return Offer(tools, _chosen(given.tools, names), given.mode == "required", single)
    return Offer(tools, frozenset(names), choice == "required", single)


def _chosen(chosen: Sequence[NamedTool], names: Sequence[str]) -> frozenset[str]:
    """The names of some tools, which must be among all of them."""
    for one in chosen:
        if (name := one.function.name) not in names:
            message = f"tool_choice: there is no tool {name!r}{did_you_mean(name, names)}"
            known = f"{message}; those that there are: {', '.join(names)}"
            raise ApiError(400, known, "tool_choice")
    return frozenset(one.function.name for one in chosen)


def reading_of(
    service: Service,
    body: Decoding,
    offer: Offer,
    guided: tuple[str, Grammar] | None,
    ids: list[int],
) -> Reading | None:
    """How the texts of a request are read; None where they are content as they are.

    Args:
        service: what all routes share.
        body: the request.
        offer: which tools may be called.
        guided: the parameter that holds what is no call to a form, and the form.
        ids: of the prompt.
    """
    if not isinstance(body, ChatRequest):
        return None
    thinks = service.settings.reasoning_parser == "auto" and service.texts.has_thinking
    if not offer.tools and not thinks:
        return None
    return Reading(
        family=service.texts.family if offer.tools else None,
        schemas={tool.function.name: parameters_of(tool) for tool in offer.callable},
        single=offer.single,
        alone=guided is not None,
        required=offer.required,
        held=guided is not None or not offer.is_free,
        thinks=thinks,
        opened=thinks and service.texts.text(ids[-8:]).rstrip().endswith(thinking.BEGIN),
    )


@dataclass(frozen=True)
class HeldForm:
    """What holds the texts of a request to a form.

    Attributes:
        param: the parameter that asks for it.
        grammar: of the texts.
        parts: forms that it is made of, by the parameters that have them.
        begins: what the answer, which is the first of the parts then, must not begin with, since
            calls do; none where it is JSON, or there is none.
    """

    param: str
    grammar: Grammar
    parts: Mapping[str, Grammar] = field(default_factory=dict)
    begins: Sequence[str] = ()

    def begin(self, service: Service, eos: Collection[int]) -> GrammarState:
        """The state before a text.

        Raises:
            ApiError: the form cannot be honoured; the parameter or the schema at fault is named.
        """
        grammars, effort = service.models.grammars, service.settings.max_mask_effort

        def begin(grammar: Grammar) -> GrammarState:
            return grammars.begin(grammar, eos, effort)

        if self.begins:
            place, form = next(iter(self.parts.items()))
            try:
                refuse_alike(form, self.begins, grammars, eos, effort)
            except GrammarError as error:
                raise ApiError(400, f"{place}: {error}", place) from error
        try:
            return begin(self.grammar)
        except GrammarError as error:
            raise _unkept(self.param, error, self.parts, begin) from error


def check_size(service: Service, param: str, grammar: Grammar) -> None:
    """Refuse a form whose text is too long.

    Raises:
        ApiError: it is.
    """
    size, most = grammar.num_chars, service.settings.max_grammar_chars
    if size > most:
        raise ApiError(
            400, f"{param} has {size} characters; this server takes at most {most}", param
        )


def held_form(
    service: Service,
    offer: Offer,
    reading: Reading | None,
    guided: tuple[str, Grammar] | None,
) -> HeldForm | None:
    """What holds the texts of a request to a form: calls, a parameter for the answer, or both.

    Args:
        service: what all routes share.
        offer: which tools may be called.
        reading: how the texts are read.
        guided: the parameter and the form that it gives.

    Raises:
        ApiError: a schema has what no text can be held to, or a form is too long.
    """
    if not offer.tools or reading is None:
        return None if guided is None else HeldForm(*guided)
    if guided is None and offer.is_free:
        return None
    schemas = {tool.function.name: closed(parameters_of(tool)) for tool in offer.callable}
    parts = {
        f"tools[{index}].function.parameters": Grammar.json(schemas[tool.function.name])
        for index, tool in enumerate(offer.tools)
        if tool.function.name in schemas
    }
    for place, part in parts.items():
        check_size(service, place, part)
    answer = None
    if guided is not None and not offer.required:
        parts, answer = dict([guided]) | parts, guided[1]
    calls = _calls(service, offer, reading, schemas, answer)
    try:
        form = HeldForm("tools", calls.grammar, parts, calls.begins)
        check_size(service, form.param, form.grammar)
        return form
    except GrammarError as error:
        raise _unkept("tools", error, parts, _check_schema) from error


def _check_schema(form: Grammar) -> None:
    """Refuse a JSON schema that no text would be held to."""
    if form.kind == "json_schema":
        as_read(json.loads(form.source), "")


def _unkept(
    param: str,
    error: GrammarError,
    parts: Mapping[str, Grammar],
    check: Callable[[Grammar], object],
) -> ApiError:
    """What is answered where a form cannot be honoured: the part at fault, or the whole."""
    for place, part in parts.items():
        try:
            check(part)
        except GrammarError as own:
            return ApiError(400, f"{place}: {own}", place)
    return ApiError(400, f"{param}: {error}", param)


def _calls(
    service: Service,
    offer: Offer,
    reading: Reading,
    schemas: Mapping[str, Mapping[str, Any]],
    answer: Grammar | None,
) -> CallGrammar:
    """The form of texts with calls, or with an answer of a form instead."""
    assert reading.family is not None
    is_held = offer.required or answer is not None
    held = [tool.function.name for tool in offer.callable if is_held or tool.function.strict]
    return CallGrammar(
        family=reading.family,
        schemas={name: schemas[name] if name in held else {} for name in schemas},
        answer=answer,
        required=offer.required,
        single=reading.single,
        thinks=reading.thinks,
        opened=reading.opened,
        tokens=marks(service, reading),
    )


def marks(service: Service, reading: Reading | None) -> dict[str, int]:
    """The special tokens that say where calls and thinking begin and end, which are read."""
    if reading is None:
        return {}
    found = [thinking.BEGIN, thinking.END] if reading.thinks else []
    if reading.family is not None:
        found += reading.family.marks
    special = service.texts.special
    return {mark: special[mark] for mark in found if mark in special}
