"""`mtad tune`: the choice on costs that are known, and the command on tiny models."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import pytest
from support.command import cli, refused, without_loading

from mtad.advice import grid, halving, tuning
from mtad.advice.grid import fitting, lossless_grid, lossy_grid
from mtad.advice.halving import halve, rounds_of
from mtad.advice.spelling import named
from mtad.advice.tuning import nats_of
from mtad.api.costs import PLAIN, Costs, Curve, tokens_by_length
from mtad.api.options import read_config
from mtad.api.paying import Prospect
from mtad.api.turns import Timed
from mtad.errors import MtadError
from mtad.methods.margin import Margin
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.methods.suffix import Suffix
from mtad.server.settings import read_settings
from mtad.speculative.method import Method

SETTINGS = {"temperature": 1.0, "max_new_tokens": 32}
NUM_TOKENS = 64


class World:
    """Speeds that follow from costs and a rate of acceptance, with noise by setting and prompt."""

    def __init__(self, draft_s: float, rate: float, noise: float = 0.1, seed: int = 0) -> None:
        self.costs = Costs(Curve((1, 33), (1.0, 1.8)), Curve((1, 9), (draft_s, draft_s * 1.5)))
        self.rate, self.noise, self.seed = rate, noise, seed
        self.asked: Counter[str] = Counter()

    def speed(self, method: Method) -> float:
        """Without noise, over plain decoding."""
        if method == PLAIN:
            return 1.0
        prospect = Prospect.of(self.costs, method, 100)
        rate = self.rate * (0.3 if method.drafter == "none" else 1.0)
        return prospect.offers(tokens_by_length([rate] * prospect.longest))[-1].speed_up

    def __call__(self, method: Method, place: int) -> tuple[Timed, float]:
        self.asked[named(method)] += 1
        draw = random.Random(f"{self.seed} {named(method)} {place}")
        prompt = random.Random(f"{self.seed} {place}").uniform(0.8, 1.25)
        seconds = NUM_TOKENS * prompt * draw.lognormvariate(0, self.noise) / self.speed(method)
        return Timed(NUM_TOKENS, seconds, NUM_TOKENS), 0.0


@pytest.mark.slow
@pytest.mark.parametrize("draft_s", [0.02, 0.2, 0.9])
@pytest.mark.parametrize(("rate", "seed"), [(0.3, 0), (0.7, 1), (0.95, 2)])
def test_the_choice_is_within_5_percent_of_the_best_of_the_full_grid(draft_s, rate, seed) -> None:
    world, methods = World(draft_s, rate, seed=seed), lossless_grid(SETTINGS, True)
    tuned = halve(methods, 32, world)
    assert world.speed(tuned.lossless.method) >= 0.95 * max(map(world.speed, methods))
    assert tuned.within is tuned.lossless
    assert sum(world.asked.values()) < 32 * len(methods), "fewer texts than the full grid takes"


@pytest.mark.slow
def test_the_same_measurements_give_the_same_choice() -> None:
    methods = lossless_grid(SETTINGS, True)
    one, other = (halve(methods, 16, World(0.1, 0.7)) for _ in range(2))
    assert one == other and one.lossless.method == other.lossless.method


def test_settings_take_turns_and_the_slow_ones_are_asked_no_more() -> None:
    order: list[tuple[int, str]] = []
    world = World(0.1, 0.9, noise=0.01)

    def measure(method: Method, place: int) -> tuple[Timed, float]:
        order.append((place, named(method)))
        return world(method, place)

    methods = [SpeculativeSampling(num_draft_tokens=n) for n in (1, 4, 8)]
    tuned = halve(methods, 8, measure)
    assert [place for place, _ in order] == sorted(place for place, _ in order)
    first, second = ([name for at, name in order if at == place] for place in (0, 1))
    assert sorted(first) == sorted(second) and first != second, "another one begins"
    slowest = min(tuned.arms[1:], key=lambda arm: world.speed(arm.method))
    assert slowest.dropped == "slower" and len(slowest.texts) == halving.FIRST
    assert len(tuned.plain.texts) == 8, "plain decoding is never dropped"


def test_a_setting_with_one_slow_text_is_given_another_chance() -> None:
    speeds = {1: 1.0, 2: 1.5, 4: 2.0}

    def measure(method: Method, place: int) -> tuple[Timed, float]:
        length = getattr(method, "num_draft_tokens", 1)
        slow = 10 if (length, place) == (4, 0) else 1
        return Timed(NUM_TOKENS, slow * NUM_TOKENS / speeds[length], NUM_TOKENS), 0.0

    methods = [SpeculativeSampling(num_draft_tokens=n) for n in speeds]
    assert halve(methods, 4, measure).lossless.method == methods[1], "it seems to be slow"
    assert halve(methods, 64, measure).lossless.method == methods[2]


def test_rounds_ask_twice_as_many_prompts() -> None:
    assert [*rounds_of(24)] == [range(4), range(4, 8), range(8, 16), range(16, 24)]
    assert [*rounds_of(3)] == [range(3)]


GAPS = (0.1, 1.0, 4.0)


def margin(max_gap: float) -> Margin:
    return Margin(max_gap=max_gap)


def lossy(losses: Sequence[float], max_loss: float | None) -> halving.Tuned:
    """Margins that are the faster the more they lose, beside plain decoding."""
    draws = random.Random(0)
    noise = [draws.gauss(0, 0.02) for _ in range(16)]

    def measure(method: Method, place: int) -> tuple[Timed, float]:
        kind = GAPS.index(method.max_gap) if isinstance(method, Margin) else -1
        nll = NUM_TOKENS * (1.0 + (losses[kind] + noise[place] if kind >= 0 else 0.0))
        return Timed(NUM_TOKENS, NUM_TOKENS / (2.0 + kind), NUM_TOKENS), nll

    return halve([margin(gap) for gap in GAPS], 16, measure, max_loss)


def test_what_loses_too_much_is_not_taken_however_fast_it_is() -> None:
    tuned = lossy((0.0, 0.2, 0.8), 0.3)
    assert tuned.within.method == margin(1.0) and tuned.lossless.method == PLAIN
    assert {arm.method.max_gap: arm.dropped for arm in tuned.arms[1:]}[4.0] == "loses too much"
    assert lossy((0.0, 0.2, 0.8), 1.0).within.method == margin(4.0)
    assert lossy((0.1, 0.2, 0.8), 0.05).within.method == PLAIN
    assert lossy((-0.1, 0.2, 0.8), 0.05).within.method == margin(0.1), "likelier texts are fine"


def test_a_loss_that_is_not_shown_to_be_small_is_not_taken() -> None:
    assert lossy((0.2, 0.3, 0.8), 0.3).within.method == margin(0.1), "0.3 ± noise is not within 0.3"


def test_a_loss_is_not_shown_by_few_prompts(monkeypatch) -> None:
    monkeypatch.setattr(halving, "MIN_ITEMS", 17)
    assert lossy((0.0, 0.2, 0.8), 1.0).within.method == PLAIN


def test_no_loss_is_allowed_unless_it_is_asked_for() -> None:
    assert lossy((0.0, 0.0, 0.0), None).within.method == PLAIN


def test_a_percentage_of_perplexity_in_nats() -> None:
    assert nats_of(0.0) == 0.0 and math.exp(nats_of(7.0)) == pytest.approx(1.07)


def test_the_grid_is_made_of_what_methods_say_of_themselves() -> None:
    lossless, other = lossless_grid(SETTINGS, True), lossy_grid(SETTINGS, True, 0.1)
    assert lossless[0] == PLAIN and all(method.is_lossless for method in lossless)
    assert not any(method.is_lossless for method in other)
    assert len({named(method) for method in [*lossless, *other]}) == len(lossless) + len(other)
    assert all(method.drafter != "target" for method in other)
    budgets = {method.regret_budget for method in other if isinstance(method, Margin)}
    assert {round(budget, 9) for budget in budgets} == {3.2}, "of a text of 32 tokens"
    assert {method.drafted_by for method in lossless_grid(SETTINGS, False)} == {"none"}
    falling = Suffix(fallback="draft")
    assert fitting(iter([Suffix(), falling]), SETTINGS, False) == [Suffix()]
    assert not any(method.name == "joint_greedy" for method in other), "it is for temperature 0"
    assert any(m.name == "joint_greedy" for m in lossy_grid({"temperature": 0.0}, True, 0.1))


@pytest.fixture
def tuned_folder(monkeypatch, tmp_path: Path) -> tuple[Path, tuple[str, ...]]:
    """A folder, and the arguments of a command that takes little time."""
    without_loading(monkeypatch)
    monkeypatch.setattr(grid, "LENGTHS", (2,))
    monkeypatch.setattr(grid, "TREES", ((2,),))
    monkeypatch.setattr(grid, "NUM_DIALS", 1)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('"the cat"\n"x = x"\n')
    folder = tmp_path / "out"
    given = ("--prompt-file", str(prompts), "--max-new-tokens", "4", "--output", str(folder))
    return folder, given


@pytest.mark.slow
def test_the_command_writes_what_generate_and_serve_take(tuned_folder, monkeypatch) -> None:
    folder, given = tuned_folder
    assert "too few to show" in refused("tune", *given, "--max-regret", "5")
    monkeypatch.setattr("mtad.advice.tuning.MIN_ITEMS", 2)
    monkeypatch.setattr(halving, "MIN_ITEMS", 2)
    done = cli("tune", *given, "--max-regret", "5")
    assert done.exit_code == 0, done.output
    assert "fastest without loss: " in done.stdout and "within 5 nats per token" in done.stdout
    for name in ("lossless", "within-loss"):
        config = read_config(folder / f"{name}.toml")
        assert config.sampling["max_new_tokens"] == 4
        assert read_settings(folder / f"serve-{name}.toml")["method"] == config.method
        assert f"--config {folder}/{name}.toml" in done.stdout
    assert read_config(folder / "lossless.toml").method.is_lossless
    assert cli("generate", "the cat", "--config", str(folder / "lossless.toml")).exit_code == 0


def interrupted(monkeypatch, error: BaseException, after: int) -> None:
    """Let the error come instead of a text once so many are there."""
    decode, texts = tuning.decode_timed, count()

    def decode_timed(*given, **named):
        if next(texts) == after:
            raise error
        return decode(*given, **named)

    monkeypatch.setattr(tuning, "decode_timed", decode_timed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MtadError("the device is gone"), 1, "Error: the device is gone"),
    ],
)
def test_what_ends_early_says_what_it_knows_and_writes_nothing(
    tuned_folder, monkeypatch, error, code, said
) -> None:
    folder, given = tuned_folder
    num_settings = len(lossless_grid({}, True))
    interrupted(monkeypatch, error, 2 * num_settings + 1)  # a text takes two; in the second prompt
    done = cli("tune", *given, "--num-prompts", "2")
    assert done.exit_code == code and done.stdout == "" and said in done.stderr
    assert "stopped after prompt 1; no configuration was written" in done.stderr
    best = done.stderr.partition("so far: ")[2].partition(", ")[0]
    assert f"--method {best}" in done.stderr
    assert not folder.exists()


def test_without_a_prompt_that_all_have_answered_nothing_is_known(
    tuned_folder, monkeypatch
) -> None:
    folder, given = tuned_folder
    interrupted(monkeypatch, KeyboardInterrupt(), 1)
    done = cli("tune", *given)
    assert done.exit_code == 130 and "so far" not in done.stderr and not folder.exists()


def test_what_is_known_after_a_prompt_does_not_change() -> None:
    known: list[halving.Tuned] = []
    methods = [SpeculativeSampling(num_draft_tokens=n) for n in (1, 4)]
    done = halve(methods, 6, World(0.1, 0.9), on_prompt=known.append)
    assert [[len(arm.texts) for arm in one.arms] for one in known[:4]] == [
        [n] * 3 for n in range(1, 5)
    ]
    assert len(known) == 6 and known[-1].lossless.method == done.lossless.method


@pytest.mark.slow
def test_json_has_every_setting(tuned_folder) -> None:
    folder, given = tuned_folder
    record = json.loads(cli("tune", *given, "--json").stdout)
    assert set(record["chosen"]) == {"lossless"} and not (folder / "within-loss.toml").exists()
    assert record["settings"][0]["name"] == "autoregressive"
    assert record["settings"][0]["speed_over_plain"][0] == 1.0


def test_one_limit_of_the_loss_at_most() -> None:
    assert "not both" in refused("tune", "--max-loss", "3", "--max-regret", "0.1")
