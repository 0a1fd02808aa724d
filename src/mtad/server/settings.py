"""The settings of a server, fixed when it starts: one dataclass, from flags or one TOML file.

Knows no HTTP, no model and no command line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le

from mtad.core.options import Count, Doc, Finite
from mtad.core.schema import check_fields, options_of, require_known
from mtad.core.toml import from_toml, require_table
from mtad.errors import OptionError
from mtad.model.settings import ModelSettings
from mtad.server.values import (
    Host,
    Line,
    LogFormat,
    Origin,
    Prefix,
    ReasoningParser,
    Seconds,
    ToolCallParser,
    Url,
    is_loopback,
    sampling_of,
)

if TYPE_CHECKING:
    from mtad.speculative.method import Method
else:
    Method = Any  # `mtad --help` reads the settings, and imports no method


def _first_method() -> Method:
    from mtad.methods.mtad import MTAD

    return MTAD()


@dataclass(frozen=True)
class ServerKeys:
    """Where the server listens, what it offers and what it writes down."""

    host: Annotated[
        Line,
        Doc("Where to listen; 0.0.0.0 for every network.", allowed="a host name or an address"),
    ] = "127.0.0.1"
    port: Annotated[int, Ge(0), Le(65535), Doc("0 takes a free one.")] = 8000
    uds: Annotated[
        Path | None,
        Doc("Listen on this Unix socket instead; for its owner and group.", metavar="PATH"),
    ] = None
    root_path: Annotated[
        Prefix | None,
        Doc(
            "Prefix of paths that a proxy in front takes away, such as /llm.",
            allowed="a path such as /llm, without a slash at its end",
            metavar="PATH",
        ),
    ] = None
    ssl_certfile: Annotated[
        Path | None,
        Doc("Speak HTTPS: a PEM file with the certificate and those that it rests on."),
    ] = None
    ssl_keyfile: Annotated[Path | None, Doc("The certificate's key, in PEM, unencrypted.")] = None
    api_key_file: Annotated[
        Path | None,
        Doc("One name:key or key per line. Keys may also be in MTAD_API_KEYS, with commas."),
    ] = None
    served_model_name: Annotated[
        Line | tuple[Line, ...],
        Doc(
            "What clients call the model; may be repeated, answers have the first. Without it "
            "the target's name.",
            allowed="a text in one line, or a list of such",
        ),
    ] = ()
    chat_template: Annotated[
        str | None,
        Doc("A Jinja file, or the template itself; instead of the tokenizer's.", metavar="FILE"),
    ] = None
    override_generation_config: Annotated[
        str | None,
        Doc("Sampling settings of requests that do not give them.", metavar="JSON"),
    ] = None
    cors_origins: Annotated[
        tuple[Origin, ...],
        Doc(
            "Web pages of this origin may ask; may be repeated.",
            allowed="a list of origins such as https://example.org, without a path; * is not taken",
            flag="--cors-origin",
            metavar="URL",
        ),
    ] = ()
    allowed_hosts: Annotated[
        tuple[Host, ...],
        Doc(
            "A host name that requests may use; may be repeated.",
            allowed="a list of host names or addresses without scheme and port, such as a.example",
            flag="--allowed-host",
            metavar="NAME",
        ),
    ] = ()
    tool_call_parser: ToolCallParser = "auto"
    reasoning_parser: ReasoningParser = "auto"
    playground: Annotated[bool, Doc("Serve the page at /.")] = True
    metrics: Annotated[bool, Doc("Serve Prometheus' metrics at /metrics.")] = True
    guard: Annotated[
        bool,
        Doc(
            "Draft fewer tokens where that is faster, or none, for requests whose text keeps its "
            "distribution and what a given seed yields."
        ),
    ] = True
    shutdown_s: Annotated[
        Finite,
        Ge(0),
        Doc("Time to finish requests after the first signal.", metavar="SECONDS"),
    ] = 30.0
    log_format: Annotated[LogFormat, Doc("Of the line that each request gets.")] = "json"
    log_file: Annotated[Path | None, Doc("Where the log goes; without it to stderr.")] = None
    log_prompts: Annotated[bool, Doc("Log prompts and outputs too.")] = False
    trace: Annotated[Path | None, Doc("JSON lines: every iteration of every request.")] = None
    otlp_traces_endpoint: Annotated[
        Url | None,
        Doc(
            "OpenTelemetry's collector, which gets a span per request.",
            allowed="a URL, such as http://localhost:4318/v1/traces",
            metavar="URL",
        ),
    ] = None
    allow_trace: Annotated[bool, Doc("Requests may ask for their own trace.")] = True


@dataclass(frozen=True)
class LimitKeys:
    """What requests may ask for."""

    max_rows: Annotated[Count, Doc("Texts decoded at once.")] = 32
    cache_slots: Annotated[
        Count | None, Doc("Tokens in the caches; without it what --max-rows needs.")
    ] = None
    prefix_cache_mib: Annotated[
        Annotated[int, Ge(0)] | None,
        Doc(
            "Memory for what prompts that begin alike share; 0: none. Without it 512, with an int8 "
            "target 0."
        ),
    ] = None
    max_model_len: Annotated[
        Count | None,
        Doc("Of prompt and new tokens together; without it the models' context."),
    ] = None
    max_queue: Annotated[Count, Doc("Texts that wait; beyond it the answer is 429.")] = 256
    max_concurrent_per_key: Annotated[Count | None, Doc("Requests of one key.")] = None
    max_stored_responses: Annotated[
        int,
        Ge(0),
        Doc("Of /v1/responses, kept for previous_response_id within 64 MiB; 0: none."),
    ] = 1000
    max_n: Annotated[Count, Doc("Choices of one request.")] = 8
    max_prompt_tokens: Annotated[Count | None, Doc("Of one prompt.")] = None
    max_new_tokens: Annotated[
        Count | None,
        Doc(
            "Of one choice, and the budget of requests that name none; without it what the "
            "models' context leaves."
        ),
    ] = None
    max_nodes: Annotated[Count, Doc("Nodes of a request's token tree.")] = 512
    max_grammar_chars: Annotated[
        Count, Doc("Of a JSON schema, or of those of all tools together.")
    ] = 262_144
    max_mask_effort: Annotated[
        Count,
        Doc(
            "Of a grammar to say which tokens may follow, in steps of its lexer; 14,000 take about "
            "a millisecond."
        ),
    ] = 50_000
    allowed_methods: Annotated[
        tuple[str, ...],
        Doc(
            "A method that requests may use; may be repeated.",
            flag="--allowed-method",
            metavar="NAME",
        ),
    ] = ()
    max_body_bytes: Annotated[Count, Doc("Of one request.")] = 1_000_000
    max_header_bytes: Annotated[Count, Doc("Of address and headers together.")] = 16_384
    header_timeout_s: Annotated[
        Seconds, Doc("For address and headers of a request to arrive.", metavar="SECONDS")
    ] = 10.0
    body_timeout_s: Annotated[
        Seconds, Doc("For the body of a request to arrive.", metavar="SECONDS")
    ] = 10.0
    timeout_s: Annotated[Seconds, Doc("Of a request that names no time.", metavar="SECONDS")] = (
        600.0
    )
    max_timeout_s: Annotated[Seconds, Doc("That a request may ask for.", metavar="SECONDS")] = (
        3600.0
    )


@dataclass(frozen=True)
class ServerSettings(ModelSettings, LimitKeys, ServerKeys):
    """All settings of a server: its flags, the keys of its file, and their defaults."""

    method: Method = field(default_factory=_first_method)

    def __post_init__(self) -> None:
        """Refuse impossible values, naming them."""
        from mtad import methods

        check_fields(self)
        if isinstance(self.served_model_name, str):
            object.__setattr__(self, "served_model_name", (self.served_model_name,))
        if self.timeout_s > self.max_timeout_s:
            allowed = f"at most max_timeout_s, {self.max_timeout_s:g}"
            raise OptionError(f"timeout_s is {self.timeout_s!r}; it must be {allowed}", "timeout_s")
        self.require_one_pair()
        for name, needed in self.missing():
            raise ValueError(f"{name} needs {needed}")
        self._check_place()
        budget, most = self.sampling.get("max_new_tokens"), self.max_new_tokens
        if budget is not None and most is not None and budget > most:
            raise ValueError(
                f"override_generation_config: max_new_tokens is {budget}; it must be at most the "
                f"server's max_new_tokens, {most}"
            )
        names = {methods.find(name).name for name in self.allowed_methods}
        if names and self.method.name not in names:
            raise ValueError(
                f"allowed_methods is {', '.join(self.allowed_methods)}; it must hold the default "
                f"method, {self.method.name}"
            )

    def missing(self) -> Iterator[tuple[str, str]]:
        """Names of a setting and of one that it needs, and that was not given."""
        yield from super().missing()
        for name, other in (("ssl_certfile", "ssl_keyfile"), ("ssl_keyfile", "ssl_certfile")):
            if getattr(self, name) is not None and getattr(self, other) is None:
                yield name, other

    def _check_place(self) -> None:
        """Refuse an address beside a Unix socket: the server listens in one place."""
        for name in ("host", "port"):
            default = ServerKeys.__dataclass_fields__[name].default
            if self.uds is not None and getattr(self, name) != default:
                raise ValueError(
                    f"uds is {str(self.uds)!r} and {name} is {getattr(self, name)!r}; the server "
                    "listens in one place: leave one of them out"
                )

    @property
    def sampling(self) -> dict[str, Any]:
        """The sampling settings of requests that do not give them, as `SamplingParams` has them."""
        return sampling_of(self.override_generation_config, "override_generation_config")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.uds is not None or is_loopback(self.host)


SECTIONS = {
    "server": options_of(ServerKeys),
    "limits": options_of(LimitKeys),
    "models": options_of(ModelSettings),
}
"""The keys of each table of the file; [method] has the method's name and its options."""


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, by name: those that it has, as `ServerSettings` takes them.

    Raises:
        ValueError: it is missing or no TOML, or has an unknown key or an impossible value.
    """
    return from_toml(path, _settings)


def _settings(tables: Mapping[str, Any]) -> dict[str, Any]:
    require_known(tables, (*SECTIONS, "method"), "section")
    homes = {
        name: f"it belongs to [{section}]" for section, keys in SECTIONS.items() for name in keys
    }
    found: dict[str, Any] = {}
    for section, value in tables.items():
        table, known = require_table(value, section), SECTIONS.get(section)
        if known is None:
            found["method"] = _method(table)
        else:
            require_known(table, known, f"key of [{section}]", homes)
            found |= {name: known[name].typed(value) for name, value in table.items()}
    if isinstance(name := found.get("served_model_name"), str):
        found["served_model_name"] = (name,)  # as the flag's values are
    return found


def _method(table: Mapping[str, Any]) -> Method:
    from mtad import methods

    options = dict(table)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f'[method] name is {name!r}; it must be a name, such as name = "mtad"')
    return methods.make(name, options)
