"""A trace judged again: the recorded rule decides as it did, another one as it would have."""

from __future__ import annotations

import json
import math
import random
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.guarded import follow_script
from support.heads import random_head
from support.tiny import (
    PROMPTS,
    VOCAB,
    complete,
    each_once,
    honours,
    in_turn,
    label,
    similar,
    tiny_model,
)
from support.toys import make
from support.traced import Watched, watch
from support.trimmed import trimmed
from typer.testing import CliRunner

import mtad
from mtad import methods
from mtad.cli import app
from mtad.engine.session import Request
from mtad.errors import DataError
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method
from mtad.trace.replay import Replay, replay
from mtad.trace.rules import Rule
from mtad.trace.writer import TraceHeader, TraceWriter

FAST = ("mcss", "mtad")
"""A tree of draws and a tree of beams stand for all methods where time is short."""
SEEDS = [0, -5, 2**64 - 1]
WARPED = {"temperature": 0.8, "top_p": 0.95, "repetition_penalty": 1.2, "top_k": 30}


@pytest.fixture(scope="module")
def pair():
    target = tiny_model("llama")
    return target, similar(target)


def requests(budget: int = 12, **sampling) -> list[Request]:
    params = SamplingParams(max_new_tokens=budget, **sampling)
    return [
        Request(prompt, replace(params, seed=seed))
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
    ]


def traced(pair, path: Path, method: Method, laws: bool = True, **sampling) -> list[Watched]:
    """What was seen of three prompts' texts, and their trace."""
    return watch(pair, method, requests(**sampling), VOCAB, path, laws=laws)


class Traces:
    """Traces of three prompts' texts by method and settings, each recorded once for all tests."""

    def __init__(self, pair, folder: Path) -> None:
        self.pair, self.folder = pair, folder
        self._made: dict[str, tuple[Path, list[Watched]]] = {}
        self._texts: dict[str, list[list[int]]] = {}

    def of(self, method: Method, laws: bool = True, **sampling) -> tuple[Path, list[Watched]]:
        """The file, which is not to be changed, and what was seen."""
        key = f"{method} {laws} {sampling}"
        if key not in self._made:
            path = self.folder / f"{len(self._made)}.jsonl"
            self._made[key] = path, traced(self.pair, path, method, laws, **sampling)
        return self._made[key]

    def path(self, method: Method, **options) -> Path:
        """The file alone."""
        return self.of(method, **options)[0]

    def would(self, method: Method, **sampling) -> list[list[int]]:
        """What a method writes on its own, without a trace."""
        key = f"{method} {sampling}"
        if key not in self._texts:
            params = [request.sampling for request in requests(**sampling)]
            texts = complete(*self.pair, method, PROMPTS, params)
            self._texts[key] = [text.token_ids for text in texts]
        return self._texts[key]


@pytest.fixture(scope="module")
def traces(pair, tmp_path_factory: pytest.TempPathFactory) -> Traces:
    return Traces(pair, tmp_path_factory.mktemp("traces"))


def one(path: Path, name: str | None = None, **options):
    """What one rule makes of a trace."""
    return replay(path, [Rule(name, options)]).rules[0]


def same(path: Path) -> None:
    """The recorded rule decides everything as it did."""
    found = one(path)
    assert len(found.judged) == len(PROMPTS)
    assert [text.difference for text in found.judged] == [None] * len(PROMPTS)
    assert found.was == found.now == found.exact


# ---- the recorded rule


SETTINGS = {
    "sampled": {"budget": 5},
    "greedy": {"budget": 8, "temperature": 0.0},
    "warped": {"budget": 6} | WARPED,
    "eos": {"budget": 8, "eos_token_ids": tuple(range(0, VOCAB, 4))},
}


