"""lm-eval against `mtad serve`: its figures are those of plain transformers."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from support.clients import run_client
from support.plain import Plain
from support.program import Program

from mtad.demo import TARGET_PATH

pytestmark = pytest.mark.clients
TASKS = Path(__file__).parent / "lm_eval"
Samples: TypeAlias = dict[str, list[dict[str, Any]]]


@cache
def plain() -> Plain:
    return Plain()


LOCAL = f"tokenizer={TARGET_PATH},tokenizer_backend=huggingface"


WAYS = {"local": (LOCAL, 1), "remote": ("num_concurrent=4", 1), "batches": (LOCAL, 4)}


@pytest.fixture(scope="module", params=WAYS.values(), ids=WAYS)
def samples(
    server: Program, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Samples:
    """The samples of each task: tokenized by lm-eval, by the server, and several per request."""
    folder = tmp_path_factory.mktemp("lm_eval")
    for path in TASKS.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    address = f"{server.client.base_url}".rstrip("/") + "/v1/completions"
    options, batch_size = request.param
    model = f"model=demo,base_url={address},max_length=1024,{options}"
    flags = ("--include_path", ".", "--output_path", "out", "--log_samples")
    flags += ("--batch_size", str(batch_size))
    tasks = ("--tasks", ",".join(sorted(path.stem for path in TASKS.glob("*.yaml"))))
    run_client(
        "lm_eval", "--model", "local-completions", "--model_args", model, *tasks, *flags,
        folder=folder,
    )  # fmt: skip
    found = {path.stem.split("_20")[0]: path for path in folder.glob("out/*/samples_*.jsonl")}
    return {
        name.removeprefix("samples_"): [
            json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()
        ]
        for name, path in found.items()
    }


@pytest.mark.call("log-likelihoods of choices")
def test_choices_have_the_log_probabilities_of_plain_transformers(samples: Samples) -> None:
    rows = samples["sql_choices"]
    given, likeliest = [], []
    for row in rows:
        found = [(float(value), flag == "True") for value, flag in row["filtered_resps"]]
        right = [plain().choice(row["doc"]["prompt"], text) for text in row["doc"]["choices"]]
        assert [value for value, _ in found] == pytest.approx([v for v, _ in right], abs=1e-4)
        assert [flag for _, flag in found] == [flag for _, flag in right]
        given += found
        likeliest.append(max(range(4), key=lambda i: right[i][0]) == row["doc"]["answer"])
    assert (len(rows), len(given)) == (12, 48)
    assert [row["acc"] for row in rows] == likeliest
    assert {flag for _, flag in given} == {True, False}


@pytest.mark.call("log-likelihoods of texts")
def test_texts_have_the_log_probabilities_of_plain_transformers(samples: Samples) -> None:
    found = [float(row["filtered_resps"][0]) for row in samples["sql_texts"]]
    right = [plain().text(row["target"]) for row in samples["sql_texts"]]
    assert len(found) == 12
    assert found == pytest.approx(right, abs=1e-4)


@pytest.mark.call("greedy generation")
def test_queries_are_the_greedy_ones_of_plain_transformers(samples: Samples) -> None:
    rows = samples["sql_queries"]
    found = [row["filtered_resps"][0] for row in rows]
    assert found == [plain().greedy(row["doc"]["prompt"], 48) for row in rows]
    right = [text == row["target"] for text, row in zip(found, rows, strict=True)]
    assert [row["exact_match"] for row in rows] == right
    assert {True, False} == set(right)
