"""`mtad verify`: the page, the JSON, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command import MODELS, cli, refused

QUICK = [
    *MODELS,
    *("--bias", "0.1", "--num-prompts", "2", "--num-places", "1", "--max-new-tokens", "8"),
    *("--top-k", "4", "-o", "num_draft_tokens=2"),
]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    file = tmp_path_factory.mktemp("verify") / "prompts.jsonl"
    file.write_text('{"prompt": "the cat sat"}\n"x = x"\n', encoding="utf-8")
    return ["--prompt-file", str(file)]


@pytest.mark.slow
def test_a_sound_method_is_proven(prompts: list[str]) -> None:
    done = cli("verify", *QUICK, *prompts, "--method", "speculative_sampling")
    assert done.exit_code == 0, done.output
    assert "speculative_sampling is lossless on this pair" in done.stdout
    assert "law of the first token" in done.stdout and "chance of at most 1 %" in done.stdout


@pytest.mark.slow
def test_a_lossy_method_is_a_difference_unless_it_is_expected(prompts: list[str]) -> None:
    arguments = ["verify", *QUICK, *prompts, "--method", "typical_acceptance", "--json"]
    done = cli(*arguments)
    assert done.exit_code == 1
    record = json.loads(done.stdout)
    assert not record["claims_lossless"] and "lossy by design" in record["verdict"]
    assert record["sampling"]["top_k"] == 4
    tv = [c["tv"] for c in record["checks"] if c["name"] == "law of the first token"]
    assert 0 <= tv[0]["low"] <= tv[0]["value"] <= tv[0]["high"]
    assert cli(*arguments, "--allow-lossy").exit_code == 0


def test_bad_input_has_a_code_of_its_own(prompts: list[str], tmp_path: Path) -> None:
    assert "did you mean" in refused("verify", "--method", "specinfr")
    assert "needs --target-model" in refused("verify", "--draft-model", "x")
    nowhere = ["--target-model", str(tmp_path / "none"), "--method", "autoregressive"]
    assert "no such folder" in refused("verify", *nowhere)
    assert "needs a draft model" in refused(
        "verify", "--target-model", "x", "--method", "specinfer"
    )
    file = tmp_path / "method.toml"
    file.write_text('method = "specinfer"\n[sampling]\nstop = ["x"]\n', encoding="utf-8")
    assert "leave it out of the file" in refused("verify", "--config", str(file))