@pytest.mark.slow
def test_a_budget_is_spent_over_the_whole_text(pair, tmp_path: Path) -> None:
    """Each iteration is judged with what those before have left of it; another rule has its own."""
    method = make("margin", num_draft_tokens=3, max_gap=9.0, max_rank=60, regret_budget=2.5)
    seen = traced(pair, tmp_path / "t.jsonl", method, budget=24, temperature=0.0)
    same(tmp_path / "t.jsonl")
    found = one(tmp_path / "t.jsonl")
    spent = [text.blocks[-1].receipt for text in seen]
    assert [text.now.receipt for text in found.texts] == spent
    assert min(receipt["regret"] for receipt in spent) > 0.5
    tight = one(tmp_path / "t.jsonl", regret_budget=0.5)
    assert all(text.exact.receipt["regret"] < 0.5 for text in tight.texts)
    assert all(text.difference for text in tight.texts)
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    records = [line["record"] for line in lines if line.get("type") == "iteration"]
    assert max(record["receipt"]["regret"] for record in records) == max(
        receipt["regret"] for receipt in spent
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["head", "trimmed"])
@pytest.mark.parametrize(
    "method", [m for m in each_once(FAST) if m.values[0].drafted_by == "draft"]
)
def test_iterations_of_other_drafts_are_judged_as_they_were(
    pair, tmp_path: Path, method: Method, kind: str
) -> None:
    """Of drafts that have a part of the tokens, truncated where the method honours that."""
    target, similar_one = pair
    drafts = {
        "head": lambda: random_head(target, 40, scale=0.02),
        "trimmed": lambda: trimmed(similar_one, [*range(40, 7, -3), 3, 5, 9]),
    }
    settings = {"top_k": 2} if honours(method, top_k=2) else {}
    traced((target, drafts[kind]()), tmp_path / "t.jsonl", method, **settings)
    same(tmp_path / "t.jsonl")


@pytest.mark.parametrize(("method", "setting"), in_turn(FAST, SETTINGS))
def test_the_recorded_rule_decides_as_it_did(method: Method, setting: str, traces: Traces) -> None:
    path, texts = traces.of(method, **SETTINGS[setting])
    for found in replay(path, [Rule(), Rule(method.name)]).rules:
        assert [text.difference for text in found.judged] == [None] * len(PROMPTS)
        assert found.was == found.now == found.exact
        for index, (text, seen) in enumerate(zip(found.texts, texts, strict=True)):
            assert text.was.num_spec_steps == len(seen.blocks)
            assert text.was.num_draft_tokens == sum(b.num_drafted for b in seen.blocks)
            assert text.was.num_spec_tokens == sum(b.depth for b in seen.blocks)
            cut = text.was.num_output_tokens - len(seen.token_ids)  # of the last block
            accepted = sum(b.num_accepted for b in seen.blocks)
            assert accepted <= text.was.num_accepted_draft_tokens <= accepted + cut
            ends = (f"id {index}", method.name, seen.blocks[-1].finish_reason)
            assert (text.id, text.method, text.end) == ends


# ---- another rule, against a decode with it


CHAIN = {"num_draft_tokens": 3}
BEAMS = {"num_draft_tokens": 3, "beam_width": 3}
OTHERS = [
    (make("mtad", **BEAMS), make("mtad", **BEAMS, accept_threshold=0.05)),
    (make("mtad", **BEAMS), make("mtad", **BEAMS, accept_threshold=math.inf)),
    (make("mtad", **BEAMS), make("mtad", **BEAMS, endpoint="greedy")),
    (
        make("mtad", **BEAMS, ratio_on="raw"),
        make("mtad", **BEAMS, ratio_on="raw", prefix="first_failure", accept_threshold=0.2),
    ),
    (make("mmtad", **BEAMS), make("mmtad", **BEAMS, rule="own", accept_threshold=0.1)),
    (make("mmtad", **BEAMS), make("mtad", **BEAMS)),
    (
        make("mmtad", **BEAMS, ratio_on="raw"),
        make("mtad", **BEAMS, ratio_on="raw", accept_threshold=0.1),
    ),
    (make("speculative_sampling", **CHAIN), make("block_verification", **CHAIN)),
    (make("speculative_sampling", **CHAIN), make("typical_acceptance", **CHAIN)),
    (
        make("speculative_sampling", **CHAIN),
        make("speculative_sampling", **CHAIN, accept_threshold=0.3),
    ),
    (make("block_verification", **CHAIN), make("spectr", num_drafts=1, num_draft_tokens=3)),
    (make("typical_acceptance", **CHAIN), make("specinfer", k_config=(1, 1, 1))),
    (make("specinfer", k_config=(2, 2)), make("mcss", k_config=(2, 2), replacement="with")),
    (
        make("mcss", k_config=(2, 2), replacement="with"),
        make("mcss", k_config=(2, 2), replacement="naive"),
    ),
    (make("spectr", num_drafts=2, num_draft_tokens=2), make("specinfer", k_config=(2, 1))),
]


