"""A request that is turned away before any route sees it, in the shape of OpenAI's errors.

Knows no route and no setting.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from starlette.types import Scope, Send


@dataclass(frozen=True)
class Refusal:
    """An answer that says why there is none.

    Attributes:
        status: of HTTP.
        code: what programs look at.
        message: what people read; it never repeats what was sent in a header or a body.
        kind: OpenAI's `type`.
        headers: of the answer, beyond type and length.
    """

    status: int
    code: str
    message: str
    kind: str = "invalid_request_error"
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def body(self) -> bytes:
        """The JSON of it."""
        error = {"message": self.message, "type": self.kind, "param": None, "code": self.code}
        return json.dumps({"error": error}, ensure_ascii=False).encode()

    async def answer(self, send: Send) -> None:
        """Send it as the whole response."""
        own = (b"content-type", b"application/json"), (b"content-length", b"%d" % len(self.body))
        await send(
            {
                "type": "http.response.start",
                "status": self.status,
                "headers": [*own, *self.headers],
            }
        )
        await send({"type": "http.response.body", "body": self.body})


def header(scope: Scope, name: bytes) -> list[bytes]:
    """Every value of a header, whose name is in lower case."""
    return [value for key, value in scope["headers"] if key == name]
