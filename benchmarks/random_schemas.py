"""Random JSON schemas: no text that breaks its schema, whatever the method.

    python benchmarks/random_schemas.py --output rows.jsonl --pair smollm2 --target-weights int8

Each seed makes a schema of the keywords that are claimed, and a chat that a server of mtad's
answers with the next method, several at once. An answer is valid, by jsonschema and its formats, or
says that its budget ended it. Anything else ends the program with status 1. Schemas that are
refused count apart. A file of rows is gone on with.
"""

from __future__ import annotations

import asyncio
import collections
import json
import random
from pathlib import Path
from typing import Annotated, Any

import httpx
import jsonschema
import typer
from rich.console import Console
from rich.progress import Progress
from serve_load import PATIENCE_S, mtad_server

from mtad.jsonl import JsonLines, read_lines
from mtad.methods import names
from mtad.pairs import DEMO, PairName

METHODS = [name for name in names() if name not in {"beam_search", "speculative_beam"}]
"""Two are left out that search many texts to their ends at once, and take long."""
SEARCHES = {"joint_greedy"}
NAMES = ["name", "x y", "né", "long_field_name", "a", '"', "0"]
PATTERNS = ["^[a-c]{1,3}$", "^x|yy$", "^\\d{2}$", "^(a|b)*c$", "^[^a]{2}$"]
FORMATS = ["date", "time", "date-time", "ipv4", "uuid", "hostname", "duration"]
VALUES = [1, "one", None, True, [1, "a"], {"k": 2}, 0.5, {"a": 1, "b": [2]}, "", -3]
PROMPT = [{"role": "user", "content": "Give me an example in JSON."}]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def schema_of(rng: random.Random, depth: int = 2) -> dict[str, Any]:
    """A random schema whose texts are not long."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "pattern", "format", "anyOf"]
    kind = rng.choice(kinds + ["object", "array", "allOf", "$ref"] * 2 * bool(depth))
    least = rng.randint(-20, 20)
    match kind:
        case "string":
            length = rng.randint(0, 3)
            return {"type": "string", "minLength": length, "maxLength": length + rng.randint(0, 4)}
        case "integer" | "number":
            strict = rng.choice(["m", "exclusiveM"])
            most = least + rng.randint(2, 400)
            return {"type": kind, f"{strict}inimum": least, f"{strict}aximum": most}
        case "enum":
            return {"enum": rng.sample(VALUES, 3)}
        case "pattern":
            return {"type": "string", "pattern": rng.choice(PATTERNS), "maxLength": 6}
        case "format":
            return {"type": "string", "format": rng.choice(FORMATS), "maxLength": 40}
        case "anyOf":
            return {rng.choice(["anyOf", "oneOf"]): [schema_of(rng, 0), schema_of(rng, 0)]}
        case "object":
            return _object(rng, depth)
        case "array":
            return _array(rng, depth)
        case "allOf":
            return {"allOf": [_object(rng, depth), _object(rng, depth)]}
        case "$ref":
            own = {"$id": f"https://example.org/{rng.getrandbits(30)}", "type": "array"}
            defs = {"$defs": {"one": schema_of(rng, 0)}, "items": {"$ref": "#/$defs/one"}}
            return own | defs | {"maxItems": 2}
        case _:
            return {"type": kind}


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    fields = {name: schema_of(rng, depth - 1) for name in rng.sample(NAMES, 3)}
    required = rng.sample([*fields], rng.randint(0, 3))
    made: dict[str, Any] = {"type": "object", "properties": fields, "required": required}
    match rng.randrange(4):
        case 0:
            made |= {"patternProperties": {"^[ax]": {"type": "integer"}}}
        case 1:
            made |= {"required": [*fields], "maxProperties": rng.randint(3, 4)}
    free = rng.choice([False, False, {"type": "string", "maxLength": 3}])
    return made | {"additionalProperties": free}


def _array(rng: random.Random, depth: int) -> dict[str, Any]:
    most = rng.randint(1, 3)
    made = {"type": "array", "items": schema_of(rng, depth - 1), "minItems": 1, "maxItems": most}
    if rng.random() < 0.3:
        made["prefixItems"] = [schema_of(rng, 0)]
    return made


def breaks(text: str, schema: dict[str, Any]) -> str | None:
    """Why a text does not satisfy a schema; None where it does."""
    kind = jsonschema.Draft202012Validator
    try:
        kind(schema, format_checker=kind.FORMAT_CHECKER).validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError) as error:
        return str(error).split("\n")[0]
    return None


def body_of(model: str, seed: int, method: str, max_tokens: int) -> dict[str, Any]:
    """The request of a seed."""
    schema = schema_of(random.Random(seed))
    form = {"type": "json_schema", "json_schema": {"name": "random", "schema": schema}}
    greedy = {"temperature": 0.0} if method in SEARCHES else {}
    own = {"seed": seed, "max_tokens": max_tokens, "response_format": form}
    return {"model": model, "messages": PROMPT, "method": method} | own | greedy


def row_of(body: dict[str, Any], status: int, answer: dict[str, Any]) -> dict[str, Any]:
    """What became of one schema."""
    schema = body["response_format"]["json_schema"]["schema"]
    row = {"seed": body["seed"], "method": body["method"], "schema": schema}
    if status == 400:
        return row | {"outcome": "refused", "why": answer["error"]["message"]}
    if status != 200:
        return row | {"outcome": "BROKEN", "why": f"status {status}: {answer}"}
    choice = answer["choices"][0]
    text = choice["message"]["content"]
    row |= {"text": text, "num_tokens": answer["usage"]["completion_tokens"]}
    if choice["finish_reason"] == "length":
        return row | {"outcome": "ended by its budget"}
    why = breaks(text, schema)
    return row | {"outcome": "valid" if why is None else "BROKEN", "why": why}


async def rows_of(url: str, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What becomes of requests that are sent at once."""
    async with httpx.AsyncClient(base_url=url, timeout=None) as client:
        path = "/v1/chat/completions"
        answers = await asyncio.gather(*(client.post(path, json=body) for body in bodies))
    pairs = zip(bodies, answers, strict=True)
    return [row_of(body, answer.status_code, answer.json()) for body, answer in pairs]


