"""What a server is told once, when it starts: one frozen dataclass, from flags or one TOML file.

Knows no HTTP, no model and no command line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from mtad import methods
from mtad.api.options import from_toml
from mtad.core.options import option_types, typed
from mtad.methods.mtad import MTAD
from mtad.model.loading import DTYPES
from mtad.speculative.method import Method

LogFormat = Literal["json", "text"]


@dataclass(frozen=True)
class ServerSettings:
    """Everything that a server can be told.

    Attributes:
        host, port: where it listens; port 0 takes a free one.
        api_key_file: keys, one per line, `name:key` or `key`; see `mtad.server.http.keys`.
        cors_origins: web pages of these origins may use the server.
        allowed_hosts: host names that requests may name, beyond the server's own.
        served_model_name: what clients call the model; None for the target's name.
        playground, metrics: whether the page at `/` and `/metrics` are there.
        shutdown_s: seconds that running requests have to finish after the first signal.
        log_format: one line per request, as JSON or for people.
        log_prompts: whether prompts and outputs are in the logs.
        trace: a file that gets every iteration of every request.
        allow_trace: whether a request may ask for its own trace.
        max_body_bytes, max_header_bytes: of one request.
        body_timeout_s: seconds in which the body of a request has to arrive.
        max_prompt_tokens: None for as many as the models can read.
        max_n: choices of one request.
        max_new_tokens: of one choice; also the budget of a request that names none.
        max_concurrent_per_key: requests of one client at a time; None for no limit.
        max_queue: texts that wait.
        max_rows: texts decoded at once.
        cache_slots: tokens that the caches may come to hold; None to take what `max_rows` needs.
        timeout_s: seconds of a request that names no time.
        max_timeout_s: seconds that a request may ask for.
        max_nodes: largest token tree of a request.
        allowed_methods: names of the methods that requests may use; empty for all.
        target_model, draft_model: folders or hub names; without a target, the embedded pair.
        dtype, draft_dtype, device, draft_device, device_map, trust_vocabulary: as for
            `mtad.load_models`.
        method: of requests that name none.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key_file: Path | None = None
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    served_model_name: str | None = None
    playground: bool = True
    metrics: bool = True
    shutdown_s: float = 30.0
    log_format: LogFormat = "json"
    log_prompts: bool = False
    trace: Path | None = None
    allow_trace: bool = True

    max_body_bytes: int = 1_000_000
    max_header_bytes: int = 16_384
    body_timeout_s: float = 10.0
    max_prompt_tokens: int | None = None
    max_n: int = 8
    max_new_tokens: int = 1024
    max_concurrent_per_key: int | None = None
    max_queue: int = 256
    max_rows: int = 32
    cache_slots: int | None = None
    timeout_s: float = 600.0
    max_timeout_s: float = 3600.0
    max_nodes: int = 512
    allowed_methods: tuple[str, ...] = ()

    target_model: str | None = None
    draft_model: str | None = None
    dtype: str = "auto"
    draft_dtype: str | None = None
    device: str = "auto"
    draft_device: str | None = None
    device_map: str | None = None
    trust_vocabulary: bool = False

    method: Method = field(default_factory=MTAD)

    def __post_init__(self) -> None:
        """Refuse impossible values, naming them."""
        for name, fine, allowed in self._rules():
            if not fine:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {allowed}")
        if self.draft_model and not self.target_model:
            raise ValueError("draft_model needs target_model")
        for name in ("draft_dtype", "draft_device"):
            if getattr(self, name) is not None and self.target_model and not self.draft_model:
                raise ValueError(f"{name} needs draft_model")
        for name in self.allowed_methods:
            methods.find(name)
        if self.allowed_methods and self.method.name not in self.allowed_methods:
            raise ValueError(
                f"allowed_methods is {', '.join(self.allowed_methods)}; it must hold the default "
                f"method, {self.method.name}"
            )

    def _rules(self) -> Iterator[tuple[str, bool, str]]:
        """Name of a setting, whether its value is possible, and what is."""
        yield "host", bool(self.host) and not self.host.isspace(), "a host name or an address"
        yield "port", 0 <= self.port <= 65535, "from 0 (a free one) to 65535"
        yield "cors_origins", all(map(_is_origin, self.cors_origins)), _ORIGINS
        yield "allowed_hosts", all(map(_is_host, self.allowed_hosts)), _HOSTS
        name = self.served_model_name
        printable = name is None or (bool(name.strip()) and name.isprintable())
        yield "served_model_name", printable, "a text in one line"
        yield "log_format", self.log_format in ("json", "text"), "json or text"
        for text in ("dtype", "draft_dtype"):
            value = getattr(self, text)
            yield text, value is None or value in DTYPES, f"one of {', '.join(DTYPES)}"
        for count in _COUNTS:
            value = getattr(self, count)
            yield count, value is None or value >= 1, "an integer >= 1"
        for seconds in ("body_timeout_s", "timeout_s", "max_timeout_s"):
            yield seconds, 0 < getattr(self, seconds) < math.inf, "a finite number > 0"
        yield "shutdown_s", 0 <= self.shutdown_s < math.inf, "a finite number >= 0"
        fits = self.timeout_s <= self.max_timeout_s
        yield "timeout_s", fits, f"at most max_timeout_s, {self.max_timeout_s:g}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    @property
    def placement(self) -> dict[str, Any]:
        """Options of `load_models`."""
        names = ("dtype", "draft_dtype", "device", "draft_device", "device_map", "trust_vocabulary")
        return {name: getattr(self, name) for name in names}


