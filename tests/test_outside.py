"""Additions from outside: a method in another package, a sampling setting in one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command import SHORT, answer, cli, refused, without_loading
from support.serving import real_server

import mtad
from mtad import methods
from mtad.api.options import MethodConfig, read_config
from mtad.api.pair import load_pair
from mtad.bench import run as run_module
from mtad.bench.files import read_samples
from mtad.bench.recipe import read_recipe
from mtad.bench.sweep import files
from mtad.bench.sweep.recipe import dial_of
from mtad.runtime.cuda_graphs import Graphs

ROOT = Path(__file__).parents[1]
NAME = "lenient_sampling"


def installed(folder: Path, entry: str) -> None:
    """Write a package of one method and its metadata into a folder."""
    shutil.copy(ROOT / "examples" / "custom_method.py", folder / "lenient_package.py")
    info = folder / "lenient_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lenient-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mtad.methods]\n{entry}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages; what is in it is found once the cache is empty."""
    monkeypatch.syspath_prepend(tmp_path)
    methods._installed.cache_clear()
    yield tmp_path
    methods._installed.cache_clear()
    sys.modules.pop("lenient_package", None)


@pytest.fixture
def plugin(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    installed(site, f"{NAME} = lenient_package:LenientSampling")
    without_loading(monkeypatch)
    return site


def test_a_method_of_another_package_is_listed_and_decodes(plugin: Path) -> None:
    assert methods.names() == [*methods.own_names(), NAME]
    assert NAME in cli("methods").stdout
    assert "lenience" in cli("methods", NAME).stdout
    record = answer("the cat", "--method", NAME, "-o", "lenience=0.25", *SHORT)
    assert record["method"]["options"] == {"num_draft_tokens": 4, "lenience": 0.25}
    assert len(record["token_ids"]) == 12
    assert "lenience is 2.0; it must be a number in (0, 1]" in refused(
        "generate", "a", "--method", NAME, "-o", "lenience=2"
    )


def test_a_file_names_it(plugin: Path) -> None:
    config = MethodConfig(methods.make(NAME, {"lenience": 1}))
    assert config.as_toml().startswith(f'method = "{NAME}"\n')
    (plugin / "method.toml").write_text(config.as_toml())
    assert read_config(plugin / "method.toml") == config


@pytest.mark.slow
def test_requests_use_it(plugin: Path) -> None:
    with real_server(playground=False) as served, served.client() as http:
        found = {sheet["name"]: sheet for sheet in http.get("/v1/methods").json()["data"]}
        assert [option["name"] for option in found[NAME]["options"]] == [
            "num_draft_tokens",
            "lenience",
        ]
        body = {"model": "demo", "prompt": "def area(r):", "max_tokens": 6, "seed": 1}
        method = {"name": NAME, "lenience": 0.5}
        reply = http.post("/v1/completions", json=body | {"method": method})
        assert reply.status_code == 200, reply.text
        refusal = http.post("/v1/completions", json=body | {"method": method | {"lenience": 2}})
        assert (refusal.status_code, refusal.json()["error"]["param"]) == (400, "method")


def test_its_trace_is_judged_again(plugin: Path) -> None:
    trace = plugin / "trace.jsonl"
    record = answer("the cat", "--method", NAME, "--trace", str(trace), *SHORT)
    done = json.loads(cli("replay", str(trace), "--json").stdout)
    [rule] = done["rules"]
    assert rule["texts"][0]["method"] == record["method"]["name"] == NAME
    assert rule["total"]["num_texts_that_differ"] == 0
    swept = json.loads(cli("replay", str(trace), "--sweep", "lenience=0.2,0.8", "--json").stdout)
    assert len(swept["rules"]) == 2


def test_a_recipe_names_it_with_a_grid(plugin: Path) -> None:
    recipe = plugin / "recipe.toml"
    recipe.write_text(
        "[tasks.spider]\n[run]\nnum_dev = 4\n"
        f'[[runs]]\nmethod = "{NAME}"\ngrid = {{lenience = [0.2, 0.8]}}\n'
    )
    [run] = read_recipe(recipe).runs
    assert [vars(point.method)["lenience"] for point in run.points] == [0.2, 0.8]
    assert dial_of(NAME).option == "lenience"


RECIPE = f"""
[run]
num_test = 2
max_new_tokens = 6
[tasks.spider]
[[runs]]
method = "autoregressive"
[[runs]]
method = "{NAME}"
grid = {{lenience = [0.2, 0.8]}}
choose = "all"
"""


@pytest.fixture(scope="module")
def demo_pair() -> mtad.ModelPair:
    """The embedded pair, decoding eagerly: recording takes longer than these short texts."""
    pair = load_pair("demo", dtype="float32")
    pair.graphs = Graphs(None, "short texts")
    return pair


@pytest.fixture
def bench(plugin: Path, monkeypatch: pytest.MonkeyPatch, demo_pair: mtad.ModelPair) -> Path:
    """A folder for benchmarks, which decode with the pair that is loaded already."""
    monkeypatch.setattr(run_module, "load", lambda recipe: demo_pair)
    monkeypatch.setattr(run_module, "IDLE_S", 0.0)
    return plugin


@pytest.mark.slow
def test_a_whole_recipe_reports_it(bench: Path) -> None:
    recipe, folder = bench / "recipe.toml", bench / "out"
    recipe.write_text(RECIPE)
    assert cli("bench", "run", recipe, "--output", folder).exit_code == 0
    assert cli("bench", "score", folder).exit_code == 0
    shown = cli("bench", "report", folder)
    assert shown.exit_code == 0
    written = (folder / "report" / "report.md").read_text("utf-8")
    for value in (0.2, 0.8):
        row = f"\n| {NAME} [lenience={value}] | "
        assert row in shown.stdout and row in written
    rows = [s for s in read_samples(folder) if s.method["name"] == NAME]
    assert [s.num_output_tokens for s in rows] == [6] * 4
    assert {s.method["options"]["lenience"] for s in rows} == {0.2, 0.8}


@pytest.mark.slow
def test_a_sweep_reports_it(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "write_report", lambda *given, **named: [])  # as in a recipe
    few = ("--items", "10", "--seeds", "1", "--max-new-tokens", "4", "--temperature", "0")
    arguments = ("--method", NAME, "--thresholds", "0.5", "--output", bench / "out")
    shown = cli("bench", "frontier", *few, *arguments)
    assert shown.exit_code == 0
    for text in (shown.stdout, (bench / "out" / "frontier.md").read_text("utf-8")):
        assert f"\n| {NAME} [lenience=0.5] | " in text
    assert len(read_samples(bench / "out")) == 10 * 3


def test_a_module_is_an_entry_point_too(site: Path) -> None:
    installed(site, f"{NAME} = lenient_package")
    assert methods.find(NAME).__name__ == "LenientSampling"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("other = lenient_package", "it must be a Method with name = 'other'"),
        (f"{NAME} = lenient_package:Tensor", f"it must be a Method with name = '{NAME}'"),
        (f"{NAME} = no_such_package", "cannot be imported"),
    ],
)
def test_wrong_entry_points_are_refused(site: Path, entry: str, words: str) -> None:
    installed(site, entry)
    with pytest.raises(ValueError, match=re.escape(words)):
        methods.find(entry.split()[0])


