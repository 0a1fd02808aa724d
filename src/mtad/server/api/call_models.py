"""Response models of calls of tools, and the base of all response models.

Knows no model.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ResponseModel(BaseModel):
    """Base of all responses; a field that was not set is left out of the JSON."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    def as_json(self) -> str:
        """The JSON text."""
        return self.model_dump_json(exclude_unset=True)


class CalledFunction(ResponseModel):
    """What the model calls."""

    name: str
    arguments: str = Field(description="The JSON text of an object.")


class ToolCall(ResponseModel):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class FunctionDelta(ResponseModel):
    """What is new of a called function: its name first, then the text of its arguments."""

    name: str = ""
    arguments: str


class ToolCallDelta(ResponseModel):
    """What is new of a call; its id comes with the name."""

    index: int
    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionDelta
