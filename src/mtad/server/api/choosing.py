"""The method that a request asks for, with its options.

Knows no model and no scheduler.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mtad.errors import OptionError
from mtad.methods import known_name, make_of
from mtad.server.api.request_models import Decoding, MethodChoice
from mtad.server.http.errors import ApiError
from mtad.speculative.method import Method

_LONGEST_LIST = 64
_LARGEST = 10**9


def chosen_method(body: Decoding, known: Mapping[str, type[Method]], default: Method) -> Method:
    """The method of a request.

    A name alone means the method with its own defaults; options alone change the server's default
    method.

    Raises:
        ApiError: it is not known here, or an option is unknown, impossible or given twice.
    """
    name, options = _given(body)
    where = "method_options" if body.method_options else "method"
    for option, value in options.items():
        _check_size(option, value, where)
    if name is None:
        cls, base = type(default), dataclasses.asdict(default)
    else:
        cls, base = _named(name, known), {}
    try:
        return make_of(cls, base | options)
    except (ValueError, TypeError, OverflowError) as error:
        raise ApiError(400, str(error), where) from None


def check_tree(method: Method, num_nodes: int, most: int) -> None:
    """Refuse a method whose token tree is too large.

    Raises:
        ApiError: it is.
    """
    if num_nodes > most:
        raise ApiError(
            400,
            f"{method.name} with these options has a token tree of {num_nodes} nodes; this server "
            f"takes at most {most}: give fewer or shorter drafts",
            "method",
        )


def _named(name: str, known: Mapping[str, type[Method]]) -> type[Method]:
    try:
        return known[known_name(name, known, " here")]
    except OptionError as error:
        raise ApiError(400, str(error), "method") from None


def _given(body: Decoding) -> tuple[str | None, dict[str, Any]]:
    """Name and options, from `method` and `method_options` together."""
    options = dict(body.method_options or {})
    if not isinstance(body.method, MethodChoice):
        return body.method, options
    own = dict(body.method.model_extra or {})
    twice = sorted(own.keys() & options.keys())
    if twice:
        raise ApiError(400, f"{twice[0]} is given in method and again in method_options", "method")
    return body.method.name, own | options


def _check_size(option: str, value: Any, where: str) -> None:
    """Refuse numbers and lists that no method can mean and that would take long to look at."""
    parts = value if isinstance(value, list) else [value]
    too_large = any(isinstance(part, int) and abs(part) > _LARGEST for part in parts)
    if len(parts) > _LONGEST_LIST or too_large:
        raise ApiError(
            400,
            f"{option} is too large; integers may be up to {_LARGEST} and lists may have up to "
            f"{_LONGEST_LIST} entries",
            where,
        )
