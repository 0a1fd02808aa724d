"""What a command imports, and how: the part of its start that does not depend on the machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.command import cli

import mtad.cli

CODE = """
import gc, json, sys

collections_of_imports = 0

def note(phase, info):
    global collections_of_imports
    if "torch" not in sys.modules:
        return
    if gc.get_freeze_count():  # counts 600,000 objects one by one, so once is enough
        gc.callbacks.remove(note)
    else:
        collections_of_imports += 1

gc.callbacks.append(note)
from mtad.cli import main
try:
    main()
except SystemExit as end:
    code = end.code
facts = {
    "code": code,
    "collections_of_imports": collections_of_imports,
    "kept_out": gc.get_freeze_count(),
    "enabled": gc.isenabled(),
    "modules": list(sys.modules),
}
print(json.dumps(facts), file=sys.stderr)
"""


def facts_of(*arguments: str) -> dict[str, Any]:
    """What a process did that ran the command."""
    command = [sys.executable, "-c", CODE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stderr.splitlines()[-1])


@pytest.fixture(scope="module")
def generate() -> dict[str, Any]:
    facts = facts_of("generate", "SELECT", "--seed", "0", "--max-new-tokens", "2")
    assert not facts["code"]
    return facts


@pytest.mark.slow
def test_help_imports_no_library_that_is_slow_to_load() -> None:
    facts = facts_of("generate", "--help")
    loaded = {name.partition(".")[0] for name in facts["modules"]}
    assert not loaded & {"torch", "transformers", "numpy", "psutil", "jaxtyping", "huggingface_hub"}
    assert facts["kept_out"] == 0


@pytest.mark.slow
def test_generate_imports_no_other_command(generate: dict[str, Any]) -> None:
    others = (
        "mtad.bench",
        "mtad.tasks",
        "mtad.tasks.sandbox",
        "mtad.testing",
        "mtad.cli.generate.many",
    )
    assert not [name for name in generate["modules"] if name.startswith(others)]
    assert "matplotlib" not in generate["modules"]


@pytest.mark.slow
def test_generate_imports_no_method_but_its_own_and_the_plain_one(generate: dict[str, Any]) -> None:
    loaded = {name for name in generate["modules"] if name.startswith("mtad.methods.")}
    assert {"mtad.methods.mtad"} <= loaded <= {"mtad.methods.mtad", "mtad.methods.autoregressive"}


@pytest.mark.slow
def test_generate_imports_no_other_model_than_the_one_it_runs(generate: dict[str, Any]) -> None:
    loaded = {
        name
        for name in generate["modules"]
        if name.startswith("transformers.models.") and ".modeling_" in name
    }
    assert loaded == {
        "transformers.models.auto.modeling_auto",
        "transformers.models.llama.modeling_llama",
    }


def test_torch_and_transformers_are_kept_out_of_the_garbage_collector(
    generate: dict[str, Any],
) -> None:
    assert generate["collections_of_imports"] == 0
    assert generate["kept_out"] > 100_000
    assert generate["enabled"], "what comes after the imports is collected as ever"


@pytest.mark.parametrize("command", ["methods mtad", "generate - --temperature -1", "chat -o x"])
def test_every_command_is_imported_the_same_way(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[bool] = []

    @contextmanager
    def noted() -> Iterator[None]:
        entered.append(True)
        yield

    monkeypatch.setattr(mtad.cli, "_quick_imports", noted)
    cli(*command.split())
    assert entered == [True]