RECORDED = [was for i, (was, _) in enumerate(OTHERS) if was not in [w for w, _ in OTHERS[:i]]]


def difference_of(was: Method, other: Method) -> dict:
    """The options of a rule that `Rule` is given."""
    drafting = {"num_draft_tokens", "beam_width", "k_config", "num_drafts", "ratio_on"}
    base = was if type(was) is type(other) else type(other)()
    return {n: v for n, v in vars(other).items() if n not in drafting and v != getattr(base, n)}


@pytest.mark.parametrize(
    ("was", "other", "sampling"),
    [(was, other, ({}, WARPED)[RECORDED.index(was) % 2]) for was, other in OTHERS],
    ids=[f"{label(was)}-{label(other)}" for was, other in OTHERS],
)
def test_another_rule_is_exact_up_to_its_first_difference(
    was: Method, other: Method, sampling: dict, traces: Traces
) -> None:
    path, seen = traces.of(was, budget=12, **sampling)
    texts = [text.token_ids for text in seen]
    found = one(path, other.name, **difference_of(was, other))
    assert len(found.judged) == len(texts)
    is_the_same_rule = (was.name, other.name) == ("specinfer", "mcss")
    assert (found.num_different == 0) == is_the_same_rule
    for text, is_now, before in zip(
        found.texts, traces.would(other, budget=12, **sampling), texts, strict=True
    ):
        if text.difference is None:
            assert is_now == before
            continue
        at = text.difference.position
        written = [*before[:at], *text.difference.replayed]
        assert is_now[: len(written)] == written[: len(is_now)]
        assert text.difference.recorded != text.difference.replayed
        agreed = text.difference.num_exact_tokens
        assert before[:agreed] == is_now[:agreed]


@pytest.mark.slow
def test_counts_of_a_threshold_by_hand(traces: Traces) -> None:
    """An iteration's accepted tokens follow from the joint ratios that its record shows."""
    path, texts = traces.of(make("mtad", **BEAMS), budget=16)
    threshold = 0.2
    found = one(path, "mtad", accept_threshold=threshold)
    for text, seen in zip(found.texts, texts, strict=True):
        passing = [
            [
                node["depth"]
                for node in record["nodes"]
                if node["proposed"] and (node["joint_log_ratio"] or -9.0) >= math.log(threshold)
            ]
            for record in seen.records
        ]
        wanted = [max(depths, default=0) for depths in passing]
        assert text.now.num_accepted_draft_tokens == sum(wanted)
        exact = wanted if text.difference is None else wanted[: text.difference.iteration]
        assert text.exact.num_accepted_draft_tokens == sum(exact)
    assert found.now.num_accepted_draft_tokens > found.was.num_accepted_draft_tokens
    assert found.exact.num_spec_steps < found.now.num_spec_steps


# ---- without logits


VALUES = [
    make("mtad", **BEAMS),
    make("mtad", **BEAMS, ratio_on="raw"),
    make("mmtad", **BEAMS),
    make("speculative_sampling", **CHAIN, accept_threshold=0.3),
    make("autoregressive"),
    make("mtjd", num_block_tokens=2, beam_width=2),
]


@pytest.mark.slow
@pytest.mark.parametrize("method", VALUES, ids=label)
def test_rules_that_compare_node_values_need_no_logits(method: Method, traces: Traces) -> None:
    bare, full = (traces.path(method, laws=laws, budget=5) for laws in (False, True))
    options = {"accept_threshold": 0.05} if hasattr(method, "accept_threshold") else {}
    a, b = one(bare, method.name, **options), one(full, method.name, **options)
    assert a.now.acceptance_histogram == b.now.acceptance_histogram
    assert [t.was for t in a.texts] == [t.was for t in b.texts]
    again = one(bare)
    assert again.now.acceptance_histogram == again.was.acceptance_histogram
    assert [text.difference for text in again.texts] == [None] * len(PROMPTS)


def test_rules_that_need_logits_say_so(traces: Traces) -> None:
    path = traces.path(make("typical_acceptance", **CHAIN), laws=False, budget=5)
    with pytest.raises(
        ValueError, match=r"needs the target's logits, which --no-trace-laws left out.*: .*mtad"
    ):
        one(path)


# ---- what cannot be judged


