"""The planted mistakes of `scripts/mutants` still have their place in the code."""

from __future__ import annotations

import re
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = SourceFileLoader("mutants", str(ROOT / "scripts" / "mutants"))
    spec = spec_from_loader("mutants", loader)
    assert spec is not None
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.dont_write_bytecode", True)
        patch.setitem(__import__("sys").modules, "mutants", module)  # dataclasses look there
        loader.exec_module(module)
    return module


def test_each_mistake_replaces_a_text_that_is_there_once(script: ModuleType) -> None:
    wrong = {}
    for mutant in script.MUTANTS:
        count = (ROOT / "src" / "mtad" / mutant.file).read_text(encoding="utf-8").count(mutant.old)
        if count != 1:
            wrong[mutant.name] = f"{count} times in {mutant.file}"
    assert wrong == {}


def test_each_mistake_is_another_and_changes_something(script: ModuleType) -> None:
    names = [mutant.name for mutant in script.MUTANTS]
    assert len({*names}) == len(names)
    assert [mutant.name for mutant in script.MUTANTS if mutant.old == mutant.new] == []


def test_each_mistake_has_tests_that_are_there(script: ModuleType) -> None:
    for mutant in script.MUTANTS:
        path, _, chosen = mutant.tests.partition(" -k ")
        for file in path.split():
            text = (ROOT / file).read_text(encoding="utf-8")
            words = set(re.findall(r"\w+", chosen)) - {"and", "or", "not"}
            assert not words or any(word in text for word in words), mutant.name
