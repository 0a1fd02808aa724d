"""One replica of the server on a Ray cluster: its own pair, scheduler and application.

Knows no command line. Ray Serve makes it, calls it and asks for its health.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mtad.bench.ray_cluster import find_ray
from mtad.errors import MtadError
from mtad.measure.meter import Meter
from mtad.server.http.keys import Keys
from mtad.server.ops.figures import Board
from mtad.server.ops.logs import Log, catch_records
from mtad.server.run import assemble, load
from mtad.server.settings import ServerSettings

POST_S = 1.0
"""Seconds between two reports of a replica."""
SILENCE_S = 15.0
"""A replica that has said nothing for as long is gone."""


class UnhealthyError(MtadError):
    """The scheduler's thread has ended or stands still; Ray Serve starts another replica."""


class SharedBoard:
    """The board of all replicas; an actor of its own, with its own clock."""

    def __init__(self) -> None:
        self._board = Board(SILENCE_S)

    def post(self, replica: str, text: str) -> bool:
        """Note what a replica says; whether it is to finish."""
        return self._board.post(replica, text, time.monotonic())

    def total(self, replica: str, text: str) -> bytes:
        """The figures of all, those of one replica as they are now."""
        self.post(replica, text)
        return self._board.total(time.monotonic())

    def num_replicas(self) -> int:
        """Replicas that have said something lately."""
        self._board.total(time.monotonic())
        return len(self._board.texts)

    def close(self) -> None:
        """Tell all replicas, with their next report, to finish what they do."""
        self._board.is_closing = True


class Replica:
    """The server as Ray Serve runs it.

    Args:
        settings: of the server.
        keys: that open it; a replica's machine may have neither the file nor the environment.
        name: of the replica, unlike all others'.
        board: the actor of a `SharedBoard`.
        get: waits for an actor's answer.
    """

    def __init__(
        self, settings: ServerSettings, keys: Keys, name: str, board: Any, get: Callable[[Any], Any]
    ) -> None:
        self.name, self._board, self._get = name, board, get
        self._settings = dataclasses.replace(settings, trace=own_file(settings.trace, name))
        catch_records(Log(settings.log_format), settings.log_prompts)
        meter = Meter(None, "replicas may share a machine")
        self.served = assemble(load(self._settings), self._settings, meter, keys)
        self.served.start()
        self._is_over = threading.Event()
        self._closing = threading.Thread(target=self._close, name="mtad-close", daemon=True)
        threading.Thread(target=self._report, name="mtad-report", daemon=True).start()

    @property
    def app(self) -> ASGIApp:
        """The application; its figures are those of all replicas."""
        return _Shared(self.served.app, self._total)

    def check_health(self) -> None:
        """Do nothing if the scheduler works, or was told to end.

        Raises:
            UnhealthyError: it does not.
        """
        if self._closing.ident is None and not self.served.scheduler.load.is_alive:
            raise UnhealthyError(f"the scheduler of replica {self.name} stands still")

    def close(self) -> None:
        """End the scheduler; what still runs fails."""
        self._is_over.set()
        self.served.close()

    async def _total(self) -> bytes:
        own = self._figures()
        try:
            found: bytes = await self._board.total.remote(self.name, own)
        except Exception:  # the board is away: the figures of one are better than none
            return own.encode()
        return found

    def _figures(self) -> str:
        return self.served.metrics.render().decode()

    def _report(self) -> None:
        """Post the figures now and then; finish what runs when that is asked for."""
        while not self._is_over.wait(POST_S):
            with contextlib.suppress(Exception):  # the board is away: nobody asks, nobody is told
                is_closing = self._get(self._board.post.remote(self.name, self._figures()))
                if is_closing and self._closing.ident is None:
                    self._closing.start()

    def _close(self) -> None:
        self.served.scheduler.close(self._settings.shutdown_s)


class Ingress:
    """A replica with the names that Ray Serve asks for.

    Args:
        settings, keys, board: as for `Replica`.
    """

    def __init__(self, settings: ServerSettings, keys: Keys, board: Any) -> None:
        name = find_ray("ray.serve").get_replica_context().replica_id.unique_id
        self.replica = Replica(settings, keys, name, board, find_ray().get)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self.replica.app

    def check_health(self) -> None:
        """Do nothing if the scheduler works; errors as for `Replica.check_health`."""
        self.replica.check_health()

    def __del__(self) -> None:
        if hasattr(self, "replica"):  # otherwise it could not be made
            self.replica.close()


def own_file(path: Path | None, replica: str) -> Path | None:
    """A trace file of one replica: two processes cannot write to one."""
    return None if path is None else path.with_name(f"{path.stem}.{replica}{path.suffix}")


class _Shared:
    """The application with the figures of all replicas in the place of its own.

    Only what it answers itself is replaced, so that its guards stay in force.
    """

    def __init__(self, app: ASGIApp, total: Callable[[], Awaitable[bytes]]) -> None:
        self.app, self._total = app, total

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        is_figures = scope["path"] == "/metrics" and scope["method"] == "GET"
        replaced = False

        async def send_other(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start":
                replaced = is_figures and message["status"] == 200
                dropped = {b"x-request-id"}  # the proxy sends the same id
                dropped |= {b"content-length"} if replaced else set()
                kept = [one for one in message["headers"] if one[0].lower() not in dropped]
                message = {**message, "headers": kept}
            elif replaced:
                if message.get("more_body"):
                    return
                message = {"type": "http.response.body", "body": await self._total()}
            await send(message)

        await self.app(scope, receive, send_other)