REFUSED = [
    (
        "mtad",
        "specinfer",
        "needs the distributions that the draft drew from.*: .*typical_acceptance",
    ),
    ("mtad", "speculative_sampling", "the distributions.*speculative_sampling -o accept_threshold"),
    ("mtad", "mmtad", "judges all beams, and mtad sent one"),
    ("mtad", "beam_search", "where the target makes a block"),
    ("beam_search", "mtad", "where the target makes a block"),
    ("mtjd", "beam_search", "where the target makes a block"),
    ("prompt_lookup", "mtad", "drafts of prompt_lookup have none"),
    ("specinfer", "mtad", "judges a chain, and the trace has a tree"),
    ("specinfer", "mmtad", "drafts a tree of draws"),
    ("specinfer", "spectr", "judges chains, and the trace has a tree"),
    ("mmtad", "bild", "judges a chain"),
    ("autoregressive", "mtad", "nothing was drafted"),
]


@pytest.mark.parametrize(("was", "rule", "why"), REFUSED)
def test_a_rule_that_cannot_judge_says_why_and_which_can(
    was: str, rule: str, why: str, traces: Traces
) -> None:
    path = traces.path(make(was), budget=5)
    with pytest.raises(ValueError, match=why) as error:
        one(path, rule)
    assert "rules that can judge this trace: " in str(error.value)


