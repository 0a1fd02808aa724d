"""Runs the command line inside the tests' process."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from support.saved_pair import folder, pair
from typer.testing import CliRunner

import mtad
from mtad.cli import app

MAIN = [sys.executable, "-c", "from mtad.cli import main; main()"]
MODELS = ["--target-model", str(folder() / "target"), "--draft-model", str(folder() / "draft")]
SHORT = ["--seed", "3", "--max-new-tokens", "12", "--ignore-eos"]


def without_loading(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Use the pair that is loaded already; the arguments of every loading from now on."""
    calls: list[dict[str, Any]] = []

    def load(name: str | None = None, **options: Any) -> mtad.ModelPair:
        calls.append({"name": name} | options)
        return pair()

    monkeypatch.setattr("mtad.api.pair.load_pair", load)
    return calls


def cli(*arguments: str, stdin: str | bytes | None = None) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def answer(*arguments: str, **options: Any) -> dict[str, Any]:
    """The JSON object of `mtad generate … --json`."""
    result = cli("generate", *arguments, "--json", **options)
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout, parse_constant=pytest.fail)


def refused(*arguments: str, code: int = 2, **options: Any) -> str:
    """The message of a command that is refused."""
    result = cli(*arguments, **options)
    assert (result.exit_code, result.stdout) == (code, "")
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.replace("│", " ").split())
