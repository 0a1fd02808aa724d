"""What objects and arguments must be like that the programs of several clients ask for."""

from __future__ import annotations

from typing import Any

import jsonschema

EVENT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "day": {"enum": ["Friday", "Monday"]},
        "guests": {"type": "array", "items": {"enum": ["Alice", "Bob"]}, "maxItems": 3},
    },
    "required": ["name", "day", "guests"],
    "additionalProperties": False,
}
PLACE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Oslo", "Rome"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}


def check_event(event: Any) -> None:
    """It is the object that was asked for."""
    jsonschema.validate(event, EVENT)


def check_place(place: Any) -> None:
    """It is what the tool takes."""
    jsonschema.validate(place, PLACE)