def test_a_rule_compares_what_the_draft_was_ranked_by(traces: Traces) -> None:
    path = traces.path(make("mtad", **BEAMS, ratio_on="raw"), budget=5)
    with pytest.raises(ValueError, match="warped log-probabilities, and the draft's are raw"):
        one(path, "speculative_sampling", accept_threshold=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("was", each_once(FAST))
def test_the_rules_that_are_named_are_those_that_judge(was: Method, traces: Traces) -> None:
    path, able, named = traces.path(was, budget=3), set(), set()
    for name in methods.names():
        try:
            found = one(path, name)
        except ValueError as error:
            listed = str(error).partition("rules that can judge this trace: ")[2]
            named |= {rule for rule in listed.split(", ") if " -o " not in rule}
        else:
            able.add(name)
            assert found.now.num_spec_steps == found.was.num_spec_steps
    assert was.name in able
    assert named == able


@pytest.mark.slow
def test_a_method_from_elsewhere_is_recorded_and_judges_the_drafts_of_others(
    traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    lenient = "examples.custom_method"
    path = traces.path(make("speculative_sampling", **CHAIN), budget=5)
    strict, loose = one(path, lenient, lenience=1.0), one(path, lenient, lenience=0.1)
    assert [text.difference for text in strict.judged] == [None] * len(PROMPTS)
    assert loose.now.num_accepted_draft_tokens > strict.now.num_accepted_draft_tokens
    same(traces.path(make(lenient, **CHAIN), budget=5))
    found = one(traces.path(make(lenient, **CHAIN), budget=5), "speculative_sampling")
    assert len(found.judged) == len(PROMPTS)
    code, out, _ = run(path, "--method", lenient, "--sweep", "lenience=0.1,1.0")
    assert (code, f"{lenient} lenience=0.1" in out) == (0, True)
    with pytest.raises(ValueError, match="num_draft_tokens says what is drafted"):
        Rule(lenient, {"num_draft_tokens": 2})


def test_drafting_options_are_the_traces() -> None:
    with pytest.raises(ValueError, match="num_draft_tokens says what is drafted"):
        Rule("mtad", {"num_draft_tokens": 2})
    with pytest.raises(ValueError, match="there is no method 'mtat'"):
        Rule("mtat")
    with pytest.raises(ValueError, match="accept_threshold is -1"):
        Rule("mtad", {"accept_threshold": -1.0})


@pytest.mark.slow
def test_texts_of_several_methods(tmp_path: Path, pair) -> None:
    path = tmp_path / "t.jsonl"
    traced(pair, path, make("mtad", **BEAMS), budget=5)
    traced(pair, path, make("specinfer"), budget=5)
    found = one(path)
    assert [text.difference for text in found.judged] == [None] * 6
    found = one(path, "mtad", accept_threshold=0.1)
    assert [text.left_out is None for text in found.texts] == [True] * 3 + [False] * 3
    assert found.was.num_spec_steps == sum(t.was.num_spec_steps for t in found.texts[:3])


# ---- files that are not whole


@pytest.fixture(scope="module")
def small(pair, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A short trace, as bytes."""
    path = tmp_path_factory.mktemp("small") / "t.jsonl"
    watch(pair, make("mtad", **BEAMS), requests(3)[:1], VOCAB, path)
    return path.read_bytes()


def read(path: Path, data: bytes) -> Replay:
    path.write_bytes(data)
    return replay(path, [Rule(), Rule("mtad", {"accept_threshold": 0.1})])


def test_a_last_line_that_was_cut_is_left_out_and_said(small: bytes, tmp_path: Path) -> None:
    path, lines = tmp_path / "t.jsonl", small.splitlines(keepends=True)
    whole = read(path, small)
    assert not whole.is_cut
    count = whole.rules[0].was.num_spec_steps
    for cut in (1, 20, len(lines[-2]) - 1):
        part = read(path, b"".join(lines[:-2]) + lines[-2][:cut])
        assert part.is_cut
        assert part.rules[0].was.num_spec_steps == count - 1
        assert part.rules[0].texts[0].end is None
    assert read(path, b"".join(lines[:-1])).rules[0].was.num_spec_steps == count


def test_any_part_of_a_file_is_read_or_refused(small: bytes, tmp_path: Path) -> None:
    numbers = random.Random(3)
    for size in [*range(0, 40), *(numbers.randrange(len(small)) for _ in range(60))]:
        try:
            part = read(tmp_path / "t.jsonl", small[:size])
        except DataError as error:
            assert "t.jsonl" in str(error)
        except ValueError as error:
            assert "nothing was drafted" in str(error)
        else:
            assert part.is_cut or small[size - 1 : size] == b"\n"


def odd_values(value: object) -> list[object]:
    return [None, "x", -1, 10**30, [], {}, 0.5, True]


def mutated(line: dict, numbers: random.Random) -> dict:
    """The line with one value, at any depth, left out or replaced."""
    line = json.loads(json.dumps(line))
    place: dict | list = line
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return line
        key = numbers.choice(keys)
        deeper = isinstance(place[key], dict | list) and place[key] and numbers.random() < 0.8
        if deeper:
            place = place[key]
            continue
        if numbers.random() < 0.3:
            del place[key]
        else:
            place[key] = numbers.choice(odd_values(place[key]))
        return line


@pytest.mark.parametrize("name", [[], {}, 3, None])
def test_a_method_whose_name_is_no_text_is_refused(
    name: object, small: bytes, tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in small.splitlines()]
    number = next(i for i, line in enumerate(lines) if line.get("type") == "iteration")
    lines[number]["method"]["name"] = name
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    with pytest.raises(DataError, match=rf"line {number + 1} is damaged: .*must be a text"):
        read(tmp_path / "t.jsonl", data)


@pytest.mark.parametrize(("seed", "count"), [(0, 50), pytest.param(1, 200, marks=pytest.mark.slow)])
def test_a_damaged_line_is_named_and_nothing_else_is_raised(
    small: bytes, tmp_path: Path, seed: int, count: int
) -> None:
    numbers, lines, refused = random.Random(seed), small.splitlines(keepends=True), 0
    for _ in range(count):
        number = numbers.randrange(len(lines))
        odd = json.dumps(mutated(json.loads(lines[number]), numbers)).encode() + b"\n"
        try:
            read(tmp_path / "t.jsonl", b"".join([*lines[:number], odd, *lines[number + 1 :]]))
        except DataError as error:
            refused += 1
            assert "t.jsonl" in str(error)
    assert refused > 0.375 * count


HEADER = b'{"mtad_trace": 1, "target": "t", "draft": null, "vocab": 5, "eos_token_ids": []}\n'
DAMAGED = [
    (b"", "is not a trace"),
    (b"{}\n", "is not a trace"),
    (b"[]\n", "is not a JSON object"),
    (b"\xff\n", "line 1 is damaged"),
    (b'{"mtad_trace": 1}\n', "line 1 is damaged: there is no 'target'"),
    (b'{"mtad_trace": 2}\n', "of version 2; this mtad reads version 1"),
    (HEADER, "no text"),
    (HEADER.replace(b"5", b'"5"'), "line 1 is damaged: vocab is '5'; it must be an integer >= 0"),
    (HEADER.replace(b"5", b"-5"), "line 1 is damaged: vocab is -5; it must be an integer >= 0"),
]


@pytest.mark.parametrize(("data", "why"), DAMAGED)
def test_what_is_no_trace_is_refused(data: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=why):
        read(tmp_path / "t.jsonl", data)


def test_lines_that_do_not_fit_together(small: bytes, tmp_path: Path) -> None:
    path, lines = tmp_path / "t.jsonl", small.splitlines(keepends=True)
    with pytest.raises(DataError, match="line 2 is damaged: no request has the key"):
        read(path, b"".join([lines[0], *lines[2:]]))
    with pytest.raises(DataError, match="line 3 is damaged: there are two requests"):
        read(path, b"".join([*lines[:2], *lines[1:]]))
    with pytest.raises(DataError, match="line 3 is of unknown type 'more'"):
        read(path, b"".join([*lines[:2], b'{"type": "more"}\n', *lines[2:]]))
    with pytest.raises(DataError, match="cannot be read: No such file"):
        replay(tmp_path / "none.jsonl", [Rule()])


# ---- the command


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["replay", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(scope="module")
def path(traces: Traces) -> Path:
    """A trace to ask about, not to be changed."""
    return traces.path(make("mtad", **BEAMS))


@pytest.mark.slow
def test_the_command_prints_tables(path: Path) -> None:
    code, out, _ = run(path)
    assert code == 0
    assert "all of it, the same decisions" in out
    assert "as recorded" in out and "Beyond" not in out
    code, out, _ = run(path, "--method", "typical_acceptance", "-o", "posterior-alpha=0.9")
    assert code == 0
    assert "typical_acceptance posterior_alpha=0.9" in out
    assert "output tokens" in out and "Beyond the first decision" in out


@pytest.mark.slow
def test_the_command_prints_json(path: Path) -> None:
    code, out, _ = run(path, "--json", "-o", "accept_threshold=0.1")
    printed = json.loads(out)
    assert code == 0
    assert printed["rules"][0]["rule"] == {"method": "mtad", "options": {"accept_threshold": 0.1}}
    found = one(path, "mtad", accept_threshold=0.1)
    total, text = printed["rules"][0]["total"], printed["rules"][0]["texts"][0]
    assert total["replayed"]["num_accepted_draft_tokens"] == found.now.num_accepted_draft_tokens
    assert total["replayed_exact_part"]["num_spec_steps"] == found.exact.num_spec_steps
    assert text["first_difference"]["num_exact_tokens"] == (
        found.texts[0].difference.num_exact_tokens
    )
    rates = total["replayed"]["acceptance_rate_per_position"]
    assert rates == found.now.acceptance_rate_per_position


@pytest.mark.slow
def test_a_sweep_is_one_row_per_value_and_a_plot(path: Path, tmp_path: Path) -> None:
    picture = tmp_path / "s.png"
    code, out, _ = run(path, "--sweep", "accept_threshold=0.1,0.5,inf", "--plot", picture)
    assert code == 0
    rows = [line for line in out.splitlines() if "accept_threshold=" in line]
    assert len(rows) == 3
    accepted = [int(row.split("│")[5]) for row in rows]
    assert accepted[0] > accepted[1] > accepted[2] == 0
    assert picture.read_bytes()[1:4] == b"PNG"


def test_the_command_says_that_a_trace_was_cut(path: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(path.read_bytes()[:-5])
    code, out, _ = run(cut)
    assert code == 0
    assert "last line of the trace was cut off" in out


WRONG = [
    (["--plot", "x.png"], 2, "--plot draws a sweep"),
    (["--sweep", "accept_threshold=0.1", "--plot", "x.txt"], 2, "must end in .png"),
    (["--sweep", "accept_threshold"], 2, "expected NAME=VALUE"),
    (["--sweep", "beam_width=1,2"], 2, "beam_width says what is drafted"),
    (["-o", "temperature=1"], 2, "mtad has no option 'temperature'"),
    (["-o", "accept_threshold=x"], 2, "must be a number"),
    (["-o", "accept_threshold=1", "-o", "accept_threshold=1"], 2, "given twice"),
    (["-o", "accept_threshold=1", "--sweep", "accept_threshold=1,2"], 2, "given with -o too"),
    (["--method", "nothing"], 2, "there is no method 'nothing'"),
    (["--method", "specinfer"], 2, "rules that can judge this trace: autoregressive, bild, mtad"),
]


@pytest.mark.parametrize(("arguments", "code", "why"), WRONG)
def test_wrong_questions(path: Path, arguments: list[str], code: int, why: str) -> None:
    found, out, err = run(path, *arguments)
    assert (found, out) == (code, "")
    assert why in err


def test_the_recorded_method_may_be_a_module_in_the_working_directory(
    traces: Traces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    there = "examples.custom_method"
    lines = traces.path(make(there, **CHAIN), budget=5).read_text(encoding="utf-8")
    own = lines.replace(f'"{there}"', '"replayed_package.rule"')
    assert own != lines
    (tmp_path / "t.jsonl").write_text(own, encoding="utf-8")
    (tmp_path / "replayed_package").mkdir()
    examples = Path(__file__).parents[2] / "examples"
    shutil.copy(examples / "custom_method.py", tmp_path / "replayed_package" / "rule.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    code, out, err = run("t.jsonl")
    assert (code, err) == (0, "")
    assert "as recorded" in out


def test_no_trace(tmp_path: Path) -> None:
    code, _, err = run(tmp_path / "none.jsonl")
    assert (code, "cannot be read" in err) == (1, True)


def test_without_matplotlib_the_plot_is_refused_first(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = run(path, "--sweep", "accept_threshold=0.1", "--plot", "s.png")
    assert code == 1
    assert "pip install matplotlib" in err


@pytest.mark.slow
def test_the_pages_commands_work_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[2] / "docs" / "traces.md"
    lines = page.read_text(encoding="utf-8").splitlines()
    commands = [shlex.split(line)[2:] for line in lines if line.startswith("$ mtad ")]
    assert [words[0] for words in commands] == ["generate"] + ["replay"] * 5
    for words in commands:
        short = ["--max-new-tokens", "8"] if words[0] == "generate" else []
        done = CliRunner().invoke(app, [*words, *short], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert (tmp_path / "sweep.png").exists()


# ---- `generate` with a trace


@pytest.mark.slow
def test_a_traced_text_is_the_same_text(pair, tmp_path: Path) -> None:
    path, models = tmp_path / "t.jsonl", mtad.ModelPair(*pair)
    options = {"seed": [3, 4, 5], "max_new_tokens": 14, "method": "mtad", "max_batch_size": 2}
    with TraceWriter(path, TraceHeader.of(models.models)) as trace:
        texts = models.generate(PROMPTS, trace=trace, **options)
    assert [t.token_ids for t in texts] == [
        t.token_ids for t in models.generate(PROMPTS, **options)
    ]
    found = one(path)
    assert [text.id for text in found.texts] == ["prompt 0", "prompt 1", "prompt 2"]
    for text, was in zip(found.texts, texts, strict=True):
        assert (text.difference, text.end) == (None, "length")
        assert text.was.acceptance_histogram == was.stats.acceptance_histogram


@pytest.mark.slow
def test_plain_steps_of_the_guard_are_judged_as_what_they_were(
    pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow_script(monkeypatch, "sdp")
    path, models = tmp_path / "t.jsonl", mtad.ModelPair(*pair)
    with TraceWriter(path, TraceHeader.of(models.models)) as trace:
        made = models.generate(
            PROMPTS, "speculative_sampling", trace=trace, guard=True, seed=1, max_new_tokens=40
        )
    assert sum(text.stats.num_plain_steps for text in made) > 0
    same(path)
    found = one(path, "block_verification")
    assert len(found.judged) == len(PROMPTS)


def test_a_text_without_budget_has_no_iteration(pair, tmp_path: Path) -> None:
    path, models = tmp_path / "t.jsonl", mtad.ModelPair(*pair)
    with TraceWriter(path, TraceHeader.of(models.models)) as trace:
        models.generate([PROMPTS[0]], trace=trace, max_new_tokens=0)
    found = one(path)
    assert [(text.end, text.was.num_spec_steps) for text in found.texts] == [("length", 0)]


@pytest.mark.slow
def test_the_flags_of_generate(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    words = ["generate", "x", "--seed", "0", "--max-new-tokens", "3", "--trace", str(path)]
    assert CliRunner().invoke(app, [*words, "--no-trace-laws"]).exit_code == 0
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert "prompt_ids" in lines[1]
    assert not any("laws" in line for line in lines)
    for wrong in (["x", "--no-trace-laws"], ["--prompt-file", str(path), "--trace", "t"]):
        assert CliRunner().invoke(app, ["generate", *wrong]).exit_code == 2
