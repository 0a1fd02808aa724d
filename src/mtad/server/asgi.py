"""The server as a part of another application, such as one's own FastAPI.

Opens no port, takes no signals and configures no logging: that is up to the other application.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from mtad.api.pair import ModelPair
from mtad.server.http.errors import ApiError
from mtad.server.ops.sockets import require_no_socket
from mtad.server.run import Served, assemble
from mtad.server.settings import ServerSettings


class MtadApp:
    """The whole server of a pair as an ASGI application, to be mounted or to be served itself.

        llm = MtadApp(pair, ServerSettings(served_model_name="mine"))
        app = FastAPI(lifespan=llm.lifespan)
        app.mount("/llm", llm)

    Its lifespan starts the thread that decodes, and ends it. A server runs the lifespan of an
    application that it serves, but not that of a mounted one: the outer application must enter
    it, as above. Until then requests are answered with 503.

    Args:
        pair: the models; one pair is for one application at a time.
        settings: limits and defaults. `served_model_name` must be given; where the models are, and
            where the server listens, is of no effect. Host names are checked as for a server on
            `host`: give `allowed_hosts`, or `host="0.0.0.0"` where others check them.

    Raises:
        ValueError: the model has no name, or a setting is for a server that listens or logs itself.
    """

    def __init__(self, pair: ModelPair, settings: ServerSettings) -> None:
        if not settings.served_model_name:
            raise ValueError("served_model_name is not given; say what clients call the model")
        require_no_socket(settings, "the application that it is mounted in does that")
        if settings.log_file is not None:
            raise ValueError(
                "log_file is for mtad serve; give the logger mtad.requests a handler instead"
            )
        self._pair, self._settings = pair, settings
        self._served: Served | None = None
        self._own: ASGIApp = Starlette(lifespan=self.lifespan)

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Take requests within it; running ones have `shutdown_s` to end when it is left.

        Args:
            app: the application that enters it, as FastAPI and starlette give it; not used.

        Raises:
            RuntimeError: it has been entered and not left.
            ValueError, MtadError: as `mtad.server.run.assemble`.
        """
        if self._served is not None:
            raise RuntimeError("the lifespan of this application has been entered already")
        served = self._served = assemble(self._pair, self._settings)
        try:
            served.start()
            yield
        finally:
            await anyio.to_thread.run_sync(served.close, self._settings.shutdown_s)
            self._served = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or run the lifespan where a server serves this application itself."""
        if scope["type"] == "lifespan":
            await self._own(scope, receive, send)
        elif self._served is not None:
            await self._served.app(scope, receive, send)
        elif scope["type"] == "http":
            await _not_begun().response()(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})


def _not_begun() -> ApiError:
    message = (
        "the server has not begun: its lifespan was not entered; give it to the application that "
        "it is mounted in, as FastAPI(lifespan=llm.lifespan)"
    )
    return ApiError(503, message, code="not_ready")
