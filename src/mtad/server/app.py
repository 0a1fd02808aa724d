"""The application: routes, guards, page and metrics around a scheduler.

Knows no command line and opens no port.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from starlette.responses import Response

from mtad import __version__
from mtad.server import page
from mtad.server.api.errors import answer_errors
from mtad.server.api.openapi import describe, documented
from mtad.server.api.routes import Api
from mtad.server.api.service import Decodes, Service
from mtad.server.http.keys import Keys, read_keys
from mtad.server.http.middleware import protect
from mtad.server.ops.metrics import CONTENT_TYPE, Metrics
from mtad.server.settings import ServerSettings


def create_app(
    scheduler: Decodes,
    settings: ServerSettings,
    metrics: Metrics | None = None,
    keys: Keys | None = None,
    render: Callable[[], Awaitable[bytes]] | None = None,
) -> FastAPI:
    """The server as an ASGI application.

    Args:
        scheduler: started; it is not closed here.
        settings: limits and defaults.
        metrics: an observer of the scheduler; None for no `/metrics`.
        keys: that open it; None for those that the settings and the environment name.
        render: what `/metrics` answers; None for this process' own metrics.
    """
    service = Service.of(scheduler, settings, metrics.energy if metrics else None)
    app = FastAPI(
        title="mtad",
        version=__version__,
        description="A target and a draft model that complete prompts together.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.include_router(Api(service).router)
    answer_errors(app)
    if settings.metrics and metrics is not None:
        metrics.load = lambda: scheduler.load
        _show(app, render or metrics.page)
    if settings.playground:
        page.mount(app)
    else:
        _say_where(app)
    keys = read_keys(settings.api_key_file) if keys is None else keys
    describe(app, service, has_keys=bool(keys))
    protect(app, settings, keys)
    return app


def _say_where(app: FastAPI) -> None:
    """Answer `/`, which people open first, where there is no page."""
    places = {"models": "/v1/models", "description": "/openapi.json", "health": "/health"}

    def index(request: Request) -> dict[str, str]:
        root = request.scope.get("root_path", "")
        below = {name: root + place for name, place in places.items()}
        return {"server": "mtad", "version": __version__, **below}

    app.add_api_route("/", index, methods=["GET"], include_in_schema=False)


def _show(app: FastAPI, render: Callable[[], Awaitable[bytes]]) -> None:
    """Add `GET /metrics`."""

    async def metrics() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(await render(), media_type=CONTENT_TYPE)

    documented(app.router, "GET", "/metrics", metrics)
