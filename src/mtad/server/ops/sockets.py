"""Where a server listens: a port or a Unix socket, and the certificate that it shows there.

Knows no route and no model.
"""

from __future__ import annotations

import os
import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from mtad.errors import DataError, MtadError
from mtad.server.settings import ServerSettings

SOCKET_MODE = 0o660
"""Of a Unix socket: who may write to it may connect, its owner and its group."""


_OF_A_SOCKET = ("uds", "root_path", "ssl_certfile", "ssl_keyfile")
"""Settings of a server that listens itself."""


class AddressError(MtadError):
    """The server cannot listen on the address that it was given."""


@contextmanager
def listening(settings: ServerSettings) -> Iterator[socket.socket]:
    """A bound socket of the place that the settings name; uvicorn makes it listen.

    Raises:
        AddressError: it cannot be bound.
    """
    if settings.uds is None:
        with closing(listen(settings.host, settings.port)) as sock:
            yield sock
        return
    with closing(listen_at(settings.uds)) as sock:
        made = settings.uds.stat()
        try:
            yield sock
        finally:
            with suppress(OSError):  # someone else's by now, or gone
                if os.path.samestat(made, settings.uds.stat()):
                    settings.uds.unlink()


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address; uvicorn makes it listen.

    Raises:
        AddressError: it cannot be bound.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise cannot_listen(host, port, error) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise cannot_listen(host, port, error) from error
    return sock


def cannot_listen(host: str, port: int, error: OSError) -> AddressError:
    """The error of an address that is taken, or none of this machine's."""
    return AddressError(
        f"cannot listen on {host}, port {port}: {error.strerror}; choose another --port (0 takes "
        "a free one) or --host"
    )


def listen_at(path: Path) -> socket.socket:
    """A Unix socket at a path, for its owner and group.

    One that a server left behind, on which no server listens any more, is replaced.

    Raises:
        AddressError: a server listens there, something else is there, or it cannot be made.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise AddressError("this system has no Unix sockets; give --host and --port")
    _clear(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        path.chmod(SOCKET_MODE)  # no client can connect before it listens
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)  # a path that is too long has no strerror
        raise AddressError(f"cannot listen on {path}: {reason}; choose another --uds") from error
    return sock


def _clear(path: Path) -> None:
    """Remove a socket on which no server listens."""
    try:
        mode = path.lstat().st_mode
    except OSError:  # nothing is there; what else is wrong, binding will say
        return
    if not stat.S_ISSOCK(mode):
        raise AddressError(f"cannot listen on {path}: it is no socket; choose another --uds")
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as other:
        try:
            other.connect(str(path))
        except ConnectionRefusedError:
            return path.unlink(missing_ok=True)
        except OSError as error:
            raise AddressError(f"cannot listen on {path}: {error.strerror}") from error
    raise AddressError(f"cannot listen on {path}: a server listens there; choose another --uds")


def require_no_socket(settings: ServerSettings, instead: str) -> None:
    """Refuse settings of a server that listens itself, where something else does.

    Args:
        settings: of the server.
        instead: what to do, for people.

    Raises:
        ValueError: one of them is given.
    """
    for name in _OF_A_SOCKET:
        if getattr(settings, name) is not None:
            raise ValueError(f"{name} is for mtad serve where it listens itself; {instead}")


def check_certificate(certificate: Path | None, key: Path | None) -> None:
    """Refuse a certificate that cannot be shown.

    Raises:
        DataError: a file cannot be read, is no PEM, or they don't belong together.
    """
    if certificate is None or key is None:
        return
    for flag, path in (("--ssl-certfile", certificate), ("--ssl-keyfile", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}; see {flag}") from error

    def password() -> str:
        raise DataError(f"the key {key} is encrypted; give one that is not: openssl pkey -in {key}")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password)
    except ssl.SSLError as error:
        differ = error.reason == "KEY_VALUES_MISMATCH"
        what = "the key is another certificate's" if differ else "they are not a PEM each"
        raise DataError(
            f"{certificate} and {key} are no certificate with its key: {what}; give "
            "--ssl-certfile and --ssl-keyfile that belong together"
        ) from error


def url_of(host: str, port: int, scheme: str = "http") -> str:
    """The URL of a server that listens there."""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def place_of(sock: socket.socket, settings: ServerSettings) -> str:
    """Where a server that listens is, for people: its URL with the prefix, or its socket."""
    if settings.uds is not None:
        return f"the Unix socket {settings.uds}"
    scheme = "http" if settings.ssl_certfile is None else "https"
    host, port = sock.getsockname()[:2]
    return url_of(host, port, scheme)
