"""What a server can be told, by flags or by a file, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import signal
import tomllib
from pathlib import Path
from typing import Any

import pytest
from support.command import cli, refused

import mtad
from mtad.cli import serve as command
from mtad.cli.serve import ServeFlags, settings_of
from mtad.server.api.service import served_name
from mtad.server.http.keys import VARIABLE, Keys, read_keys
from mtad.server.settings import SECTIONS, ServerSettings, read_settings
from mtad.server.values import is_loopback

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServerSettings]:
    """What `mtad serve` would have served; nothing is loaded."""
    found: list[ServerSettings] = []
    monkeypatch.setattr(command, "run", lambda flags: found.append(settings_of(flags)))
    return found


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mtad.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_hangup_during_the_imports_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[ServerSettings] = []

    def importing(flags: ServeFlags) -> Any:
        os.kill(os.getpid(), signal.SIGHUP)
        return served.append

    monkeypatch.setattr(command, "_server_of", importing)
    before = signal.signal(signal.SIGHUP, lambda *_: pytest.fail("the signal came through"))
    try:
        assert cli("serve").exit_code == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert served == [ServerSettings()]


def test_without_flags_every_setting_has_its_default(served: list[ServerSettings]) -> None:
    assert cli("serve").exit_code == 0
    assert served == [ServerSettings()]


def test_the_fixed_defaults() -> None:
    settings = ServerSettings()
    assert (settings.host, settings.port, settings.is_local) == ("127.0.0.1", 8000, True)
    assert settings.cors_origins == () and settings.api_key_file is None
    assert not settings.log_prompts
    assert settings.method == mtad.MTAD()


def test_every_setting_can_be_set_by_a_flag_and_by_the_file() -> None:
    names = {field.name for field in dataclasses.fields(ServerSettings)}
    in_file = [name for section in SECTIONS.values() for name in section]
    assert sorted([*in_file, "method"]) == sorted(names)
    flags = {field.name for field in dataclasses.fields(ServeFlags)}
    assert names <= flags


def test_flags(served: list[ServerSettings], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("me:0123456789\n")
    words = (
        "--host 0.0.0.0 --port 0 --cors-origin https://a.example --cors-origin http://b.example:81 "
        "--allowed-host c.example --max-n 3 --max-prompt-tokens 100 --cache-slots 5000 "
        "--timeout-s 5 --log-format text --no-playground --no-metrics --no-allow-trace "
        "--log-prompts --served-model-name both --device cpu --dtype float32 "
        "--method speculative_sampling --num-draft-tokens 3 --shutdown-s 0 "
        "--allowed-method speculative_sampling --allowed-method mtad"
    ).split()
    cli("serve", *words, "--api-key-file", str(keys))
    assert served == [
        ServerSettings(
            host="0.0.0.0",
            port=0,
            api_key_file=keys,
            cors_origins=("https://a.example", "http://b.example:81"),
            allowed_hosts=("c.example",),
            max_n=3,
            max_prompt_tokens=100,
            cache_slots=5000,
            timeout_s=5.0,
            log_format="text",
            playground=False,
            metrics=False,
            allow_trace=False,
            log_prompts=True,
            served_model_name="both",
            device="cpu",
            dtype="float32",
            method=mtad.SpeculativeSampling(num_draft_tokens=3),
            shutdown_s=0.0,
            allowed_methods=("speculative_sampling", "mtad"),
        )
    ]
    assert not served[0].is_local


FILE = """
[server]
port = 9000
cors_origins = ["https://a.example"]
trace = "t.jsonl"
shutdown_s = 5
log_prompts = true
[limits]
max_n = 2
[models]
device = "cpu"
[method]
name = "mmtad"
num_draft_tokens = 2
accept_threshold = 0.25
"""


def test_the_file(served: list[ServerSettings], tmp_path: Path) -> None:
    cli("serve", "--config", str(written(tmp_path, FILE)))
    wanted = ServerSettings(
        port=9000,
        cors_origins=("https://a.example",),
        trace=Path("t.jsonl"),
        shutdown_s=5.0,
        log_prompts=True,
        max_n=2,
        device="cpu",
        method=mtad.MMTAD(num_draft_tokens=2, accept_threshold=0.25),
    )
    assert served == [wanted]
    assert ServerSettings(**read_settings(tmp_path / "mtad.toml")) == wanted


def test_flags_win_over_the_file(served: list[ServerSettings], tmp_path: Path) -> None:
    flags = ("--port", "1234", "--accept-threshold", "0.75", "--no-log-prompts", "--max-n", "4")
    cli("serve", "--config", str(written(tmp_path, FILE)), *flags)
    [settings] = served
    assert (settings.port, settings.max_n, settings.log_prompts) == (1234, 4, False)
    assert settings.method == mtad.MMTAD(num_draft_tokens=2, accept_threshold=0.75)
    assert settings.device == "cpu"


def test_another_method_drops_the_options_of_the_files(
    served: list[ServerSettings], tmp_path: Path
) -> None:
    cli("serve", "--config", str(written(tmp_path, FILE)), "--method", "mtad")
    assert served[0].method == mtad.MTAD()


def test_options_that_are_lists_and_infinite_come_through(
    served: list[ServerSettings], tmp_path: Path
) -> None:
    text = '[method]\nname = "specinfer"\nk_config = [3, 1]\n'
    cli("serve", "--config", str(written(tmp_path, text)))
    cli("serve", "--config", str(written(tmp_path, '[method]\nname="mtad"\naccept_threshold=inf')))
    assert served[0].method == mtad.SpecInfer(k_config=(3, 1))
    assert served[1].method == mtad.MTAD(accept_threshold=math.inf)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[servers]\n",
            "unknown section 'servers' (did you mean 'server'?); known ones: limits",
        ),
        ("port = 1\n", "unknown section 'port'"),
        ("server = 1\n", "server is 1; it must be a table"),
        (
            "[server]\nprot = 1\n",
            "unknown key of [server] 'prot' (did you mean 'port'?); known ones",
        ),
        (
            "[server]\nmax_n = 1\n",
            "unknown key of [server] 'max_n' (it belongs to [limits]); known",
        ),
        ("[limits]\nmax_n = true\n", "max_n is True; it must be an integer"),
        ('[limits]\nmax_n = "2"\n', "max_n is '2'; it must be an integer"),
        ("[server]\ntrace = 3\n", "trace is 3; it must be a text"),
        ('[server]\nlog_format = "xml"\n', "log_format is 'xml'; it must be json or text"),
        (
            '[server]\ncors_origins = "x"\n',
            "cors_origins is 'x'; it must be a list of origins such as",
        ),
        ('[server]\ncors_origins = ["*"]\n', "cors_origins is ['*']; it must be a list of origins"),
        ("[server]\nport = 70000\n", "port is 70000; it must be an integer from 0 to 65535"),
        ("[method]\nnum_draft_tokens = 2\n", "[method] name is None"),
        ('[method]\nname = "mtda"\n', "there is no method 'mtda'"),
        ('[method]\nname = "mtad"\nwidth = 2\n', "mtad has no option 'width'"),
        ('[method]\nname = "mtad"\nbeam_width = 0\n', "beam_width is 0"),
        ("[server\n", "is not TOML"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        read_settings(written(tmp_path, text))
    assert words.split(";")[0] in refused("serve", "--config", str(tmp_path / "mtad.toml"))


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be read: No such file"):
        read_settings(tmp_path / "none.toml")


IMPOSSIBLE: list[dict[str, Any]] = [
    {"host": ""},
    {"port": -1},
    {"port": 65536},
    {"cors_origins": ("*",)},
    {"cors_origins": ("example.org",)},
    {"cors_origins": ("https://example.org/",)},
    {"cors_origins": ("https://a@example.org",)},
    {"cors_origins": ("https://EXAMPLE.org",)},
    {"cors_origins": ("https://example.org:99999",)},
    {"cors_origins": ("null",)},
    {"allowed_hosts": ("*",)},
    {"allowed_hosts": ("http://example.org",)},
    {"allowed_hosts": ("example.org:80",)},
    {"allowed_hosts": ("",)},
    {"served_model_name": " "},
    {"served_model_name": "a\nb"},
    {"dtype": "int8"},
    {"draft_dtype": "int8"},
    *({name: 0} for name in ("max_n", "max_queue", "max_rows", "max_nodes", "max_new_tokens")),
    *({name: 0} for name in ("max_body_bytes", "max_header_bytes", "max_prompt_tokens")),
    *({name: -1} for name in ("max_concurrent_per_key", "cache_slots")),
    *({name: 0.0} for name in ("body_timeout_s", "timeout_s", "max_timeout_s")),
    {"body_timeout_s": math.inf},
    {"timeout_s": math.nan},
    {"timeout_s": 7200.0},
    {"shutdown_s": -1.0},
]


@pytest.mark.parametrize("given", IMPOSSIBLE, ids=str)
def test_impossible_values_are_refused_by_name(given: dict[str, Any]) -> None:
    [(name, value)] = given.items()
    with pytest.raises(ValueError, match=re.escape(f"{name} is {value!r}; it must be ")):
        ServerSettings(**given)


def test_settings_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="draft_model needs target_model"):
        ServerSettings(draft_model="x")
    with pytest.raises(ValueError, match="draft_device needs draft_model"):
        ServerSettings(target_model="x", draft_device="cpu")
    with pytest.raises(ValueError, match="must hold the default method, mtad"):
        ServerSettings(allowed_methods=("bild",))
    with pytest.raises(ValueError, match="there is no method 'bald'"):
        ServerSettings(allowed_methods=("mtad", "bald"))
    ServerSettings(allowed_methods=("MTAD", "typical-acceptance"))


def test_flags_are_refused_as_the_file_is() -> None:
    assert "max_n is 0; it must be an integer >= 1" in refused("serve", "--max-n", "0")
    assert "cors_origins is ['*']" in refused("serve", "--cors-origin", "*")
    assert "-o width=3: mtad has no option 'width'" in refused("serve", "-o", "width=3")


def test_possible_values_at_the_edges() -> None:
    ServerSettings(port=65535, shutdown_s=0.0, timeout_s=3600.0, max_n=1)
    ServerSettings(allowed_hosts=("::1", "10.0.0.1", "a-b.example"), cors_origins=("http://[::1]",))


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org", False),
    ],
)
def test_what_is_this_machine_alone(host: str, local: bool) -> None:
    assert is_loopback(host) is local


def test_the_example_file_shows_the_defaults() -> None:
    path = DEPLOY / "mtad.toml"
    assert ServerSettings(**read_settings(path)) == ServerSettings()
    shown = tomllib.loads(re.sub(r"(?m)^# (?=[a-z_]+ = )", "", path.read_text()))
    for section, names in SECTIONS.items():
        of_draft = {"draft_dtype", "draft_device"}
        assert shown[section].keys() == set(names) - of_draft
    read_settings(path)


def test_the_unit_waits_longer_than_the_server() -> None:
    unit = (DEPLOY / "mtad.service").read_text()
    [wait] = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(wait) > ServerSettings().shutdown_s + 5
    for line in ("DynamicUser=yes", "ProtectSystem=strict", "Restart=on-failure"):
        assert f"\n{line}\n" in unit
    [words] = re.findall(r"^ExecStart=\S+/mtad serve (.*)$", unit, re.MULTILINE)
    assert set(re.findall(r"--[a-z-]+", words)) == {"--config", "--api-key-file"}


def test_the_container_is_not_root_and_is_asked_for_its_health() -> None:
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    assert lines.index("USER 10001") < lines.index('ENTRYPOINT ["mtad", "serve"]')
    assert any(line.startswith("HEALTHCHECK") for line in lines)


def test_keys_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\n\nme:secret-one\n  plain-key-2  \nme:schlüssel-drei\n")
    path.chmod(0o600)
    keys = read_keys(path, {})
    assert keys.owner(b"secret-one") == "me"
    assert keys.owner(b"plain-key-2") == "key-2"
    assert keys.owner("schlüssel-drei".encode()) == "me"
    for wrong in (b"", b"Secret-one", b"secret-on", b"secret-one ", b"me:secret-one", b"\xff\xfe"):
        assert keys.owner(wrong) is None
    assert keys.warnings == () and "secret" not in repr(keys)


def test_keys_of_file_and_environment_count_together(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("of-the-file\n")
    path.chmod(0o644)
    keys = read_keys(path, {VARIABLE: "me:of-the-environment, another-one"})
    names = [keys.owner(k) for k in (b"of-the-environment", b"another-one", b"of-the-file")]
    assert names == ["me", "key-2", "key-3"]
    [warning] = keys.warnings
    assert f"chmod 600 {path}" in warning


def test_without_any_key() -> None:
    assert not read_keys(None, {})
    assert not Keys()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no key"),
        ("# only this\n", "holds no key"),
        ("short\n", "line 1: a key has 8 characters"),
        ("a key with spaces\n", "line 1: a key has 8 characters or more and no white space"),
        ("ok-key-ok-key\n\nbad name:0123456789\n", "line 3: the name before the colon"),
        (":0123456789\n", "line 1: the name before the colon"),
        ("a:0123456789\nb:0123456789\n", "line 2: this key is there twice"),
    ],
)
def test_key_files_that_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        read_keys(path, {})
    assert "0123456789" not in str(caught.value)


def test_key_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_keys(tmp_path / "none", {})
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_keys(tmp_path / "bytes", {})
    with pytest.raises(ValueError, match=f"{VARIABLE} is set and holds no key"):
        read_keys(None, {VARIABLE: " , "})


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bytes, bytes]] = []

    def compare(known: bytes, given: bytes) -> bool:
        seen.append((known, given))
        return known == given

    monkeypatch.setattr("mtad.server.http.keys.hmac.compare_digest", compare)
    keys = Keys({b"first-key": "a", b"second-key": "b", b"third-key": "c"})
    assert keys.owner(b"first-key") == "a"
    assert [known for known, _ in seen] == [b"first-key", b"second-key", b"third-key"]


def test_a_gguf_file_is_served_under_its_name(tmp_path: Path) -> None:
    file = tmp_path / "SmolLM2.Q4_1.gguf"
    file.write_bytes(b"")
    assert served_name(ServerSettings(target_model=str(file))) == "SmolLM2.Q4_1"
    assert served_name(ServerSettings(target_model=str(tmp_path))) == tmp_path.name
    assert served_name(ServerSettings(target_model="some/model")) == "some/model"
