"""The data: which problems are held out, the training rows in bins of fixed length, the test sets.

Training answers carry noise, held-out references never do.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from recipes.demo_pair import chat, drill, lookups, python_functions, rows, sql
from recipes.demo_pair.presets import Preset
from recipes.demo_pair.problem import Problem, noisy
from recipes.demo_pair.words import HELDOUT_DOMAINS, bucket

HELDOUT_NAMES = ("sql", "sql_unseen_words", "python", "chat")
ANSWERING = (*chat.ANSWERING, *[lookups.looking_up] * 4)
CHUNK = 2000
NUM_BUCKETS = {"schema": 8, "name": 8, "request": 8, "template": 10}
_HELDOUT_DOMAINS = {"unseen", *(domain.name for domain in HELDOUT_DOMAINS)}


def heldout_keys(problem: Problem) -> list[str]:
    """The keys of the problem that training must never see."""
    keys = [
        key
        for key, num_buckets in NUM_BUCKETS.items()
        if key in problem.keys and bucket(f"{key}:{problem.keys[key]}", num_buckets) == 0
    ]
    return keys + (["domain"] if problem.keys.get("domain") in _HELDOUT_DOMAINS else [])


def training_problem(rng: random.Random, odds: dict[str, float]) -> Problem:
    """A problem without any held-out key; the tasks come up with the given odds."""
    while True:
        task = rng.choices([*odds], [*odds.values()])[0]
        problem = _GENERATORS[task](rng)
        if not heldout_keys(problem):
            return problem


def _training_sql(rng: random.Random) -> Problem:
    return sql.problem(rng, sql.pick_lexicon(rng))


_GENERATORS: dict[str, Callable[[random.Random], Problem]] = {
    "sql": _training_sql,
    "python": python_functions.problem,
    "chat": lambda rng: chat.problem(rng, rng.choice([1, 2, 2])),
    "drill": drill.problem,
    "answering": lambda rng: chat.problem(rng, rng.choice([1, 2]), ANSWERING),
}


def training_examples(
    seed: int, noise: float, odds: dict[str, float], first: int = 0
) -> Iterator[tuple[Problem, str]]:
    """Endless pairs of a problem and its noisy answer, each made from the seed and its number."""
    for number in itertools.count(first):
        rng = random.Random(f"{seed}/train/{number}")
        problem = training_problem(rng, odds)
        yield problem, problem.answer(noisy(rng, noise))


def texts(problem: Problem, answer: str) -> list[str]:
    """Everything the problem says, as plain text for the tokenizer's training."""
    prompt = problem.prompt
    said = [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]
    return [*said, answer]


def prompt_text(tokenizer: PreTrainedTokenizerBase, problem: Problem) -> str:
    """The prompt with all its special tokens written out, as any user of the pair would get it."""
    if isinstance(problem.prompt, str):
        return tokenizer.bos_token + problem.prompt
    return tokenizer.apply_chat_template(problem.prompt, tokenize=False, add_generation_prompt=True)


def encode(tokenizer: PreTrainedTokenizerBase, lines: list[str]) -> list[list[int]]:
    """Token ids of each text, which names its special tokens itself."""
    return tokenizer(lines, add_special_tokens=False).input_ids


@dataclass(frozen=True)
class Bin:
    """Rows padded to one length: tokens, where the answer starts, where the row ends."""

    tokens: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