def test_a_name_of_mtad_is_not_taken(site: Path) -> None:
    installed(site, "mtad = lenient_package")
    with pytest.warns(UserWarning, match="called like a method of mtad, mtad, and is left out"):
        assert methods.names() == methods.own_names()
    assert methods.find("mtad") is mtad.MTAD


# --- a setting of the sampling, and one of the server

LINE = '    typical_p: Annotated[float, Gt(0), Le(1), Setting("1 is off.")] = 1.0\n'
CODE = """
import json, sys
from pathlib import Path
from pydantic import ValidationError
from typer.testing import CliRunner
from mtad.api.options import read_config
from mtad.cli import app
from mtad.methods.mtad import MTAD
from mtad.server.api.methods_info import method_list
from mtad.server.api.sampling import given_settings
from mtad.server.api.request_models import ChatRequest, CompletionRequest

config = Path(sys.argv[1])
config.write_text('method = "mtad"\\n[sampling]\\ntypical_p = 0.5\\n')
try:
    CompletionRequest(model="m", prompt="p", typical_p=2.0)
except ValidationError as error:
    refused = error.errors()[0]["loc"]
helps = {name: "--typical-p" in CliRunner().invoke(app, [name, "--help"]).stdout
         for name in ("generate", "chat")}
print(json.dumps({
    "help": helps,
    "file": dict(read_config(config).sampling),
    "request": given_settings(CompletionRequest(model="m", prompt="p", typical_p=0.5)),
    "refused": refused,
    "schema": ChatRequest.model_json_schema()["properties"]["typical_p"]["anyOf"][0],
    "page": [s.model_dump() for s in method_list(MTAD(), []).sampling if s.name == "typical_p"],
}))
"""
SERVER_LINE = '    max_stops: Annotated[Count, Doc("Stop strings of a choice.")] = 4\n'
SERVER_CODE = """
import json, sys
from pathlib import Path
from typer.testing import CliRunner
from mtad.cli import app, serve

served = []
serve.run = lambda flags: served.append(serve.settings_of(flags).max_stops)
config = Path(sys.argv[1])
config.write_text("[limits]\\nmax_stops = 2\\n")
for words in ("", "--config", "--config --max-stops 3"):
    flags = words.replace("--config", f"--config {config}").split()
    assert not CliRunner().invoke(app, ["serve", *flags]).exit_code
refused = CliRunner().invoke(app, ["serve", "--max-stops", "0"])
config.write_text("[limits]\\nmax_stops = 0\\n")
by_file = CliRunner().invoke(app, ["serve", "--config", str(config)])
print(json.dumps({
    "help": "Stop strings of a choice" in CliRunner().invoke(app, ["serve", "--help"]).stdout,
    "served": served,
    "refused": refused.stderr,
    "by_file": by_file.stderr,
}))
"""


