"""The settings of a server, fixed when it starts: one dataclass, from flags or one TOML file.

Knows no HTTP, no model and no command line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Le

from mtad.core.options import Count, Doc, Finite, notes
from mtad.core.schema import Option, check_fields, options_of
from mtad.core.toml import from_toml
from mtad.errors import OptionError

if TYPE_CHECKING:
    from mtad.speculative.method import Method
else:
    Method = Any  # `mtad --help` reads the settings, and imports no method


@dataclass(frozen=True)
class Key(Doc):
    """Where a setting stands in the file and on the command line.

    Attributes:
        section: of the file.
        flag: name of the flag, if not the setting's: that of one entry of a list.
        metavar: what a value of the flag looks like.
    """

    section: str = ""
    flag: str = ""
    metavar: str = ""


_server = partial(Key, section="server")
_limits = partial(Key, section="limits")
_models = partial(Key, section="models")
LogFormat = Literal["json", "text"]
Seconds = Annotated[Finite, Gt(0)]


def _first_method() -> Method:
    from mtad.methods.mtad import MTAD

    return MTAD()


@dataclass(frozen=True)
class ServerSettings:
    """All settings of a server: its flags, the keys of its file, and their defaults."""

    host: Annotated[str, _server("Where to listen; 0.0.0.0 for every network.")] = "127.0.0.1"
    port: Annotated[int, Ge(0), Le(65535), _server("0 takes a free one.")] = 8000
    api_key_file: Annotated[
        Path | None,
        _server("One name:key or key per line. Keys may also be in MTAD_API_KEYS, with commas."),
    ] = None
    served_model_name: Annotated[
        str | None, _server("What clients call the model; without it the target's name.")
    ] = None
    cors_origins: Annotated[
        tuple[str, ...],
        _server(
            "Web pages of this origin may ask; may be repeated.", flag="cors_origin", metavar="URL"
        ),
    ] = ()
    allowed_hosts: Annotated[
        tuple[str, ...],
        _server(
            "A host name that requests may use; may be repeated.",
            flag="allowed_host",
            metavar="NAME",
        ),
    ] = ()
    playground: Annotated[bool, _server("Serve the page at /.")] = True
    metrics: Annotated[bool, _server("Serve Prometheus' metrics at /metrics.")] = True
    shutdown_s: Annotated[
        Finite,
        Ge(0),
        _server("Time to finish requests after the first signal.", metavar="SECONDS"),
    ] = 30.0
    log_format: Annotated[LogFormat, _server("Of the line that each request gets on stderr.")] = (
        "json"
    )
    log_prompts: Annotated[bool, _server("Log prompts and outputs too.")] = False
    trace: Annotated[Path | None, _server("JSON lines: every iteration of every request.")] = None
    allow_trace: Annotated[bool, _server("Requests may ask for their own trace.")] = True

    max_rows: Annotated[Count, _limits("Texts decoded at once.")] = 32
    cache_slots: Annotated[
        Count | None, _limits("Tokens in the caches; without it what --max-rows needs.")
    ] = None
    max_queue: Annotated[Count, _limits("Texts that wait; beyond it the answer is 429.")] = 256
    max_concurrent_per_key: Annotated[Count | None, _limits("Requests of one key.")] = None
    max_n: Annotated[Count, _limits("Choices of one request.")] = 8
    max_prompt_tokens: Annotated[Count | None, _limits("Of one prompt.")] = None
    max_new_tokens: Annotated[
        Count, _limits("Of one choice, and the budget of requests that name none.")
    ] = 1024
    max_nodes: Annotated[Count, _limits("Nodes of a request's token tree.")] = 512
    allowed_methods: Annotated[
        tuple[str, ...],
        _limits(
            "A method that requests may use; may be repeated.",
            flag="allowed_method",
            metavar="NAME",
        ),
    ] = ()
    max_body_bytes: Annotated[Count, _limits("Of one request.")] = 1_000_000
    max_header_bytes: Annotated[Count, _limits("Of address and headers together.")] = 16_384
    body_timeout_s: Annotated[
        Seconds, _limits("For the body of a request to arrive.", metavar="SECONDS")
    ] = 10.0
    timeout_s: Annotated[
        Seconds, _limits("Of a request that names no time.", metavar="SECONDS")
    ] = 600.0
    max_timeout_s: Annotated[Seconds, _limits("That a request may ask for.", metavar="SECONDS")] = (
        3600.0
    )

    target_model: Annotated[str | None, _models()] = None
    draft_model: Annotated[str | None, _models()] = None
    dtype: Annotated[str, _models()] = "auto"
    draft_dtype: Annotated[str | None, _models()] = None
    device: Annotated[str, _models()] = "auto"
    draft_device: Annotated[str | None, _models()] = None
    device_map: Annotated[str | None, _models()] = None
    trust_vocabulary: Annotated[bool, _models()] = False

    method: Method = field(default_factory=_first_method)

    def __post_init__(self) -> None:
        """Refuse impossible values, naming them."""
        from mtad import methods

        check_fields(self)
        for name, fine, allowed in self._rules():
            if not fine:
                raise OptionError(f"{name} is {getattr(self, name)!r}; it must be {allowed}", name)
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
        from mtad.model.loading import DTYPES

        yield "host", bool(self.host) and not self.host.isspace(), "a host name or an address"
        yield "cors_origins", all(map(_is_origin, self.cors_origins)), _ORIGINS
        yield "allowed_hosts", all(map(_is_host, self.allowed_hosts)), _HOSTS
        name = self.served_model_name
        printable = name is None or (bool(name.strip()) and name.isprintable())
        yield "served_model_name", printable, "a text in one line"
        for text in ("dtype", "draft_dtype"):
            value = getattr(self, text)
            yield text, value is None or value in DTYPES, f"one of {', '.join(DTYPES)}"
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


def keys_of(section: str) -> dict[str, Option]:
    """The settings of a section of the file."""
    return {
        name: o for name, o in options_of(ServerSettings).items() if key_of(o).section == section
    }


def key_of(option: Option) -> Key:
    """Where a setting stands."""
    return next((note for note in notes(option.kind) if isinstance(note, Key)), Key())


SECTIONS = {section: tuple(keys_of(section)) for section in ("server", "limits", "models")}
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
    known = keys_of(section)
    for name in values:
        if name not in known:
            home = next((s for s, names in SECTIONS.items() if name in names), None)
            hint = f" (it belongs to [{home}])" if home else ""
            names = ", ".join(sorted(known))
            raise OptionError(f"[{section}] has no {name!r}{hint}; known keys: {names}", name)
    return {name: known[name].typed(value) for name, value in values.items()}


def _method(values: Mapping[str, Any]) -> Method:
    from mtad import methods

    options = dict(values)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f'[method] name is {name!r}; it must be a name, such as name = "mtad"')
    return methods.make(name, options)
