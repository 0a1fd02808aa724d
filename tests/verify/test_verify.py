"""Sound methods pass, planted mistakes are found, and near ties are told from differences."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.biased import Biased, Residual, SecondBest
from support.tiny import similar
from support.toys import make

from mtad.api.pair import ModelPair
from mtad.errors import ContextLengthError
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method
from mtad.testing import TOY_DRAFT, TOY_TARGET, markov_model, random_llama
from mtad.verify.contexts import Context
from mtad.verify.greedy import check_greedy
from mtad.verify.laws import Law
from mtad.verify.result import Verification
from mtad.verify.run import verify
from mtad.verify.sampling import Wanted, plan_draws

PAIR = ModelPair(markov_model(TOY_TARGET), markov_model(TOY_DRAFT))
PROMPTS = [[3], [0, 1, 2]]
ALWAYS = {"suppress_tokens": (3,)}
"""The start token is never produced."""


def found(
    method: Method, bias: float = 0.05, pair: ModelPair = PAIR, **sampling: Any
) -> Verification:
    wanted = Wanted(bias, power=0.95, seed=1)
    settings = {"max_new_tokens": 6} | ALWAYS | sampling
    return verify(pair, method, PROMPTS, wanted, **settings)


def outcomes(done: Verification) -> dict[str, str]:
    return {check.name: check.outcome for check in done.checks}


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        make("speculative_sampling", num_draft_tokens=2),
        make("block_verification", num_draft_tokens=2),
        make("specinfer", k_config=(2, 2)),
        make("prompt_lookup", num_draft_tokens=2),
        make("suffix", num_draft_tokens=2, fallback="draft"),
    ],
    ids=lambda method: method.name,
)
def test_a_sound_method_passes(method: Method) -> None:
    done = found(method)
    assert done.is_proven and done.differs == []
    assert done.sentence.startswith(f"No difference from the target was found: {method.name} is")
    seen = outcomes(done)
    assert seen["law of the first token"] == seen["law of the second token"] == "no difference"
    assert seen[f"greedy: {method.name} in a batch"] == "equal"
    without_draft = f"greedy: {method.name} without a draft loaded" in seen
    assert without_draft == (method.name == "prompt_lookup")
    for check in done.checks:
        if check.name.startswith("law of"):
            assert check.facts["tv"]["low"] < 0.02
            assert check.facts["power"] >= (0.95 if "first" in check.name else 0.3)
    assert found(method).as_dict == done.as_dict, "a seed gives the same draws"


@pytest.mark.parametrize("wrong", [Biased(2, share=0.06), Residual(2)], ids=["biased", "residual"])
def test_a_planted_bias_is_found(wrong: Method) -> None:
    done = found(wrong)
    assert not done.is_proven and "NOT lossless" in done.sentence
    assert "law of the first token" in done.differs
    [check] = [check for check in done.checks if check.name == "law of the first token"]
    assert check.facts["p"] < 0.01 and check.facts["tv"]["low"] > 0


@pytest.mark.slow
def test_a_bias_of_the_later_tokens_alone_is_found() -> None:
    class Late(Residual):
        def verify(self, tree: Any, target_logits: Any, warp: Any, noise: Any) -> Any:
            wrong = super().verify(tree, target_logits, warp, noise)
            right = super(Residual, self).verify(tree, target_logits, warp, noise)
            is_late = right.num_accepted > 0
            chosen = torch.where(is_late, wrong.next_token, right.next_token)
            return replace(right, next_token=chosen)

    done = found(Late(2))
    assert "law of the second token" in done.differs
    assert "law of the first token" not in done.differs


@pytest.mark.slow
def test_a_lossy_method_says_so_and_how_far_it_is() -> None:
    done = found(make("typical_acceptance", num_draft_tokens=2))
    assert not done.is_proven and "lossy by design" in done.sentence
    [check] = [check for check in done.checks if check.name == "law of the first token"]
    assert check.outcome == "differs"
    tv = check.facts["tv"]
    assert 0 < tv["low"] < tv["value"] < tv["high"] < 1


def test_a_greedy_difference_is_reported() -> None:
    done = found(SecondBest(2), temperature=0.0)
    seen = {check.name: check for check in done.checks}
    check = seen["greedy: speculative_sampling alone"]
    assert check.outcome == "differs" and check.facts["num_different"] > 0
    parting = check.facts["partings"][0]
    assert parting["gap"] > 100 * parting["rounding"] and not parting["is_near_tie"]
    assert seen["greedy: plain decoding in a batch"].outcome == "equal"
    assert seen["laws of next tokens"].outcome == "left out"


def test_a_near_tie_is_told_from_a_difference() -> None:
    """The second choice, where it is as likely as the first one to rounding."""
    tied = [[0.4, 0.4 * (1 + 1e-7), 0.2], *TOY_TARGET[1:]]
    pair = ModelPair(markov_model([tied[0]] * 4), markov_model(TOY_DRAFT))
    done = found(SecondBest(2), pair=pair, temperature=0.0)
    [check] = [c for c in done.checks if c.name == "greedy: speculative_sampling alone"]
    assert check.outcome == "within rounding"
    assert check.facts["num_near_ties"] > 0 == check.facts["num_different"]
    assert done.is_proven


@pytest.mark.slow
def test_weights_in_another_form_are_compared() -> None:
    target = random_llama()
    pair = ModelPair(target, similar(target, 0.1))
    other = ModelPair(random_llama(seed=5), similar(target, 0.1))
    params, method = SamplingParams(max_new_tokens=8), make("speculative_sampling")
    for given, outcome in ((pair, "equal"), (other, "differs"), ("none here", "left out")):
        checks = check_greedy(pair, method, [[3, 5, 7], [8]], params, given, _ignore)
        [check] = [check for check in checks if "another form" in check.name]
        assert check.outcome == outcome


def _ignore(text: str, done: int, total: int) -> None:
    assert 0 <= done <= total


def law(*probs: float) -> Law:
    import numpy as np

    return Law(np.array(probs), np.array(probs))


@pytest.mark.slow
def test_draws_are_as_many_as_the_power_takes() -> None:
    contexts = [Context.of((), 1.0, law(0.5, 0.3, 0.2)), Context.of((0,), 0.8, law(0.2, 0.8))]
    plans = [plan_draws([contexts] * 3, Wanted(bias)) for bias in (0.02, 0.01)]
    for plan in plans:
        assert min(plan.power(0), plan.power(1)) >= 0.9
        fewer = replace(plan, num_draws=int(plan.num_draws / 1.2))
        assert min(fewer.power(0), fewer.power(1)) < 0.9
        assert plan.power_at_one(0) < plan.power(0)
    assert 3.5 < plans[1].num_draws / plans[0].num_draws < 4.5
    rare = [contexts[0], Context.of((0,), 0.05, law(0.2, 0.8))]
    plan = plan_draws([rare] * 3, Wanted(0.02))
    assert plan.power(0) > 0.99 and 0.01 < plan.power(1) < 0.9, "at most twice as many for it"
    with pytest.raises(ValueError, match=r"would take more than 10,000,000 draws"):
        plan_draws([contexts], Wanted(0.00001))


def test_settings_that_leave_nothing_to_chance() -> None:
    done = found(make("speculative_sampling"), top_k=1)
    assert outcomes(done)["laws of next tokens"] == "left out"
    assert done.sentence.endswith("laws of next tokens.")


@pytest.mark.slow
def test_what_was_found_is_json() -> None:
    record = json.loads(json.dumps(found(Residual(2)).as_dict))
    assert record["claims_lossless"] and not record["is_proven"]
    assert record["method"] == {
        "name": "speculative_sampling",
        "options": {"num_draft_tokens": 2, "accept_threshold": None},
        "lossless": True,
    }
    assert {"name", "outcome", "found"} <= record["checks"][0].keys()


def test_what_cannot_be_verified_is_refused() -> None:
    alone = ModelPair(markov_model(TOY_TARGET))
    with pytest.raises(ValueError, match="needs a draft model"):
        found(make("speculative_sampling"), pair=alone)
    with pytest.raises(ContextLengthError, match="context is 512 tokens"):
        found(make("speculative_sampling"), max_new_tokens=600)


@pytest.mark.slow
def test_one_percent_is_found_on_the_embedded_pair() -> None:
    """Some minutes on one core: a sound method passes, and a bias of 1 % is found."""
    from mtad.api.pair import load_pair
    from mtad.bench.speed.prompts import prompts_for

    pair = load_pair("demo")
    prompts, settings = prompts_for("demo", 4), {"top_k": 10, "top_p": 0.9, "max_new_tokens": 24}
    assert verify(pair, make("speculative_sampling"), prompts, **settings).is_proven
    done = verify(pair, Biased(share=0.0105), prompts, **settings)
    assert "law of the first token" in done.differs
