"""Short Python functions in HumanEval's form: a signature, a docstring with an example, a body."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recipes.demo_pair.problem import Decide, Problem, right

VERBS = (
    "compute find get make build select collect derive solve handle process check take produce "
    "pick form gather scan parse fetch"
).split()
SUBJECTS = (
    "result values score total data signal answer output numbers summary level batch series index "
    "records market budget window weight branch token sample figure report"
).split()
LISTS = "values numbers items nums data xs entries scores".split()
TEXTS = "words names tokens parts labels strings".split()
SCALARS = "a b n m k x y size width count limit".split()

Line = tuple[str, str]
FILTERS: dict[str, tuple[str, ...]] = {
    "": ("the",),
    "x % 2 == 0": ("the even", "all even"),
    "x % 2 == 1": ("the odd", "all odd"),
    "x > 0": ("the positive", "all positive"),
    "x < 0": ("the negative", "all negative"),
}
BOUNDS: dict[str, tuple[str, ...]] = {
    "x > {k}": ("greater than {k}", "above {k}"),
    "x < {k}": ("less than {k}", "below {k}"),
    "x % {k} == 0": ("divisible by {k}", "that are multiples of {k}"),
    "x != {k}": ("other than {k}", "different from {k}"),
}
MAPS: dict[str, tuple[str, ...]] = {
    "x": ("",),
    "x * x": ("the squares of ", "the squared values of "),
    "2 * x": ("the doubles of ", "twice "),
    "abs(x)": ("the absolute values of ", "the magnitudes of "),
    "-x": ("the negatives of ", "the opposites of "),
}
REDUCES: dict[str, tuple[str, ...]] = {
    "sum({})": ("the sum of ", "the total of "),
    "max({})": ("the largest of ", "the maximum of "),
    "min({})": ("the smallest of ", "the minimum of "),
    "[{}]": ("a list of ", "the list of "),
    "sorted({})": ("a sorted list of ", "in increasing order "),
}
TEXT_FILTERS: dict[str, tuple[str, ...]] = {
    "w.startswith('{k}')": ("that start with '{k}'", "beginning with '{k}'"),
    "w.endswith('{k}')": ("that end with '{k}'", "ending in '{k}'"),
    "'{k}' in w": ("that contain '{k}'", "containing '{k}'"),
    "'{k}' not in w": ("that do not contain '{k}'", "without '{k}'"),
}
TEXT_MAPS: dict[str, tuple[str, ...]] = {
    "w": ("",),
    "w.upper()": ("in upper case ", "in capitals "),
    "w[::-1]": ("reversed ", "backwards "),
    "len(w)": ("the lengths of ", "the number of letters of "),
    "w[0]": ("the first letters of ", "the initials of "),
}
TESTS: dict[str, tuple[str, ...]] = {
    "{a} > {k}": ("is greater than {k}", "is above {k}"),
    "{a} < {k}": ("is less than {k}", "is below {k}"),
    "{a} == {k}": ("equals {k}", "is exactly {k}"),
    "{a} % {k} == 0": ("is divisible by {k}", "is a multiple of {k}"),
}
LABELS = "big small high low yes no good bad hot cold left right full empty open closed".split()
OPERATIONS: dict[str, tuple[str, ...]] = {
    "{a} + {b}": ("the sum of {a} and {b}", "{a} plus {b}"),
    "{a} - {b}": ("the difference of {a} and {b}", "{a} minus {b}"),
    "{a} * {b}": ("the product of {a} and {b}", "{a} times {b}"),
    "max({a}, {b})": ("the larger of {a} and {b}", "the maximum of {a} and {b}"),
    "min({a}, {b})": ("the smaller of {a} and {b}", "the minimum of {a} and {b}"),
}
THEN: dict[str, tuple[str, ...]] = {
    "{} + {k}": (", increased by {k}", ", with {k} added"),
    "{} - {k}": (", decreased by {k}", ", with {k} taken away"),
    "{} * {k}": (", multiplied by {k}", ", scaled by {k}"),
}


@dataclass(frozen=True)
class Function:
    """A function before it has a name: parameters, docstring, body, arguments of the example."""

    parameters: tuple[str, ...]
    doc: str
    body: Callable[[Decide], str]
    arguments: tuple[Any, ...]
    template: str


def _pick(rng: random.Random, table: dict[str, tuple[str, ...]]) -> Line:
    code = rng.choice([*table])
    return code, rng.choice(table[code])


def _filter(rng: random.Random) -> tuple[Line, str, list[str]]:
    """A filter as (code, adjective), the clause behind the noun, and the codes it may turn into."""
    if rng.random() < 0.5:
        return _pick(rng, FILTERS), "", [*FILTERS]
    k = rng.randint(2, 9)
    code, phrase = _pick(rng, BOUNDS)
    line = (code.format(k=k), "the")
    return line, f" {phrase.format(k=k)}", [option.format(k=k) for option in BOUNDS]


def _integers(rng: random.Random) -> list[int]:
    """Small integers that hit every filter."""
    chosen = [2, 6, -1, -4, 9, rng.randint(10, 30)]
    return rng.sample(chosen, 6)


def pipeline(rng: random.Random) -> Function:
    """A filter, a map and a reduction over a list of integers, as one comprehension."""
    name, (filtered, adjective), clause, filters = rng.choice(LISTS), *_filter(rng)
    (mapped, of), (reduced, start) = _pick(rng, MAPS), _pick(rng, REDUCES)
    doc = f"Return {start}{of}{adjective} numbers in {name}{clause}."

    def body(decide: Decide) -> str:
        test = decide(filtered, filters)
        inner = f"{decide(mapped, [*MAPS])} for x in {name}" + (f" if {test}" if test else "")
        return f"    return {decide(reduced, [*REDUCES]).format(inner)}\n"

    return Function(
        (name,), doc, body, (_integers(rng),), f"pipeline|{start}|{of}|{adjective}{clause}"
    )


def loop(rng: random.Random) -> Function:
    """The same idea written as a loop with an accumulator."""
    name, (filtered, adjective), clause, filters = rng.choice(LISTS), *_filter(rng)
    (mapped, of), start = _pick(rng, MAPS), rng.choice(["Add up ", "Sum up "])
    doc = f"{start}{of}{adjective} numbers in {name}{clause} with a loop."

    def body(decide: Decide) -> str:
        test = decide(filtered, filters)
        guard, indent = (f"        if {test}:\n", " " * 12) if test else ("", " " * 8)
        lines = f"{guard}{indent}total += {decide(mapped, [*MAPS])}\n"
        return f"    total = 0\n    for x in {name}:\n{lines}    return total\n"

    return Function((name,), doc, body, (_integers(rng),), f"loop|{start}|{of}|{adjective}{clause}")


def strings(rng: random.Random) -> Function:
    """A filter and a map over a list of strings."""
    name, k = rng.choice(TEXTS), rng.choice("abcdeilmnorst")
    (mapped, of), (filtered, clause) = _pick(rng, TEXT_MAPS), _pick(rng, TEXT_FILTERS)
    doc = f"Return {of}the strings in {name} {clause.format(k=k)}."

    def body(decide: Decide) -> str:
        test = decide(filtered, [*TEXT_FILTERS]).format(k=k)
        return f"    return [{decide(mapped, [*TEXT_MAPS])} for w in {name} if {test}]\n"

    words = rng.sample(["tea", "rain", "stone", "moon", "drama", "ocean", "list", "cable"], 4)
    return Function((name,), doc, body, (words,), f"strings|{of}|{clause}")


def branch(rng: random.Random) -> Function:
    """One of two labels, by a test."""
    name, k = rng.choice(SCALARS), rng.randint(2, 9)
    (yes, no), (test, phrase) = rng.sample(LABELS, 2), _pick(rng, TESTS)
    form = rng.choice(
        ["Return '{y}' if {a} {p}, otherwise '{n}'.", "Give '{y}' when {a} {p}, else '{n}'."]
    )

    def body(decide: Decide) -> str:
        condition = decide(test, [*TESTS]).format(a=name, k=k)
        first = decide(yes, [yes, no])
        second = no if first == yes else yes
        return f"    if {condition}:\n        return '{first}'\n    return '{second}'\n"

    doc = form.format(y=yes, n=no, a=name, p=phrase.format(k=k))
    return Function((name,), doc, body, (rng.randint(0, 12),), f"branch|{form}|{phrase}")


def arithmetic(rng: random.Random) -> Function:
    """An operation on two numbers, then one with a constant."""
    (a, b), k = rng.sample(SCALARS, 2), rng.randint(2, 9)
    (first, phrase), (second, after) = _pick(rng, OPERATIONS), _pick(rng, THEN)
    doc = f"Return {phrase.format(a=a, b=b)}{after.format(k=k)}."

    def body(decide: Decide) -> str:
        inner = decide(first, [*OPERATIONS])
        outer = decide(second, [*THEN])
        wrapped = f"({inner})" if "*" in outer and inner.startswith("{") else inner
        return f"    return {outer.replace('{}', wrapped).format(a=a, b=b, k=k)}\n"

    arguments = (rng.randint(1, 20), rng.randint(1, 20))
    return Function((a, b), doc, body, arguments, f"arithmetic|{phrase}|{after}")


FAMILIES = (pipeline, pipeline, loop, strings, branch, arithmetic)


def problem(rng: random.Random) -> Problem:
    """A named function whose example was computed with the right body."""
    function = rng.choice(FAMILIES)(rng)
    name = f"{rng.choice(VERBS)}_{rng.choice(SUBJECTS)}"
    signature = f"def {name}({', '.join(function.parameters)}):\n"
    call = f"{name}({', '.join(repr(argument) for argument in function.arguments)})"
    shown = _evaluate(signature + function.body(right), name, function.arguments)
    doc = f'    """{function.doc}\n    >>> {call}\n    {shown}\n    """\n'
    keys = {"name": name, "template": function.template}
    return Problem("python", signature + doc, function.body, keys)


def _evaluate(source: str, name: str, arguments: tuple[Any, ...]) -> str:
    """The repr of a call of our own source; nothing a model wrote ever gets here."""
    space: dict[str, Any] = {}
    exec(source, space)
    try:
        return repr(space[name](*arguments))
    except ValueError:
        return "ValueError"