LINES = {
    "sampling/params.py": ("    min_p: Annotated[", LINE),
    "server/settings.py": ("    max_nodes: Annotated[", SERVER_LINE),
}
"""By file, the line that is added and what it is put before."""


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What both programs print where two files of mtad have one line more each."""
    place = tmp_path_factory.mktemp("outside")
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors", "data")
    shutil.copytree(ROOT / "src" / "mtad", place / "mtad", ignore=ignored)
    for file, (before, line) in LINES.items():
        path = place / "mtad" / file
        text = path.read_text("utf-8")
        assert text.count(before) == 1
        path.write_text(text.replace(before, line + before), "utf-8")
    config = place / "config.toml"
    done = subprocess.run(
        [sys.executable, "-c", CODE + SERVER_CODE, str(config)],
        env=os.environ | {"PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sampling, server = map(json.loads, done.stdout.splitlines())
    return {"sampling": sampling, "server": server, "config": config}


@pytest.mark.slow
def test_a_sampling_setting_is_defined_in_one_line(added: dict[str, Any]) -> None:
    found = added["sampling"]
    assert found["help"] == {"generate": True, "chat": True}
    assert found["file"] == found["request"] == {"typical_p": 0.5}
    assert found["refused"] == ["typical_p"]
    assert found["schema"] == {"exclusiveMinimum": 0, "maximum": 1, "type": "number"}
    assert found["page"] == [
        {
            "name": "typical_p",
            "type": "number",
            "default": 1.0,
            "minimum": 0.0,
            "maximum": 1.0,
            "description": "1 is off.",
        }
    ]


@pytest.mark.slow
def test_a_setting_of_the_server_is_defined_in_one_line(added: dict[str, Any]) -> None:
    found = added["server"]
    assert found["help"]
    assert found["served"] == [4, 2, 3], "the default, the file, and a flag that wins over it"
    message = "max_stops is 0; it must be an integer >= 1"
    assert found["refused"] == f"Error: {message}\n"
    assert found["by_file"] == f"Error: {added['config']}: {message}\n"
