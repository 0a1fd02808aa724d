"""One replica of the server on a Ray cluster: its own pair, scheduler and application.

Ray Serve makes it, calls it and checks its health. Knows no command line.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mtad.cluster import find_ray
from mtad.errors import MtadError
from mtad.measure.meter import Meter
from mtad.server.http.keys import Keys
from mtad.server.ops.logs import configure
from mtad.server.ray.metrics import labelled
from mtad.server.run import assemble, load
from mtad.server.settings import ServerSettings

NAME = "mtad"
"""Of the application and its deployment on Ray Serve."""
METRICS_S = 5.0
"""Seconds in which the other replicas have to give their metrics."""

Page = tuple[str, str]
"""A replica's name and its metrics in Prometheus' text format."""


class UnhealthyError(MtadError):
    """The scheduler's thread has ended or hangs; Ray Serve starts another replica."""


class Replica:
    """The server as Ray Serve runs it, with the names that it asks for.

    Args:
        settings: of the server.
        keys: that open it; a replica's machine may have neither the file nor the environment.
        name: of the replica, unique; the one that Ray Serve gave it if None.
        pages: gets the metrics of all replicas; by Ray Serve if None.
    """

    def __init__(
        self,
        settings: ServerSettings,
        keys: Keys,
        name: str | None = None,
        pages: Callable[[], Awaitable[list[Page]]] | None = None,
    ) -> None:
        if name is None:
            name = find_ray("ray.serve").get_replica_context().replica_id.unique_id
        self.name, self._pages = name, pages or _all_pages
        trace, log = (own_file(path, name) for path in (settings.trace, settings.log_file))
        self._settings = dataclasses.replace(settings, trace=trace, log_file=log)
        configure(settings.log_format, settings.log_prompts, log)
        meter = Meter(None, "replicas may share a machine")
        self.served = assemble(load(self._settings), self._settings, meter, keys, self._render)
        self.served.start()
        drain_s = (self._settings.shutdown_s,)
        self._draining = threading.Thread(
            target=self.served.scheduler.close, args=drain_s, name="mtad-drain", daemon=True
        )

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The application; Ray's proxy adds the same request id, so that it is left out here."""
        return _without_request_id(self.served.app)

    def __del__(self) -> None:
        if hasattr(self, "served"):  # otherwise it could not be made
            self.served.close()

    def page(self) -> Page:
        """The replica's own metrics; broadcast by `_all_pages`."""
        return self.name, self.served.metrics.render().decode()

    async def _render(self) -> bytes:
        """The metrics of all replicas; of this one alone where the others are out of reach."""
        try:
            pages = await self._pages()
        except Exception:
            pages = []
        return labelled(dict([*pages, self.page()]))

    def check_health(self) -> None:
        """Do nothing if the scheduler works, or drains.

        Raises:
            UnhealthyError: it does not.
        """
        if self._draining.ident is None and not self.served.scheduler.load.is_alive:
            raise UnhealthyError(f"the scheduler of replica {self.name} hangs")

    def drain(self) -> None:
        """Begin to finish the running requests, within `shutdown_s`; new ones get 503.

        Broadcast at the end of the server.
        """
        if self._draining.ident is None:
            self._draining.start()


async def _all_pages() -> list[Page]:
    """The metrics of every replica that answers in time."""
    handle = find_ray("ray.serve").get_deployment_handle(NAME, NAME)
    answers = handle.broadcast("page").results_async(timeout_s=METRICS_S, return_exceptions=True)
    return [page for page in await answers if not isinstance(page, BaseException)]


def own_file(path: Path | None, replica: str) -> Path | None:
    """A file of one replica: two processes cannot write to one."""
    return None if path is None else path.with_name(f"{path.stem}.{replica}{path.suffix}")


def _without_request_id(app: ASGIApp) -> ASGIApp:
    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_less(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [one for one in message["headers"] if one[0].lower() != b"x-request-id"]
                message = {**message, "headers": kept}
            await send(message)

        await app(scope, receive, send_less)

    return wrapped
