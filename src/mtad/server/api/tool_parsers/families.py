"""How models write calls of tools: one family per form, chosen by what a chat template says.

Knows no text and no request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

FamilyName: TypeAlias = Literal[
    "hermes", "llama3", "llama3_json", "mistral", "qwen3_coder", "qwen3_xml", "json"
]
ARGS, CALL_ID = "[ARGS]", "[CALL_ID]"


@dataclass(frozen=True)
class Family:
    """A form of calls.

    Attributes:
        name: what `--tool-call-parser` calls it.
        begin: what calls begin with; empty where nothing stands before them.
        end: what stands after a call.
        form: a call is a JSON object of the name and the arguments; the name with the JSON object
            of the arguments behind it; or tags around the function and each argument.
        arguments: the key of the arguments, in JSON.
        is_bare: whether a text may be a call from its first character on.
        in_list: whether calls stand in a JSON array: always, never, or where there are several.
        between: what stands between two calls, outside of an array.
        opening: what a call itself begins with, where models leave out the mark before it.
    """

    name: FamilyName
    begin: str = ""
    end: str = ""
    form: Literal["json", "named", "xml"] = "json"
    arguments: str = "arguments"
    is_bare: bool = False
    in_list: Literal["always", "never", "several"] = "never"
    between: str = ""
    opening: str = ""

    @property
    def begins(self) -> list[str]:
        """What a call may begin with, of text that nothing else begins with."""
        return [begin for begin in (self.begin, self.opening) if begin]

    @property
    def marks(self) -> list[str]:
        """What a tokenizer may have special tokens for."""
        own = [ARGS, CALL_ID] if self.form == "named" else []
        return [mark for mark in (self.begin, self.end, *own) if mark]

    def written(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        """Calls as the model is to write them, each given by its name and its arguments."""
        if self.form == "named":
            made = (f"{self.begin}{name}{ARGS}{_json(given)}" for name, given in calls)
            return "".join(made)
        if self.form == "xml":
            texts = [_tagged(name, given) for name, given in calls]
        else:
            texts = [_json({"name": name, self.arguments: given}) for name, given in calls]
        if self.end:
            return self.between.join(f"{self.begin}\n{text}\n{self.end}" for text in texts)
        if self.in_list == "always" or (self.in_list == "several" and len(texts) > 1):
            return f"{self.begin}[{', '.join(texts)}]"
        return self.between.join(texts)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _tagged(name: str, arguments: Mapping[str, Any]) -> str:
    """A call in tags; an argument that is a text stands there as it is."""
    given = "".join(
        f"<parameter={key}>\n{value if isinstance(value, str) else _json(value)}\n</parameter>\n"
        for key, value in arguments.items()
    )
    return f"<function={name}>\n{given}</function>"


_LLAMA3 = Family("llama3", "<|python_tag|>", arguments="parameters", is_bare=True, between="; ")
_QWEN3_CODER = Family(
    "qwen3_coder",
    "<tool_call>",
    "</tool_call>",
    form="xml",
    between="\n",
    opening="<function=",
)
FAMILIES: dict[FamilyName, Family] = {
    "hermes": Family("hermes", "<tool_call>", "</tool_call>", between="\n"),
    "llama3": _LLAMA3,
    "llama3_json": _LLAMA3,
    "mistral": Family("mistral", "[TOOL_CALLS]", in_list="always"),
    "qwen3_coder": _QWEN3_CODER,
    "qwen3_xml": _QWEN3_CODER,
    "json": Family("json", is_bare=True, in_list="several"),
}
"""By all their names, some of which are vLLM's for the same."""


def family_of(template: str, parser: FamilyName | Literal["auto"] = "auto") -> Family:
    """The family of the models that have such a chat template.

    Templates that know no tools get them in a system message, which asks for Hermes' form.

    Args:
        template: of chats with tools.
        parser: the family's name; "auto" is as the template says.
    """
    family = FAMILIES[_name_in(template) if parser == "auto" else parser]
    if family.name == "mistral" and ARGS in template:
        return replace(family, form="named")
    return family


def _name_in(template: str) -> FamilyName:
    if "[TOOL_CALLS]" in template:
        return "mistral"
    if "<function=" in template:
        return "qwen3_coder"
    if "<tool_call>" in template or "tools" not in template:
        return "hermes"
    if "<|python_tag|>" in template or '"parameters": ' in template:
        return "llama3"
    return "json"
