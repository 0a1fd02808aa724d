"""The recipe of the embedded pair: data, training, resuming, test sets, scoring."""

import itertools
import json
import random
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from mtad import demo  # noqa: E402
from mtad.demo.scoring import run_query, score  # noqa: E402
from recipes.demo_pair import corpus  # noqa: E402
from recipes.demo_pair.card import card  # noqa: E402
from recipes.demo_pair.evaluate import warp  # noqa: E402
from recipes.demo_pair.pipeline import run, run_clean  # noqa: E402
from recipes.demo_pair.presets import COPYING, PRESETS  # noqa: E402
from recipes.demo_pair.problem import noisy, right  # noqa: E402
from recipes.demo_pair.train import Training, place_in_data, rate_at, train  # noqa: E402

SMOKE = PRESETS["smoke"]
NUM_PROBLEMS = 400


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tiny tensors: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the smoke recipe ran; `pair` is its output, `work` its work folder."""
    folder = tmp_path_factory.mktemp("recipe")
    run(SMOKE, folder / "pair", folder / "work", "cpu")
    return folder


def problems(seed: int = 0) -> list:
    pairs = itertools.islice(corpus.training_examples(seed, SMOKE.noise, COPYING), NUM_PROBLEMS)
    return [(str(problem.prompt), answer) for problem, answer in pairs]


@pytest.mark.slow
@pytest.mark.parametrize("role", ["target", "draft"])
def test_output_loads_like_any_model(made: Path, role: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(made / "pair" / role)
    tokenizer = AutoTokenizer.from_pretrained(made / "pair" / role)
    assert model.dtype == torch.bfloat16
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer("x").input_ids[0] == tokenizer.bos_token_id


@pytest.mark.slow
def test_chat_template_ends_answers_and_opens_the_next(made: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made / "pair" / "target")
    chat = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "v"},
    ]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<|bos|><|system|>s<|user|>u<|assistant|>a<|eos|><|user|>v<|assistant|>"


@pytest.mark.slow
def test_tokenizer_keeps_any_text(made: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made / "pair" / "target")
    text = "SELECT 'ß' -- 1234 →\n\t日本\n"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_output_is_complete(made: Path) -> None:
    metrics = json.loads((made / "pair" / "metrics.json").read_text())
    assert {*metrics["results"]} == {*demo.HELDOUT_NAMES}
    assert "draft alone" in (made / "pair" / "README.md").read_text()
    assert not [*made.rglob("*.part")]


def test_card_reports_the_clean_variant(made: Path) -> None:
    metrics = json.loads((made / "pair" / "metrics.json").read_text())
    assert "without noise" in card(SMOKE, metrics, metrics)


@pytest.mark.slow
def test_clean_variant_goes_on_from_the_pair(made: Path) -> None:
    metrics = run_clean(SMOKE, made / "work", "cpu")
    before = torch.load(made / "work" / "target.pt")["model"]
    after = torch.load(made / "work-clean" / "target.pt")["model"]
    assert metrics["target"]["num_steps"] == 1
    assert 0 < max((after[name] - before[name]).abs().max() for name in before) < 0.01


def test_clean_variant_needs_a_finished_pair(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="without --clean first"):
        run_clean(SMOKE, tmp_path / "work", "cpu")


def test_second_run_changes_nothing(made: Path) -> None:
    before = (made / "pair" / "target" / "model.safetensors").read_bytes()
    metrics = json.loads((made / "pair" / "metrics.json").read_text())
    assert run(SMOKE, made / "pair", made / "work", "cpu") == metrics
    assert (made / "pair" / "target" / "model.safetensors").read_bytes() == before


def test_resumed_training_ends_with_the_same_weights(made: Path, tmp_path: Path) -> None:
    data = [corpus.load_bins(made / "work" / f"data-{number}.npz") for number in range(3)]
    tokenizer = AutoTokenizer.from_pretrained(made / "work" / "tokenizer")
    path = tmp_path / "target.pt"

    def part(stop_at: int | None) -> Training:
        training = Training(SMOKE.target, SMOKE, len(tokenizer), "cpu")
        train(training, data, path, lambda step, loss: None, stop_at)
        return training

    assert part(4).step == 4
    resumed = part(None).model.state_dict()
    whole = torch.load(made / "work" / "target.pt")["model"]
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_learning_rate_rises_and_ends_at_zero() -> None:
    shape = replace(SMOKE.target, num_steps=1000, num_decay_steps=350)
    rates = [rate_at(step, shape) for step in range(1001)]
    assert rates[0] < rates[50] < rates[100] == rates[500] == 1.0
    assert rates[-1] == 0.0 < rates[-2] < 0.01


def test_second_phase_begins_at_its_step() -> None:
    assert [place_in_data(step, SMOKE.target) for step in (0, 1, 2, 5)] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (2, 1),
    ]


def test_data_depends_on_the_seed_alone() -> None:
    assert problems() == problems()
    assert problems() != problems(seed=1)


def test_heldout_prompts_never_occur_in_training() -> None:
    trained = {prompt for prompt, _ in problems()}
    for name in demo.HELDOUT_NAMES:
        items = corpus.heldout_set(name, replace(SMOKE, num_heldout=20))
        assert not trained & {str(item.get("prompt", item.get("messages"))) for item in items}


def test_heldout_keys_never_occur_in_training() -> None:
    drawn = itertools.islice(corpus.training_examples(3, 0.0, COPYING), NUM_PROBLEMS)
    assert not [keys for problem, _ in drawn if (keys := corpus.heldout_keys(problem))]


def test_noise_changes_decisions_at_its_rate() -> None:
    decide = noisy(random.Random(0), 0.2)
    wrong = sum(decide("a", ["a", "b"]) == "b" for _ in range(5000))
    assert 900 < wrong < 1100
    assert right("a", ["a", "b"]) == "a"


@pytest.mark.parametrize("name", demo.HELDOUT_NAMES)
def test_shipped_references_are_right_and_each_others_wrong(name: str) -> None:
    items = demo.heldout(name)
    assert len(items) >= 100
    assert all(item["unseen"] for item in items)
    assert all(score(item, item["reference"]) for item in items)
    assert not any(score(item, "") for item in items)
    neighbours = itertools.pairwise(items)
    assert sum(score(item, other["reference"]) for item, other in neighbours) < len(items) // 20


def test_unknown_heldout_set_is_refused() -> None:
    with pytest.raises(ValueError, match="there are sql, "):
        demo.heldout("nothing")


SCHEMA = "CREATE TABLE t (a INT, b TEXT);\nINSERT INTO t VALUES (1, 'x'), (2, 'y'), (2, 'y');"


def sql_item(reference: str) -> dict:
    return {"task": "sql", "schema_sql": SCHEMA, "reference": reference}


@pytest.mark.parametrize(
    ("reference", "completion", "is_right"),
    [
        ("SELECT a FROM t", "SELECT t.a FROM t ORDER BY a DESC", True),
        ("SELECT a FROM t", "SELECT DISTINCT a FROM t", False),
        ("SELECT a FROM t ORDER BY a ASC", "SELECT a FROM t ORDER BY a DESC", False),
        ("SELECT COUNT(*) FROM t", " SELECT COUNT(b) FROM t;", True),
        ("SELECT a FROM t", "SELECT c FROM t", False),
        ("SELECT a FROM t", "SELECT a FROM t; SELECT 1", False),
    ],
)
def test_sql_is_scored_by_its_rows(reference: str, completion: str, is_right: bool) -> None:
    assert score(sql_item(reference), completion) is is_right


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM t",
        "INSERT INTO t VALUES (3, 'z')",
        "UPDATE t SET a = 0",
        "CREATE TABLE u (a INT)",
        "CREATE TEMP TABLE u (a INT)",
        "DROP TABLE t",
        "ATTACH DATABASE 'other.db' AS other",
        "PRAGMA user_version = 1",
        "PRAGMA table_info(t)",
        "VACUUM INTO 'copy.db'",
        "BEGIN",
        "SELECT load_extension('x')",
        "SELECT randomblob(1000000000)",
        "SELECT count(*) FROM " + ", ".join(f"t AS t{n}" for n in range(14)),
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    ],
)
def test_sql_can_only_read_and_not_forever(query: str) -> None:
    with pytest.raises(sqlite3.Error):
        run_query(SCHEMA, query)


PYTHON = {"task": "python", "prompt": "def f(x):\n", "reference": "    return x + 1\n"}


@pytest.mark.parametrize(
    ("completion", "is_right"),
    [
        ("    return x + 1", True),
        ("    return (x+1)  # more\n", True),
        ("    return x + 2\n", False),
        ("    return x + 1\nprint(1)\n", False),
        ("    return x +\n", False),
        ("    return '\\d' is 1\n", False),
    ],
)
def test_python_is_compared_and_never_run(completion: str, is_right: bool) -> None:
    assert score(PYTHON, completion) is is_right


def test_chat_is_scored_up_to_case_and_spaces() -> None:
    item = {"task": "chat", "messages": [], "reference": "The word is rose."}
    assert score(item, " the word  is ROSE.\n")
    assert not score(item, "The word is roses.")


def test_warp_keeps_the_token_that_crosses_the_mass() -> None:
    law = warp(torch.tensor([[0.6, 0.25, 0.1, 0.05]]).log())
    assert torch.allclose(law, torch.tensor([[0.6, 0.25, 0.1, 0.0]]) / 0.95)
