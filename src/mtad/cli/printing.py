"""What programs read of a command."""

from __future__ import annotations

import json

from mtad.core.options import jsonable


def print_json(value: object) -> None:
    """The value as one line of JSON on stdout, at once."""
    print(json.dumps(jsonable(value), ensure_ascii=False, allow_nan=False), flush=True)
