"""The small HumanEval: functions of the demo pair's kind, with tests that single mistakes fail.

`python -m recipes.bundled_tasks.human_eval` writes the file again. Every name is held out of the
pair's training, and every second template too.
"""

import ast
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

from mtad import demo
from mtad.tasks import BUNDLED
from recipes.demo_pair.corpus import _heldout_problem, heldout_keys
from recipes.demo_pair.problem import Decide, Problem

PATH = BUNDLED / "human_eval" / "HumanEval.jsonl"
NUM_PROBLEMS = 220
NUM_INPUTS = 150
FEWEST_TESTS, MOST_TESTS = 5, 8
WORDS = (
    "tea rain stone moon drama ocean list cable lemon silver trade candle robot nest spider "
    "bread mask oil ink stem radio acorn delta echo iris lamp melon noon orbit rest sand toad"
).split()

Arguments = tuple[Any, ...]


def records() -> list[dict[str, str]]:
    """The problems, each in HumanEval's fields."""
    found: dict[str, dict[str, str]] = {}
    seen = {item["prompt"] for item in demo.heldout("python")}
    number = 0
    while len(found) < NUM_PROBLEMS:
        rng = random.Random(f"mini_human_eval/{number}")
        number += 1
        problem = _heldout_problem("python", rng, want_template=len(found) % 2 == 0)
        made = record(problem, rng)
        if made and "name" in heldout_keys(problem) and problem.prompt not in seen:
            found.setdefault(made["prompt"], made)
    return [{"task_id": f"mini/{n}", **made} for n, made in enumerate(found.values())]


def record(problem: Problem, rng: random.Random) -> dict[str, str] | None:
    """The problem with its tests, None where no few tests tell it from every single mistake."""
    prompt, name = str(problem.prompt), problem.keys["name"]
    drawn = [*_inputs(prompt, rng)]
    answers = _answers(prompt + problem.reference, drawn)
    inputs = [arguments for arguments, answer in zip(drawn, answers, strict=True) if answer]
    chosen = _choose(prompt, problem, inputs)
    # an example without an answer shows the name of an error instead
    if not chosen or "\n    ValueError\n" in prompt:
        return None
    lines = _assertions(prompt + problem.reference, chosen)
    test = "\n\ndef check(candidate):\n" + "".join(lines)
    fields = {"prompt": prompt, "entry_point": name, "canonical_solution": problem.reference}
    return {**fields, "test": test}


def mistakes(problem: Problem) -> list[str]:
    """Every answer with one decision of the right one taken otherwise."""
    deciders = [_deciding_otherwise(turn, other) for turn in range(4) for other in range(5)]
    return sorted({problem.answer(decide) for decide in deciders} - {problem.reference})


def _deciding_otherwise(turn: int, other: int) -> Decide:
    """A decider that is right but for its decision number `turn`."""
    asked = iter(range(1000))

    def decide(choice: str, options: Sequence[str]) -> str:
        others = [option for option in options if option != choice]
        return others[other % len(others)] if next(asked) == turn and others else choice

    return decide


def _choose(prompt: str, problem: Problem, inputs: list[Arguments]) -> list[Arguments]:
    """A few inputs that no mistake answers like the reference, if it answers any differently."""
    right = _answers(prompt + problem.reference, inputs)
    wrong = [_answers(prompt + body, inputs) for body in mistakes(problem)]
    left = [answers for answers in wrong if answers != right]
    chosen: list[int] = []
    while len(chosen) < FEWEST_TESTS or (left and len(chosen) < MOST_TESTS):
        rest = [n for n in range(len(inputs)) if n not in chosen]
        if not rest:
            return []
        best = max(rest, key=lambda n: sum(answers[n] != right[n] for answers in left))
        chosen.append(best)
        left = [answers for answers in left if answers[best] == right[best]]
    return [] if left else [inputs[n] for n in chosen]


def _inputs(prompt: str, rng: random.Random) -> Iterator[Arguments]:
    """Arguments like those of the docstring's example, without repetition."""
    example = prompt.split(">>> ")[1].splitlines()[0]
    call = ast.parse(example, mode="eval").body
    assert isinstance(call, ast.Call)
    shown = [ast.literal_eval(argument) for argument in call.args]
    seen = {repr(tuple(shown))}
    for _ in range(NUM_INPUTS):
        arguments = tuple(_like(value, rng) for value in shown)
        if repr(arguments) not in seen:
            seen.add(repr(arguments))
            yield arguments


def _like(value: Any, rng: random.Random) -> Any:
    """Another value of the same kind."""
    if isinstance(value, int):
        return rng.randint(-3, 24)
    if isinstance(value[0], str):
        return rng.sample(WORDS, rng.randint(4, 7))
    return [rng.randint(-9, 20) for _ in range(rng.randint(3, 7))]


def _answers(source: str, inputs: Sequence[Arguments]) -> list[str]:
    """The repr of each call of our own source, empty where it raises."""
    space: dict[str, Any] = {}
    exec(source, space)
    (function,) = (value for name, value in space.items() if name != "__builtins__")
    found = []
    for arguments in inputs:
        try:
            found.append(repr(function(*arguments)))
        except (ValueError, TypeError):
            found.append("")
    return found


def _assertions(source: str, inputs: Sequence[Arguments]) -> list[str]:
    """The lines of a test."""
    return [
        f"    assert candidate({', '.join(map(repr, arguments))}) == {answer}\n"
        for arguments, answer in zip(inputs, _answers(source, inputs), strict=True)
    ]


def text() -> str:
    """The whole file."""
    return "".join(json.dumps(made) + "\n" for made in records())


if __name__ == "__main__":
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(text(), encoding="utf-8")
