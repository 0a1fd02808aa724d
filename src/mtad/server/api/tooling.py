"""What the tools of a chat ask of its texts: what is refused, how they are read, their grammar.

Decodes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtad.core.names import did_you_mean
from mtad.errors import GrammarError
from mtad.grammar.grammar import Grammar
from mtad.grammar.matcher import GrammarState
from mtad.server.api.messages import NamedTool, Tool
from mtad.server.api.rendering import parameters_of
from mtad.server.api.request_models import ChatRequest, Decoding
from mtad.server.api.service import Service
from mtad.server.api.tool_parsers import thinking
from mtad.server.api.tool_parsers.grammars import CallGrammar
from mtad.server.api.tool_parsers.reading import Reading
from mtad.server.http.errors import ApiError


def tools_of(body: Decoding) -> list[Tool]:
    """The tools that an answer may call; with the choice `none` there are none.

    Raises:
        ApiError: two have one name, or the choice is of a tool that is not among them.
    """
    if not isinstance(body, ChatRequest):
        return []
    tools, choice = body.tools or [], body.tool_choice
    names = [tool.function.name for tool in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            place = f"tools[{index}].function.name"
            raise ApiError(400, f"{place}: there is another tool called {name!r}", place)
    if choice not in (None, "none", "auto") and not tools:
        raise ApiError(400, "tool_choice needs tools, and the request has none", "tool_choice")
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        name = choice.function.name
        message = f"tool_choice: there is no tool {name!r}{did_you_mean(name, names)}"
        raise ApiError(400, f"{message}; those that there are: {', '.join(names)}", "tool_choice")
    return [] if choice == "none" else tools


def reading_of(
    service: Service, body: Decoding, tools: Sequence[Tool], ids: list[int]
) -> Reading | None:
    """How the texts of a request are read; None where they are content as they are.

    Args:
        service: what all routes share.
        body: the request.
        tools: as `tools_of` returns them.
        ids: of the prompt.
    """
    if not isinstance(body, ChatRequest):
        return None
    thinks = service.settings.reasoning_parser == "auto" and service.texts.has_thinking
    if not tools and not thinks:
        return None
    choice = body.tool_choice
    names = [tool.function.name for tool in tools]
    if isinstance(choice, NamedTool):
        names = [choice.function.name]
    is_free = choice in (None, "auto") and not any(tool.function.strict for tool in tools)
    return Reading(
        family=service.texts.family if tools else None,
        names=frozenset(names),
        held=bool(tools) and not is_free,
        single=body.parallel_tool_calls is False or isinstance(choice, NamedTool),
        thinks=thinks,
        opened=thinks and service.texts.text(ids[-8:]).rstrip().endswith(thinking.BEGIN),
    )


@dataclass(frozen=True)
class HeldForm:
    """What holds the texts of a request to a form.

    Attributes:
        param: the parameter that asks for it.
        grammar: of the texts.
        tools: whose schemas are in it.
    """

    param: str
    grammar: Grammar
    tools: Sequence[Tool] = ()

    def begin(self, service: Service, eos: Collection[int]) -> GrammarState:
        """The state before a text.

        Raises:
            ApiError: the form cannot be honoured; the parameter or the schema at fault is named.
        """
        grammars, param = service.models.grammars, self.param
        try:
            return grammars.begin(self.grammar, eos)
        except GrammarError as error:
            for index, tool in enumerate(self.tools):
                place = f"tools[{index}].function.parameters"
                try:
                    grammars.begin(Grammar.json(parameters_of(tool)), eos)
                except GrammarError as own:
                    raise ApiError(400, f"{place}: {own}", place) from own
            raise ApiError(400, f"{param}: {error}", param) from error


def held_form(
    service: Service,
    body: Decoding,
    tools: Sequence[Tool],
    reading: Reading | None,
    guided: tuple[str, Grammar] | None,
) -> HeldForm | None:
    """What holds the texts of a request to a form: its calls, or a parameter for whole texts.

    Args:
        service: what all routes share.
        body: the request.
        tools: as `tools_of` returns them.
        reading: how the texts are read.
        guided: the parameter and the form that it gives.

    Raises:
        ApiError: there are both.
    """
    if guided is not None and tools:
        raise ApiError(
            400,
            f"{guided[0]} holds the whole text to a form, so that no tool could be called: leave "
            'it out, or give tool_choice "none"',
            guided[0],
        )
    if guided is not None:
        return HeldForm(*guided)
    if reading is None or not reading.held:
        return None
    return HeldForm("tools", _grammar(service, body, tools, reading), tools)


def _grammar(service: Service, body: Decoding, tools: Sequence[Tool], reading: Reading) -> Grammar:
    """The grammar of texts with calls."""
    assert isinstance(body, ChatRequest)
    assert reading.family is not None
    is_required = body.tool_choice not in (None, "auto")
    schemas: dict[str, Mapping[str, Any]] = {
        tool.function.name: parameters_of(tool) if is_required or tool.function.strict else {}
        for tool in tools
        if tool.function.name in reading.names
    }
    return CallGrammar(
        family=reading.family,
        schemas=schemas,
        required=is_required,
        single=reading.single,
        thinks=reading.thinks,
        opened=reading.opened,
        tokens=marks(service, reading),
    ).grammar


def marks(service: Service, reading: Reading | None) -> dict[str, int]:
    """The special tokens that say where calls and thinking begin and end, which are read."""
    if reading is None:
        return {}
    found = [thinking.BEGIN, thinking.END] if reading.thinks else []
    if reading.family is not None:
        found += [reading.family.begin, reading.family.end]
    special = service.texts.special
    return {mark: special[mark] for mark in found if mark in special}