@app.command()
def main(
    output: Annotated[Path, typer.Option(help="File of rows; gone on with.")],
    pair: Annotated[PairName, typer.Option(help="Whose models.")] = DEMO,
    target_weights: str = "auto",
    schemas: Annotated[int, typer.Option(min=1, help="That are taken.")] = 1000,
    at_once: Annotated[int, typer.Option(min=1, help="Texts of one method at a time.")] = 25,
    max_tokens: Annotated[int, typer.Option(min=1)] = 100,
) -> None:
    """Texts of random schemas, from a server; all methods in turn."""
    rows = [row for row, _ in read_lines(output)] if output.exists() else []
    bar = Progress(console=Console(stderr=True))
    flags = ("--pair", pair, "--target-weights", target_weights)
    with JsonLines(output) as lines, mtad_server(*flags) as (url, _), bar:
        model = httpx.get(f"{url}/v1/models", timeout=PATIENCE_S).json()["data"][0]["id"]
        task = bar.add_task("schemas", total=schemas)
        while (taken := sum(row["outcome"] != "refused" for row in rows)) < schemas:
            bar.update(task, completed=taken)
            method = METHODS[len(rows) // at_once % len(METHODS)]
            seeds = range(len(rows), len(rows) + min(at_once, schemas - taken))
            bodies = [body_of(model, seed, method, max_tokens) for seed in seeds]
            rows += (found := asyncio.run(rows_of(url, bodies)))
            lines.append(found)
    show(rows)


def show(rows: list[dict[str, Any]]) -> None:
    """Print the counts; exit with 1 where a text is broken."""
    counts = collections.Counter(row["outcome"] for row in rows)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()))
    for row in rows:
        if row["outcome"] == "BROKEN":
            print(json.dumps(row, ensure_ascii=False))
    if counts["BROKEN"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
