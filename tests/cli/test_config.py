"""`method_from`, configuration files, and `mtad generate --config`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from support.command import MODELS, answer, cli, refused, without_loading

import mtad
import mtad.methods
from mtad.api.options import MethodConfig, read_config
from mtad.methods import make
from mtad.speculative.method import Method

FILE = """
method = "mtad"

[options]
accept_threshold = 0.25
beam_width = 2

[sampling]
temperature = 0.5
top_k = 7
max_new_tokens = 5
stop = ["q", "zz"]
ignore_eos = true
"""


@pytest.fixture(autouse=True)
def _no_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    without_loading(monkeypatch)


def written(folder: Path, text: str) -> Path:
    path = folder / "method.toml"
    path.write_text(text, encoding="utf-8")
    return path


# --- methods from typed values


@pytest.mark.parametrize(
    ("name", "options", "method"),
    [
        ("mtad", {}, mtad.MTAD()),
        ("mtad", {"accept_threshold": 1, "beam_width": 2}, mtad.MTAD(4, 2, 1.0)),
        ("mtad", {"endpoint": "greedy"}, mtad.MTAD(endpoint="greedy")),
        ("mcss", {"k_config": [3, 2]}, mtad.MCSS(k_config=(3, 2))),
        ("specinfer", {"k_config": (3,)}, mtad.SpecInfer(k_config=(3,))),
        ("speculative_sampling", {"accept_threshold": None}, mtad.SpeculativeSampling()),
        ("speculative_sampling", {"accept_threshold": 1}, mtad.SpeculativeSampling(4, 1.0)),
        ("bild", {"rollback_threshold": math.inf}, mtad.BiLD(rollback_threshold=math.inf)),
    ],
)
def test_a_method_of_typed_values(name: str, options: dict[str, Any], method: Method) -> None:
    made = make(name, options)
    assert made == method
    kinds = {n: type(getattr(made, n)) for n in options}
    assert kinds == {n: type(getattr(method, n)) for n in options}, "lists and integers converted"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mtad", {"beam_width": True}, "mtad: beam_width is True; it must be an integer"),
        ("mtad", {"beam_width": 4.0}, "beam_width is 4.0; it must be an integer"),
        ("mtad", {"beam_width": "4"}, "beam_width is '4'; it must be an integer"),
        ("mtad", {"accept_threshold": "0.5"}, "it must be a number"),
        ("mtad", {"accept_threshold": True}, "it must be a number"),
        ("mtad", {"accept_threshold": math.nan}, "it must be a number"),
        ("mtad", {"accept_threshold": None}, "accept_threshold is None"),
        ("mtad", {"endpoint": "last"}, "endpoint is 'last'; it must be sample or greedy"),
        ("mtad", {"beam_width": 0}, "beam_width is 0; it must be an integer >= 1"),
        ("mcss", {"k_config": 4}, "k_config is 4; it must be a list of integers"),
        ("mcss", {"k_config": [4, True]}, "k_config is [4, True]; it must be a list of integers"),
        ("mcss", {"k_config": "42"}, "it must be a list of integers"),
        ("speculative_sampling", {"accept_threshold": "x"}, "it must be a number >= 0 or none"),
        ("bild", {"width": 1}, "bild has no option 'width'; its options: fallback_threshold, "),
        ("autoregressive", {"width": 1}, "it has none"),
        ("mtda", {}, "known methods: autoregressive, beam_search"),
    ],
)
def test_wrong_options(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        make(name, options)
    assert words in str(caught.value)


def test_what_is_written_is_read(method_class: type[Method], tmp_path: Path) -> None:
    sampling = {"temperature": 0.0, "top_k": 3, "stop": ['a"b\\\n', "é"], "ignore_eos": True}
    config = MethodConfig(method_class(), sampling)
    assert read_config(written(tmp_path, config.as_toml())) == config


def test_infinity_is_written(tmp_path: Path) -> None:
    config = MethodConfig(mtad.BiLD(rollback_threshold=math.inf))
    assert read_config(written(tmp_path, config.as_toml())) == config


# --- mtad generate --config


def conditions(folder: Path, *flags: str) -> dict[str, Any]:
    """The method and the sampling that an answer was made with."""
    (folder / "prompts.jsonl").write_text('"ab"\n', encoding="utf-8")
    arguments = ["--prompt-file", folder / "prompts.jsonl", "--seed", "1", *MODELS, *flags]
    done = cli("generate", *arguments)
    assert done.exit_code == 0, done.stderr
    run: dict[str, Any] = json.loads(done.stdout)["run"]
    return run


@pytest.mark.slow
def test_the_file_sets_method_and_sampling(tmp_path: Path) -> None:
    run = conditions(tmp_path, "--config", str(written(tmp_path, FILE)))
    plain = conditions(tmp_path)
    changed = {"accept_threshold": 0.25, "beam_width": 2}
    assert run["method"]["options"] == plain["method"]["options"] | changed
    assert run["sampling"] == plain["sampling"] | {
        "temperature": 0.5,
        "top_k": 7,
        "max_new_tokens": 5,
        "stop": ["q", "zz"],
        "ignore_eos": True,
    }


def test_the_file_gives_the_text_of_the_flags(tmp_path: Path) -> None:
    text = 'method = "spectr"\noptions = {num_drafts = 3}\nsampling = {max_new_tokens = 9}'
    flags = ["--method", "spectr", "-o", "num_drafts=3", "--max-new-tokens", "9"]
    common = ["ab", "--seed", "4", *MODELS]
    by_file = answer(*common, "--config", str(written(tmp_path, text)))
    by_flags = answer(*common, *flags)
    assert by_file["token_ids"] == by_flags["token_ids"] and len(by_flags["token_ids"]) > 4
    assert by_file["method"] == by_flags["method"]


@pytest.mark.parametrize("flag", [["-o", "beam_width=3"], ["--beam-width", "3"]])
def test_a_flag_beats_the_file(tmp_path: Path, flag: list[str]) -> None:
    sampling = ["--temperature", "1", "--stop", "j"]  # 1 is the flag's own default
    for method in ([], ["--method", "mtad"]):
        path = str(written(tmp_path, FILE))
        run = conditions(tmp_path, *flag, *sampling, *method, "--config", path)
        options = run["method"]["options"]
        assert (options["beam_width"], options["accept_threshold"]) == (3, 0.25)
        assert (run["sampling"]["temperature"], run["sampling"]["top_k"]) == (1.0, 7)
        assert run["sampling"]["stop"] == ["j"]


def test_another_method_drops_the_options_of_the_file(tmp_path: Path) -> None:
    path = str(written(tmp_path, FILE))
    run = conditions(tmp_path, "--config", path, "--method", "mmtad")
    assert run["method"]["name"] == "mmtad"
    assert run["method"]["options"]["accept_threshold"] == mtad.MMTAD().accept_threshold != 0.25
    assert run["sampling"]["top_k"] == 7


def test_a_method_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "configured_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "my_method.py").write_text(
        "from dataclasses import dataclass\n"
        "from mtad.methods.block_verification import BlockVerification\n"
        "@dataclass(frozen=True)\n"
        "class Mine(BlockVerification):\n"
        "    name = 'mine'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in __import__("sys").path if p != str(tmp_path)])
    text = 'method = "configured_package.my_method"\noptions = {num_draft_tokens = 2}'
    path = written(tmp_path, text)
    run = conditions(tmp_path, "--config", str(path), "--max-new-tokens", "3")
    assert (run["method"]["name"], run["method"]["options"]) == ("mine", {"num_draft_tokens": 2})
    assert read_config(path).as_toml().startswith('method = "configured_package.my_method"\n')


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("method = ", "is not TOML: "),
        ("[options]\n", 'method is None; it must be a name, such as method = "mtad"'),
        ("method = 3\n", "method is 3; it must be a name"),
        ('method = "mtda"\n', "known methods: autoregressive, "),
        ('method = "mtad"\nseed = 3\n', "unknown key 'seed'; known ones: method, options, samp"),
        ('method = "mtad"\noptions = 3\n', "options is 3; it must be a table, [options]"),
        (
            'method = "mtad"\n[options]\nwidth = 3\n',
            "no option 'width' (did you mean 'beam_width'?); its options: num",
        ),
        ('method = "mtad"\n[options]\nbeam_width = "3"\n', "beam_width is '3'; it must be an int"),
        (
            'method = "mtad"\n[sampling]\ntopk = 3\n',
            "sampling option 'topk' (did you mean 'top_k'?); known ones: f",
        ),
        ('method = "mtad"\n[sampling]\nseed = 3\n', "unknown sampling option 'seed'"),
        ('method = "mtad"\n[sampling]\ntop_k = 3.5\n', "top_k is 3.5; it must be an integer"),
        ('method = "mtad"\n[sampling]\nstop = "a"\n', "stop is 'a'; it must be a list of texts"),
        ('method = "mtad"\n[sampling]\nignore_eos = 1\n', "ignore_eos is 1; it must be true or"),
        ('method = "mtad"\n[sampling]\ntop_p = -1\n', "top_p is -1; it must be"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path, text)
    message = refused("generate", "ab", "--config", str(path), *MODELS)
    assert words in message and str(path) in message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "no.toml"
    message = refused("generate", "ab", "--config", str(missing))
    assert "no.toml'doesnotexist" in message.replace(" ", "")  # a long path is broken anywhere
    with pytest.raises(ValueError, match=r"no\.toml cannot be read: No such file"):
        read_config(missing)
    (tmp_path / "bytes.toml").write_bytes(b"method = '\xff'")
    with pytest.raises(ValueError, match=r"bytes\.toml is not TOML"):
        read_config(tmp_path / "bytes.toml")


def test_the_help_says_what_the_file_holds_and_what_wins() -> None:
    shown = " ".join(cli("generate", "--help").stdout.replace("│", " ").split())
    start = shown.index("--config")
    for words in ("method", "options and", "sampling", "Flags win", "drops its"):
        assert words in shown[start : start + 600]
