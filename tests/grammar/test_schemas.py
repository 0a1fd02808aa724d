"""Random JSON schemas: no text that does not satisfy its schema, whatever the method."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest

import mtad
from mtad.methods import names

METHODS = [name for name in names() if name not in {"beam_search", "speculative_beam"}]
"""Two are left out that search many texts to their ends at once, and take long."""
SEARCHES = {"joint_greedy"}
NAMES = ["name", "x y", "né", "long_field_name", "a", '"', "0"]


def schema_of(rng: random.Random, depth: int = 2) -> dict[str, Any]:
    """A random schema whose texts are not long."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "pattern", "anyOf"]
    kind = rng.choice(kinds + ["object", "array"] * 2 * bool(depth))
    least = rng.randint(-20, 20)
    match kind:
        case "string":
            length = rng.randint(0, 3)
            return {"type": "string", "minLength": length, "maxLength": length + rng.randint(0, 4)}
        case "integer" | "number":
            return {"type": kind, "minimum": least, "maximum": least + rng.randint(0, 400)}
        case "enum":
            return {"enum": rng.sample([1, "one", None, True, [1, "a"], {"k": 2}, 0.5], 3)}
        case "pattern":
            return {"type": "string", "pattern": rng.choice(["^[a-c]{1,3}$", "^x|yy$", "^\\d{2}$"])}
        case "anyOf":
            return {"anyOf": [schema_of(rng, 0), schema_of(rng, 0)]}
        case "object":
            fields = {name: schema_of(rng, depth - 1) for name in rng.sample(NAMES, 3)}
            required = rng.sample([*fields], rng.randint(0, 3))
            head = {"type": "object", "properties": fields, "required": required}
            return head | {"additionalProperties": False}
        case "array":
            most = rng.randint(1, 3)
            items = schema_of(rng, depth - 1)
            return {"type": "array", "items": items, "minItems": 1, "maxItems": most}
        case _:
            return {"type": kind}


def check(pair: mtad.ModelPair, seed: int) -> bool:
    """Whether a text was complete; it satisfies its schema then."""
    schema = schema_of(random.Random(seed))
    method = METHODS[seed % len(METHODS)]
    greedy = {"temperature": 0.0} if method in SEARCHES else {}
    found = pair.generate("x = ", method, grammar=schema, seed=seed, max_new_tokens=250, **greedy)
    if found[0].finish_reason != "stop":
        return False
    value = json.loads(found[0].text)
    jsonschema.validate(value, schema, jsonschema.Draft202012Validator)
    return True


@pytest.fixture(scope="module")
def pair() -> mtad.ModelPair:
    return mtad.load_pair("demo")


def test_texts_of_random_schemas(pair):
    assert sum(check(pair, seed) for seed in range(12)) >= 8


@pytest.mark.slow
def test_texts_of_many_random_schemas(pair):
    assert sum(check(pair, seed) for seed in range(60)) > 40