_COUNTS = (
    "max_body_bytes",
    "max_header_bytes",
    "max_prompt_tokens",
    "max_n",
    "max_new_tokens",
    "max_concurrent_per_key",
    "max_queue",
    "max_rows",
    "cache_slots",
    "max_nodes",
)
_ORIGINS = "origins such as https://example.org, without a path; * is not taken"
_HOSTS = "host names or addresses without scheme and port, such as example.org"


def is_loopback(host: str) -> bool:
    """Whether a host name or an address means this machine alone."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


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


SECTIONS: Mapping[str, str] = {
    "server": "host port api_key_file cors_origins allowed_hosts served_model_name playground "
    "metrics shutdown_s log_format log_prompts trace allow_trace",
    "limits": "max_body_bytes max_header_bytes body_timeout_s max_prompt_tokens max_n "
    "max_new_tokens max_concurrent_per_key max_queue max_rows cache_slots timeout_s "
    "max_timeout_s max_nodes allowed_methods",
    "models": "target_model draft_model dtype draft_dtype device draft_device device_map "
    "trust_vocabulary",
}
"""Where each setting stands in a file; [method] has the method's name and its options."""


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, by name: those that it has, as `ServerSettings` takes them.

    Raises:
        ValueError: it is missing or no TOML, or has an unknown key or a value of a wrong type.
    """
    return from_toml(path, _settings)


def _settings(table: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for section, values in table.items():
        if section not in (*SECTIONS, "method"):
            known = ", ".join((*SECTIONS, "method"))
            raise ValueError(f"unknown section {section!r}; known ones: {known}")
        if not isinstance(values, dict):
            raise ValueError(f"{section} is {values!r}; it must be a table, [{section}]")
        found |= {"method": _method(values)} if section == "method" else _section(section, values)
    return found


def _section(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    kinds, known = option_types(ServerSettings), SECTIONS[section].split()
    for name in values:
        if name not in known:
            home = next((s for s, names in SECTIONS.items() if name in names.split()), None)
            hint = f" (it belongs to [{home}])" if home else ""
            raise ValueError(
                f"[{section}] has no {name!r}{hint}; known keys: {', '.join(sorted(known))}"
            )
    return {name: _value(value, kinds[name], name) for name, value in values.items()}


def _value(value: Any, kind: Any, name: str) -> Any:
    if kind == Path | None:
        return Path(typed(value, str, name))
    return typed(value, kind, name)


def _method(values: Mapping[str, Any]) -> Method:
    options = dict(values)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f'[method] name is {name!r}; it must be a name, such as name = "mtad"')
    return methods.make(name, options)
