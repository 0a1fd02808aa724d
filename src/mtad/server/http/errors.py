"""An error that ends a request, and its response in OpenAI's shape.

Knows no route and no setting.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response

_MAX_MESSAGE = 600
"""Characters of a message; it may quote what a client sent."""
_MAX_PARAM = 100


class ApiError(Exception):
    """An error that the client gets as the response.

    Args:
        status: HTTP status.
        message: what was given, what is allowed, what to do.
        param: the parameter at fault.
        code: for programs.
        kind: OpenAI's error type; by the status if None.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        *,
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.kind = kind or ("invalid_request_error" if status < 500 else "server_error")
        self.headers = dict(headers or {})

    @property
    def body(self) -> str:
        """The response's JSON."""
        message = str(self)
        if len(message) > _MAX_MESSAGE:
            message = f"{message[: _MAX_MESSAGE - 1]}…"
        param = self.param and self.param[:_MAX_PARAM]
        error = {"message": message, "type": self.kind, "param": param, "code": self.code}
        return json.dumps({"error": error}, ensure_ascii=False)

    def response(self) -> Response:
        """The HTTP response."""
        body = self.body.encode(errors="replace")
        return Response(body, self.status, self.headers, "application/json")


def body_too_large(max_bytes: int) -> ApiError:
    """The error for a body of more than `max_bytes`."""
    message = f"the body is longer than {max_bytes} bytes; shorten it"
    return ApiError(413, message, code="body_too_large")
