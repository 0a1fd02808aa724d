"""Shapes that signatures name are checked while the tests run."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import typing
from collections.abc import Iterator
from itertools import chain
from types import FunctionType, ModuleType
from typing import Any

import pytest
import torch
from jaxtyping import AbstractArray, TypeCheckError

from mtad.core.tree import TokenTree
from mtad.speculative.acceptance import residual

pytestmark = pytest.mark.skipif(
    os.environ.get("JAXTYPING_DISABLE") == "1", reason="the checks are turned off"
)


@pytest.fixture(scope="module")
def packages(pytestconfig: pytest.Config) -> list[str]:
    *names, _ = pytestconfig.getoption("--jaxtyping-packages").split(",")
    return names


def modules_of(package: str) -> Iterator[ModuleType]:
    root = importlib.import_module(package)
    yield root
    for found in pkgutil.walk_packages(root.__path__, f"{package}."):
        yield importlib.import_module(found.name)


def functions_of(module: ModuleType) -> Iterator[FunctionType]:
    """Functions and methods that the module defines, also behind its decorators."""
    classes = [c for c in vars(module).values() if inspect.isclass(c)]
    for owner in (module, *(c for c in classes if c.__module__ == module.__name__)):
        for found in vars(owner).values():
            found = getattr(found, "__func__", found)  # of classmethods and staticmethods
            found = found.fget if isinstance(found, property) else found
            found = getattr(found, "func", found)  # of cached properties
            if isinstance(found, FunctionType) and found.__module__ == module.__name__:
                yield found


def has_shape(hint: Any) -> bool:
    inner = typing.get_args(hint)
    return any(map(has_shape, inner)) or (inspect.isclass(hint) and issubclass(hint, AbstractArray))


def test_every_named_shape_is_checked(packages: list[str]) -> None:
    num_checked = 0
    for package in packages:
        for function in chain.from_iterable(map(functions_of, modules_of(package))):
            is_checked = function.__code__.co_filename.endswith("jaxtyping/_decorator.py")
            if any("[" in given for given in map(str, function.__annotations__.values())):
                hints = typing.get_type_hints(function).values()
                assert is_checked or not any(map(has_shape, hints)), function
            num_checked += is_checked
    assert num_checked > 90


def test_axes_of_one_name_have_one_size() -> None:
    with pytest.raises(TypeCheckError):
        residual(torch.zeros(2, 3), torch.zeros(2, 4))


def test_fields_of_a_dataclass_have_their_shapes() -> None:
    tree = TokenTree.root(torch.tensor([1, 2]), torch.tensor([0, 0]))
    assert tree.num_rows == 2
    with pytest.raises(TypeCheckError):
        TokenTree(**{**vars(tree), "alive": torch.ones(3, 1, dtype=torch.bool)})
