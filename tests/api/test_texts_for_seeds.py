"""The embedded pair's texts for fixed seeds stay what they are, for every method.

    python tests/api/test_texts_for_seeds.py      writes texts_for_seeds.json anew

Do that only where a change is meant to change texts, and say so in its commit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import mtad
from mtad import demo

PATH = Path(__file__).with_name("texts_for_seeds.json")
SETTINGS: dict[str, dict[str, Any]] = {
    "sampled": {"temperature": 1.7, "top_k": 20, "top_p": 0.95},
    "nucleus": {"temperature": 2.0, "top_p": 0.97, "repetition_penalty": 1.1},
    "greedy": {"temperature": 0.0, "min_new_tokens": 4},
}
METHODS = (
    "autoregressive beam_search bild block_verification cactus cascade fly gbv mcss mmtad mtad "
    "mtjd prompt_lookup specinfer spectr speculative_sampling suffix typical_acceptance"
).split()


def pair() -> mtad.ModelPair:
    return mtad.load_pair("demo", dtype="float32")


def decoded(pair: mtad.ModelPair, method: str, settings: str) -> list[list[int]]:
    """The new tokens of three prompts, decoded in one batch."""
    items = [demo.heldout(part)[1] for part in ("sql", "python", "chat")]
    prompts = [item.get("prompt") or item["messages"] for item in items]
    options = {"max_new_tokens": 20, "seed": [11, 12, 13], "guard": False}
    if method != "beam_search":  # which searches the model's own distribution
        options |= SETTINGS[settings]
    return [done.token_ids for done in pair.generate(prompts, method, **options)]


SOME = ("autoregressive", "mcss", "mmtad", "mtad", "speculative_sampling")
"""Methods whose texts are decoded in all settings each time."""


def is_slow(method: str, settings: str) -> bool:
    return method not in SOME and settings == "nucleus"


def cases() -> list[tuple[str, str]]:
    every = [(m, s) for m in METHODS for s in SETTINGS if m != "beam_search"]
    return [*every, ("beam_search", "as it is")]


@pytest.fixture(scope="module")
def shared_pair() -> mtad.ModelPair:
    return pair()


@pytest.mark.parametrize(
    ("method", "settings"),
    [pytest.param(*one, marks=[pytest.mark.slow] * is_slow(*one)) for one in cases()],
)
def test_the_texts_are_the_recorded_ones(
    shared_pair: mtad.ModelPair, method: str, settings: str
) -> None:
    recorded = json.loads(PATH.read_text())
    assert decoded(shared_pair, method, settings) == recorded[f"{method} {settings}"]


if __name__ == "__main__":
    the_pair = pair()
    texts = {f"{m} {s}": decoded(the_pair, m, s) for m, s in cases()}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(ids)}" for name, ids in texts.items())
    PATH.write_text("{\n" + lines + "\n}\n")
