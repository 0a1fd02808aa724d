"""Which hosts and web pages may use the server: guards against pages that a browser has open.

A page of another site can send requests to a server on the user's own machine. Two guards stop it:
a request that changes something and names a foreign `Origin` is refused, and a server that listens
on this machine alone refuses host names that are not this machine's (DNS rebinding). Knows no keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from mtad.server.http.refusal import Refusal, header
from mtad.server.settings import ServerSettings, is_loopback

_SAFE = ("GET", "HEAD", "OPTIONS")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class OriginGuard:
    """Refuses foreign hosts and foreign pages with 403.

    Attributes:
        app: what comes after.
        settings: where the server listens, and who may use it.
    """

    app: ASGIApp
    settings: ServerSettings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let it pass, or answer."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal:
            await refusal.answer(send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        hosts = header(scope, b"host")
        if not all(self._is_ours(host) for host in hosts):
            return Refusal(
                403,
                "unknown_host",
                "the Host header names no host of this server; the operator can add one with "
                "--allowed-host",
                "permission_error",
            )
        if scope["method"] in _SAFE or self._may_ask(header(scope, b"origin"), hosts):
            return None
        return Refusal(
            403,
            "foreign_origin",
            "web pages of this origin may not use the server; the operator can allow them with "
            "--cors-origin",
            "permission_error",
        )

    def _is_ours(self, host: bytes) -> bool:
        """Whether a Host header may name this server."""
        allowed = self.settings.allowed_hosts
        if not self.settings.is_local and not allowed:
            return True
        parts = _parts(f"//{host.decode('latin-1')}")
        name = parts.hostname if parts else None
        if not name:
            return False
        names = {known.lower() for known in (*allowed, self.settings.host)}
        return name in names or is_loopback(name)

    def _may_ask(self, origins: Iterable[bytes], hosts: Iterable[bytes]) -> bool:
        """Whether the pages of these origins may send more than a question."""
        for origin in (value.decode("latin-1") for value in origins):
            own = any(_is_same(origin, host.decode("latin-1")) for host in hosts)
            if not own and origin not in self.settings.cors_origins:
                return False
        return True


def _is_same(origin: str, host: str) -> bool:
    """Whether a page of `origin` was loaded from `host`, as far as the two tell."""
    page = _parts(origin)
    if page is None or page.scheme not in _PORTS or page.path:
        return False
    own = _parts(f"{page.scheme}://{host}")
    return own is not None and page.hostname == own.hostname and _port(page) == _port(own)


def _port(parts: SplitResult) -> int | None:
    return _PORTS[parts.scheme] if parts.port is None else parts.port


def _parts(text: str) -> SplitResult | None:
    """The parts of an address; None if it is none."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return None
    return parts
