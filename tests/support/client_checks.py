"""What arguments must be like that the programs of several clients in JavaScript ask for."""

from __future__ import annotations

from typing import Any

import jsonschema

PLACE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Oslo", "Rome"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}


def check_place(place: Any) -> None:
    """It is what the tool takes."""
    jsonschema.validate(place, PLACE)