def build_bins(
    preset: Preset, number: int, tokenizer: PreTrainedTokenizerBase, tick: Callable[[int], Any]
) -> dict[int, Bin]:
    """One phase's rows as {length: rows}; problems too long for the last bin are left out."""
    phase = preset.phases[number]
    first = sum(earlier.num_examples for earlier in preset.phases[:number])
    found: dict[int, list[tuple[np.ndarray, int]]] = {length: [] for length in preset.bins}
    endless = training_examples(preset.seed, preset.noise, phase.odds, first)
    examples = itertools.islice(endless, phase.num_examples)
    while chunk := list(itertools.islice(examples, CHUNK)):
        prompts = encode(tokenizer, [prompt_text(tokenizer, problem) for problem, _ in chunk])
        answers = encode(tokenizer, [answer + tokenizer.eos_token for _, answer in chunk])
        for prompt, answer in zip(prompts, answers, strict=True):
            ids = np.array(prompt + answer, np.uint16)
            length = next((length for length in preset.bins if length >= len(ids)), None)
            if length:
                found[length].append((ids, len(prompt)))
        tick(len(chunk))
    return {length: _pad(rows, length) for length, rows in found.items() if rows}


def _pad(found: list[tuple[np.ndarray, int]], length: int) -> Bin:
    tokens = np.zeros((len(found), length), np.uint16)
    for row, (ids, _) in zip(tokens, found, strict=True):
        row[: len(ids)] = ids
    starts = np.array([start for _, start in found], np.int32)
    return Bin(tokens, starts, np.array([len(ids) for ids, _ in found], np.int32))


def save_bins(bins: dict[int, Bin], path: Path) -> None:
    """Write the rows so that a half-written file is never taken for a whole one."""
    part = path.with_suffix(".part.npz")
    arrays = {
        f"{n}.{field}": value for n, rows in bins.items() for field, value in vars(rows).items()
    }
    np.savez(part, **arrays)
    part.rename(path)


def load_bins(path: Path) -> dict[int, Bin]:
    """The rows that `save_bins` wrote."""
    with np.load(path) as arrays:
        lengths = sorted({int(name.split(".")[0]) for name in arrays})
        fields = ("tokens", "starts", "ends")
        return {n: Bin(*(arrays[f"{n}.{field}"] for field in fields)) for n in lengths}


def heldout_set(name: str, preset: Preset) -> list[dict[str, Any]]:
    """The items of one test set, in the order of their numbers, without repeated prompts."""
    items: dict[str, dict[str, Any]] = {}
    number = 0
    is_unseen = name == "sql_unseen_words"
    size = preset.num_heldout_unseen_words if is_unseen else preset.num_heldout
    while len(items) < size:
        rng = random.Random(f"{preset.seed}/heldout/{name}/{number}")
        item = _heldout_item(name, rng, want_template=len(items) % 2 == 0)
        number += 1
        if item:
            items.setdefault(str(item.get("prompt", item.get("messages"))), item)
    return [{"task_id": f"{name}/{n}", **item} for n, item in enumerate(items.values())]


def _heldout_item(name: str, rng: random.Random, want_template: bool) -> dict[str, Any] | None:
    """An item made of held-out parts, or None where its tables give the query nothing to find."""
    problem = _heldout_problem(name, rng, want_template)
    form = "messages" if problem.task == "chat" else "prompt"
    item = {"task": problem.task, form: problem.prompt, "reference": problem.reference}
    item["unseen"] = heldout_keys(problem)
    if problem.task != "sql":
        return item
    filled = rows.fill(rng, problem.facts["schema"], problem.reference)
    return {**item, "schema_sql": filled} if filled else None


def _heldout_problem(name: str, rng: random.Random, want_template: bool) -> Problem:
    """A problem whose schema, name or request is held out, and its template too when asked for."""
    draws: dict[str, Callable[[], Problem]] = {
        "sql": lambda: sql.problem(rng, "known"),
        "sql_unseen_words": lambda: sql.problem(rng, "unseen"),
        "python": lambda: python_functions.problem(rng),
        "chat": lambda: chat.problem(rng, rng.choice([1, 2]), ANSWERING),
    }
    while True:
        problem = draws[name]()
        unseen = heldout_keys(problem)
        if (name == "sql_unseen_words" or {"schema", "name", "request"} & {*unseen}) and (
            not want_template or "template" in unseen
        ):
            return problem
