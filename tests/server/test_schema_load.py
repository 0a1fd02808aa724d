"""Loads with schemas: forms in turn, the same requests in both kinds, and ratios with intervals."""

from __future__ import annotations

import pytest
from support.benchmarks import program
from typer.testing import CliRunner

BODIES = [{"prompt": "x", "seed": seed} for seed in range(8)]


def test_schemas_come_in_turn_and_leave_the_rest_of_a_request():
    forms = program("forms")
    held = forms.held(BODIES, forms.LONG)
    assert [{k: v for k, v in one.items() if k != "response_format"} for one in held] == BODIES
    schemas = [one["response_format"]["json_schema"]["schema"] for one in held]
    assert schemas == forms.LONG * 2


def test_a_mixture_has_plain_requests_forms_and_tools():
    mixed = program("forms").mixed(BODIES)
    assert mixed[::4] == BODIES[::4] and mixed[2::4] == BODIES[2::4]
    assert all("response_format" in one for one in mixed[1::4])
    assert all("prompt" not in one and one["tools"] for one in mixed[3::4])


def test_the_interval_is_students_of_the_logarithms():
    middle, low, high = program("schema_load").interval([0.8, 0.9, 1.0, 1.1])
    assert middle == pytest.approx(0.9434, abs=1e-4)
    assert low == pytest.approx(0.7585, abs=1e-4) and high == pytest.approx(1.1733, abs=1e-4)


@pytest.mark.slow
def test_a_little_load_with_and_without_schemas():
    words = ["--clients", "2", "--requests", "4", "--rounds", "2", "--max-tokens", "6"]
    result = CliRunner().invoke(program("schema_load").app, words)
    assert result.exit_code == 0, result.output
    assert "(0 shorter)" in result.output and "tokens were forced" in result.output
