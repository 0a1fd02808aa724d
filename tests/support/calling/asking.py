"""What clients are asked, and the form of the answer; needs pydantic, which all of them have."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Event(BaseModel):
    """An event in the calendar."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=20)
    day: Literal["Friday", "Monday"]
    guests: list[Literal["Alice", "Bob"]] = Field(max_length=3)


class Weather(BaseModel):
    """The weather of a city, without more: a model this small would invent properties.

    The second limit is for clients that take the first out of schemas of tools.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"maxProperties": 1})

    city: Literal["Oslo", "Rome"]


def weather(city: Literal["Oslo", "Rome"]) -> str:
    """The weather of a city."""
    return f"4 mm of rain in {city}"
