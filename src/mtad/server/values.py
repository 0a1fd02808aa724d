"""Kinds of values that settings of a server have: lines, hosts, origins, prefixes of paths.

Knows no setting.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit

from annotated_types import Gt, Predicate

from mtad.core.options import Finite

LogFormat = Literal["json", "text"]
Seconds = Annotated[Finite, Gt(0)]
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")


def _is_line(text: str) -> bool:
    return bool(text.strip()) and text.isprintable()


def _is_origin(text: str) -> bool:
    """Whether it is scheme, host and perhaps a port, as browsers write an origin."""
    try:
        parts = urlsplit(text)
        whole = f"{parts.scheme}://{parts.netloc}"
        port = parts.port
    except ValueError:
        return False
    is_web = parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0
    return is_web and text == whole.lower() and "@" not in text


def _is_host(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return bool(text) and not set(text) & set("/:@*? ") and text.isprintable()
    return True


def _is_prefix(text: str) -> bool:
    """Whether it begins paths: segments after a slash each, none of them `.` or `..`."""
    return bool(_PREFIX.fullmatch(text)) and not {".", ".."} & set(text.split("/"))


Line: TypeAlias = Annotated[str, Predicate(_is_line)]
Origin: TypeAlias = Annotated[str, Predicate(_is_origin)]
Host: TypeAlias = Annotated[str, Predicate(_is_host)]
Prefix: TypeAlias = Annotated[str, Predicate(_is_prefix)]


def is_loopback(host: str) -> bool:
    """Whether a host name or an address means this machine alone."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"
