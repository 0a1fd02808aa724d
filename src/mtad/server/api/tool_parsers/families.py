"""How models write calls of tools: one family per form, chosen by what a chat template says.

Knows no text and no request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

FamilyName: TypeAlias = Literal["hermes", "llama3", "mistral", "json"]


@dataclass(frozen=True)
class Family:
    """A form of calls; each is a JSON object of a name and its arguments.

    Attributes:
        name: what `--tool-call-parser` calls it.
        begin: what calls begin with; empty where nothing stands before them.
        end: what stands after a call.
        arguments: the key of the arguments.
        is_bare: whether a text may be a call from its first character on.
        in_list: whether calls stand in a JSON array: always, never, or where there are several.
        between: what stands between two calls, outside of an array.
    """

    name: FamilyName
    begin: str = ""
    end: str = ""
    arguments: str = "arguments"
    is_bare: bool = False
    in_list: Literal["always", "never", "several"] = "never"
    between: str = ""

    def written(self, calls: list[str]) -> str:
        """Calls as the model is to write them, each given as its JSON object."""
        if self.end:
            return self.between.join(f"{self.begin}\n{call}\n{self.end}" for call in calls)
        if self.in_list == "always" or (self.in_list == "several" and len(calls) > 1):
            return f"{self.begin}[{', '.join(calls)}]"
        return self.between.join(calls)


FAMILIES: dict[FamilyName, Family] = {
    family.name: family
    for family in (
        Family("hermes", "<tool_call>", "</tool_call>", between="\n"),
        Family("llama3", "<|python_tag|>", arguments="parameters", is_bare=True, between="; "),
        Family("mistral", "[TOOL_CALLS]", in_list="always"),
        Family("json", is_bare=True, in_list="several"),
    )
}


def family_of(template: str) -> Family:
    """The family of the models that have such a chat template.

    Templates that know no tools get them in a system message, which asks for Hermes' form.
    """
    if "[TOOL_CALLS]" in template:
        return FAMILIES["mistral"]
    if "<tool_call>" in template or "tools" not in template:
        return FAMILIES["hermes"]
    if "<|python_tag|>" in template or '"parameters": ' in template:
        return FAMILIES["llama3"]
    return FAMILIES["json"]
