"""The items that led to a stored response, as lists of OpenAI's are given: page by page.

Knows no HTTP beyond the errors that clients get.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from mtad.server.api.call_models import ResponseModel
from mtad.server.api.responses_api.requests import Item, MessageItem, ReasoningItem
from mtad.server.api.responses_api.stored import StoredResponse
from mtad.server.http.errors import ApiError

_MOST, _USUAL = 100, 20
_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco"}


class InputItemList(ResponseModel):
    """A page of items."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


def listed(stored: StoredResponse, query: Mapping[str, str]) -> InputItemList:
    """A page of the items up to a response, those of earlier responses too.

    Args:
        stored: the response.
        query: `limit`, `order` and `after`, as the address has them.

    Raises:
        ApiError: one of them is wrong.
    """
    name = stored.response.id.removeprefix("resp_")
    items = [_described(item, name, i) for i, item in enumerate(stored.conversation)]
    order, limit = query.get("order", "desc"), query.get("limit", str(_USUAL))
    if order not in ("asc", "desc"):
        raise ApiError(400, f"order is {order!r}; it may be asc or desc", "order")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= _MOST):
        raise ApiError(400, f"limit is {limit!r}; it may be from 1 to {_MOST}", "limit")
    if order == "desc":
        items.reverse()
    if (after := query.get("after")) is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise ApiError(400, f"after: the response has no input item {after!r}", "after")
        items = items[ids.index(after) + 1 :]
    page = items[: int(limit)]
    return InputItemList(
        object="list",
        data=page,
        first_id=page[0]["id"] if page else None,
        last_id=page[-1]["id"] if page else None,
        has_more=len(items) > len(page),
    )


def _described(item: Item, response: str, index: int) -> dict[str, Any]:
    """An item with all that clients expect; one that came without an id gets one."""
    given = item.model_dump(exclude_none=True)
    kind = given.get("type", "message")
    name = f"{_PREFIXES.get(kind, 'rs')}_{response}_in{index}"
    usual: dict[str, Any] = {"id": name, "type": kind, "status": "completed"}
    if isinstance(item, ReasoningItem):
        usual["summary"] = []
    if isinstance(item, MessageItem):
        given["content"] = _parts(given["content"], item.role == "assistant")
    return usual | given


def _parts(content: str | list[dict[str, Any]], is_output: bool) -> list[dict[str, Any]]:
    """The parts of a message, which may be given as a text."""
    if not isinstance(content, str):
        own: dict[str, Any] = {"annotations": []} if is_output else {}
        return [own | part if part["type"] == "output_text" else part for part in content]
    if is_output:
        return [{"type": "output_text", "text": content, "annotations": []}]
    return [{"type": "input_text", "text": content}]
