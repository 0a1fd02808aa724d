"""Every example runs, with small budgets."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from support.saved_pair import folder

import mtad.methods
from mtad.testing import TOY_DRAFT, TOY_START, TOY_TARGET, markov_model

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)


def run(name: str, *arguments: str) -> None:
    importlib.import_module(f"examples.{name}").main(arguments)


def test_every_example_is_tested() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in EXAMPLES if f"test_{name}" not in source] == []


def test_complete_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    run("complete_prompts", "--num-prompts", "2", "--max-new-tokens", "12")
    out = capsys.readouterr().out
    assert out.count("mean acceptance length") == 2


def test_complete_prompts_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"prompt": "def area(r):"}) + "\n", encoding="utf-8")
    run("complete_prompts", str(file), "--max-new-tokens", "4")
    assert capsys.readouterr().out.startswith("def area(r):")


@pytest.mark.slow
def test_stream_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    run("stream_blocks", "def area(r):", "--max-new-tokens", "12")
    prompt, *blocks, text = capsys.readouterr().out.strip().split("\n[")
    assert prompt == "def area(r):"
    assert "text: " in text
    assert all("|" in block for block in blocks)


@pytest.mark.slow
def test_compare_methods(capsys: pytest.CaptureFixture[str]) -> None:
    run("compare_methods", "--num-prompts", "1", "--max-new-tokens", "8")
    head, *lines = capsys.readouterr().out.strip().split("\n")
    names = [line.split()[0] for line in lines]
    assert head.startswith("method")
    assert names[0] == "autoregressive"
    assert {"mtad", "speculative_sampling"} <= set(names)


def test_own_models(capsys: pytest.CaptureFixture[str]) -> None:
    folders = str(folder() / "target"), str(folder() / "draft")
    run("own_models", *folders, "Hello", "--max-new-tokens", "6")
    assert "tokens per target call" in capsys.readouterr().out


def test_own_models_that_are_not_there() -> None:
    with pytest.raises(SystemExit, match="error: cannot load the target model"):
        run("own_models", "/nowhere/target", "/nowhere/draft", "Hello")


@pytest.mark.slow
def test_mount_server(monkeypatch: pytest.MonkeyPatch) -> None:
    example = importlib.import_module("examples.mount_server")
    monkeypatch.setattr("uvicorn.run", lambda app, port: served.append((app, port)))
    served: list[tuple[FastAPI, int]] = []
    example.main(["--port", "1234"])
    assert served == [(example.app, 1234)]
    with TestClient(example.app, base_url="http://localhost") as client:
        assert client.get("/hello").json() == {"hello": "world"}
        body = {"model": "demo", "prompt": "SELECT", "max_tokens": 2}
        assert client.post("/llm/v1/completions", json=body).status_code == 200


@pytest.fixture
def toy() -> mtad.ModelPair:
    return mtad.ModelPair(markov_model(TOY_TARGET), markov_model(TOY_DRAFT))


def texts(pair: mtad.ModelPair, method: mtad.Method, count: int = 200) -> list[list[int]]:
    completions = pair.generate(
        [[TOY_START]] * count,
        method,
        max_new_tokens=6,
        ignore_eos=True,
        seed=range(count),
        max_batch_size=count,
    )
    return [completion.token_ids for completion in completions]


def test_custom_method_is_found_by_its_module() -> None:
    found = mtad.methods.find("examples.custom_method")
    assert found.name == "lenient_sampling"
    assert not found().is_lossless
    with pytest.raises(ValueError, match="lenience is 0"):
        found(lenience=0)


def test_custom_method_without_lenience_is_speculative_sampling(toy: mtad.ModelPair) -> None:
    exact = mtad.methods.find("examples.custom_method")(num_draft_tokens=3, lenience=1.0)
    assert texts(toy, exact) == texts(toy, mtad.SpeculativeSampling(num_draft_tokens=3))


@pytest.mark.slow
def test_custom_method_accepts_with_the_lenient_probability(toy: mtad.ModelPair) -> None:
    lenience, count = 0.5, 4000
    method = mtad.methods.find("examples.custom_method")(num_draft_tokens=1, lenience=lenience)
    completions = toy.generate(
        [[TOY_START]] * count,
        method,
        max_new_tokens=2,
        ignore_eos=True,
        seed=range(count),
        max_batch_size=count,
    )
    accepted = sum(completion.blocks[0].num_accepted for completion in completions)
    laws = zip(TOY_TARGET[TOY_START], TOY_DRAFT[TOY_START], strict=True)
    chance = sum(min(q, p / lenience) for p, q in laws)
    assert accepted / count == pytest.approx(chance, abs=5 * (chance * (1 - chance) / count) ** 0.5)
