"""Fixtures of all tests: one thread, toy pairs of known laws, every method in turn."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from support.device import require_device
from support.shapes import check_named_shapes_only

check_named_shapes_only()
from support.toys import MarkovPair  # noqa: E402

import mtad.methods  # noqa: E402
from mtad.speculative.method import Method  # noqa: E402
from mtad.testing import TOY_DRAFT, TOY_START, TOY_TARGET  # noqa: E402

UNCHECKED = frozenset("api bench browser cli demo docs measure runtime server tasks verify".split())
"""Folders of tests whose packages have no shapes to check; those of the packages that have do."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need a GPU where there is none, or fail them; before their fixtures."""
    if "JAXTYPING_DISABLE" not in os.environ:
        package = item.path.relative_to(Path(__file__).parent).parts[0]
        jaxtyping.config.update("jaxtyping_disable", package in UNCHECKED)
    if item.get_closest_marker("gpu"):
        require_device(torch.cuda.is_available(), os.environ.get("MTAD_REQUIRE_GPU") == "1")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toy() -> MarkovPair:
    """The toy pair of three tokens; its prompt is [TOY_START]."""
    return MarkovPair.of(TOY_TARGET, TOY_DRAFT)


@pytest.fixture(params=mtad.methods.names())
def method_class(request: pytest.FixtureRequest) -> type[Method]:
    """Every method of the registry in turn."""
    return mtad.methods.find(request.param)


@pytest.fixture(scope="session")
def toy_prompt() -> list[int]:
    """The prompt of the toy pair's 'empty prefix'."""
    return [TOY_START]


@pytest.fixture
def unchecked_types() -> Iterator[None]:
    """As users run it: without the type checks of the tests, which would be the first to refuse."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def ctrl_c_interrupts() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where a shell ignores it for what runs with `&`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
