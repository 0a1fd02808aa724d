"""Kinds of values that settings of a server have: lines, hosts, origins, prefixes, sampling.

Knows no setting of a server.
"""

from __future__ import annotations

import json
import re
from ipaddress import ip_address
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from annotated_types import Gt, Predicate

from mtad.core.options import Doc, Finite, typed
from mtad.core.schema import require_known
from mtad.errors import OptionError
from mtad.sampling.params import SamplingParams, numeric_settings, setting_of

LogFormat = Literal["json", "text"]
ToolCallParser: TypeAlias = Annotated[
    Literal[
        "auto", "hermes", "llama3", "llama3_json", "mistral", "qwen3_coder", "qwen3_xml", "json"
    ],
    Doc(
        "How the model writes calls of tools: auto, as its chat template says, hermes, llama3, "
        "mistral, qwen3_coder or json; llama3_json and qwen3_xml are names of vLLM's for the same.",
        metavar="NAME",
    ),
]
ReasoningParser: TypeAlias = Annotated[
    Literal["auto", "none"],
    Doc(
        "Whether thinking between <think> tags is separated from the answer; auto is where the "
        "model's "
        "template or tokens have the tags."
    ),
]
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


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        has_place = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and has_place and text.isprintable()


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
Url: TypeAlias = Annotated[str, Predicate(_is_url)]
Prefix: TypeAlias = Annotated[str, Predicate(_is_prefix)]


def is_loopback(host: str) -> bool:
    """Whether a host name or an address means this machine alone."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


_GENERATION = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens")
"""What a generation_config.json says that requests may say too."""


def sampling_of(text: str | None, name: str) -> dict[str, Any]:
    """Sampling settings in JSON, by the names of `SamplingParams`; none for None.

    Args:
        text: an object, with the names that a generation_config.json has.
        name: what errors call it.

    Raises:
        OptionError: it is no such object, or a request could not ask for one of the values.
    """
    try:
        given = {} if text is None else json.loads(text)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        allowed = 'a JSON object, such as {"temperature": 0.7, "top_p": 0.9}'
        raise OptionError(f"{name} is {text!r}; it must be {allowed}", name)
    require_known(given, _GENERATION, f"key of {name}")
    for key, value in given.items():
        option = numeric_settings()[key]
        kind = option.kind
        if in_requests := setting_of(option).http_range:
            kind = Annotated[(option.type, *in_requests)]
        given[key] = typed(value, kind, key, f"{name}: ")
    SamplingParams(**given)
    return given
