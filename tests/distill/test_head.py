"""How a head begins and learns, and whether its measured acceptance is the true one."""

import copy
import dataclasses
import random

import pytest
import torch
import transformers
from support.head_texts import head_of, rolled_out
from support.ticks import Ticks
from support.tiny import VOCAB

from mtad.distill.acceptance import acceptance_of
from mtad.distill.beginning import fit_linear, frequent_tokens, head_for, last_norm
from mtad.distill.head import HeadStudent, drawn
from mtad.distill.training import Schedule, train
from mtad.runtime.linear.formats import BF16, convert
from mtad.sampling.params import SamplingParams
from mtad.testing import random_llama


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_head_that_is_its_own_target_is_accepted_always(temperature):
    head = head_of()
    states = rolled_out(head, temperature=temperature)
    found = acceptance_of(HeadStudent(head), states, head.logits, SamplingParams(temperature))
    assert found.by_position == pytest.approx((1.0,) * 4, abs=1e-4)
    assert found.tokens_per_call[3] == pytest.approx(8 / 2, abs=1e-3)  # 5 and 3 of 8 are left


@pytest.mark.slow
def test_acceptance_at_a_position_is_of_chains_that_get_there():
    """By the definition: each place's chain is followed token by token, in plain Python."""
    head, target = head_of(seed=1), head_of(seed=2)
    head._embedding = target._embedding
    states = rolled_out(target, num_texts=12)
    head.lm_head = target.lm_head  # the target's logits are read off its states by its own rows
    got, of = [0.0] * 3, [0.0] * 3
    with torch.no_grad():
        for place in states.starts(3).tolist():
            reached, state = 1.0, states.hidden[place]
            for step in range(3):
                token = states.tokens[place + step]
                state = head(head.embed(token[None])[0], state)
                p = head.logits(states.hidden[place + step + 1]).softmax(0)
                q = head.logits(state).softmax(0)
                got[step] += reached * float(torch.minimum(p, q).sum())
                of[step] += reached
                said = states.tokens[place + step + 1]
                reached *= min(1.0, float(q[said] / p[said]))
    expected = [g / o for g, o in zip(got, of, strict=True)]
    found = acceptance_of(HeadStudent(head), states, target.logits, SamplingParams(1.0), depth=3)
    assert found.by_position == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("depth", [1, 3])
def test_tokens_per_call_are_those_of_decoding(depth):
    """Against blocks that are drawn: each text is walked along, many times."""
    head, target = head_of(seed=1), head_of(seed=2)
    head._embedding = target._embedding
    states = rolled_out(target, num_texts=6)
    head.lm_head = target.lm_head
    draw, calls, rounds, length = random.Random(0), 0, 400, 9
    with torch.no_grad():
        chances = {}
        for place in range(len(states)):
            state = states.hidden[place]
            for step in range(min(depth, int(states.left[place]))):
                state = head(head.embed(states.tokens[place + step][None])[0], state)
                said = states.tokens[place + step + 1]
                p = head.logits(states.hidden[place + step + 1]).softmax(0)[said]
                chances[place, step] = float(head.logits(state).softmax(0)[said] / p)
    for _ in range(rounds):
        for start in range(0, len(states), length):
            place = 0
            while place < length - 1:
                accepted = 0
                while accepted < depth and draw.random() < chances.get(
                    (start + place, accepted), -1.0
                ):
                    accepted += 1
                place += accepted + 1
                calls += 1
    found = acceptance_of(
        HeadStudent(head), states, target.logits, SamplingParams(1.0), depth=depth
    )
    expected = 6 * (length - 1) * rounds / calls
    assert found.tokens_per_call[-1] == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_tokens_that_the_head_cannot_say_are_not_accepted():
    target = head_of()
    states = rolled_out(target, temperature=0.0)
    head = head_of(drafted=VOCAB // 2)
    head._embedding = target._embedding
    kept = torch.arange(0, VOCAB // 2 * 2, 2)
    head.d2t.copy_(kept)
    with torch.no_grad():
        head.lm_head.weight.copy_(target.lm_head.weight[kept])
    reachable = torch.isin(states.tokens, kept).float().mean()
    found = acceptance_of(HeadStudent(head), states, target.logits, SamplingParams(0.0), depth=1)
    assert 0 < found.by_position[0] <= float(reachable) + 0.05


@pytest.mark.slow
def test_no_answer_at_the_temperature_is_an_error():
    head = head_of()
    with pytest.raises(ValueError, match=r"no answer of 5 tokens or more was drawn at 0\.5"):
        acceptance_of(HeadStudent(head), rolled_out(head), head.logits, SamplingParams(0.5))


@pytest.mark.slow
def test_the_linear_start_is_the_ridge_regression():
    target = head_of(seed=3)
    torch.nn.init.zeros_(target.down.weight)  # then the next state is linear in the inputs
    states = rolled_out(target, num_texts=200)
    head = head_of(seed=4)
    head._embedding = target._embedding
    with torch.no_grad():
        head.down.weight.zero_()
        head.lm_head.weight.copy_(target.lm_head.weight)
    assert fit_linear(head, states) > 0.95
    torch.testing.assert_close(head.fc.weight, target.fc.weight, atol=0.05, rtol=0.1)
    assert (
        acceptance_of(HeadStudent(head), states, target.logits, SamplingParams(1.0)).by_position[0]
        > 0.97
    )


def test_frequent_tokens_fill_up_with_low_ids():
    assert frequent_tokens([9, 9, 4, 9, 4, 7], 2, 20).tolist() == [4, 9]
    assert frequent_tokens([9, 9, 4], 5, 20).tolist() == [0, 1, 2, 4, 9]
    assert frequent_tokens([1], 50, 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("kind", "name"),
    [("Llama", "norm"), ("GPT2", "ln_f"), ("Gemma3Text", "norm"), ("OPT", "final_layer_norm")],
)
def test_the_last_norm_in_effect(kind, name):
    sizes = {"hidden_size": 32, "n_embd": 32, "word_embed_proj_dim": 32, "head_dim": 16}
    layers = {"num_hidden_layers": 1, "n_layer": 1, "num_attention_heads": 2, "n_head": 2}
    config = getattr(transformers, f"{kind}Config")(**sizes, **layers, vocab_size=VOCAB)
    for option in ("num_key_value_heads", "intermediate_size", "ffn_dim"):
        if hasattr(config, option):
            setattr(config, option, 2 if "heads" in option else 48)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    base = getattr(model.base_model, "decoder", model.base_model)
    norm = getattr(base, name)
    with torch.no_grad():
        for value in norm.parameters():
            value.copy_(torch.rand_like(value) + 0.5)
    weight, bias = last_norm(model)
    x = torch.nn.functional.normalize(torch.randn(5, 32) * 3) * 32**0.5
    x = x - x.mean(1, keepdim=True) if kind in ("GPT2", "OPT") else x
    x = x / x.pow(2).mean(1, keepdim=True).sqrt()
    torch.testing.assert_close(norm(x), x * weight + bias, atol=1e-3, rtol=1e-3)


def test_an_untrained_head_has_what_is_the_targets():
    target = random_llama(vocab=VOCAB)
    d2t = torch.tensor([2, 3, 5, 7])
    head = head_for(target, d2t)
    rows = target.get_output_embeddings().weight
    hidden = torch.randn(3, rows.shape[1])
    with torch.no_grad():
        torch.testing.assert_close(head.logits(head.enter(hidden)), hidden @ rows[d2t].T)
        torch.testing.assert_close(head(hidden, hidden), head.fc(torch.cat([hidden] * 2, 1)))


def test_a_packed_target_gives_the_same_head():
    plain = random_llama(vocab=2000, hidden=64).bfloat16()
    packed_model = copy.deepcopy(plain)
    assert convert(packed_model, BF16).kernels
    d2t = torch.arange(0, 2000, 3)
    ours, theirs = head_for(plain, d2t), head_for(packed_model, d2t)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name


def small_plan(steps):
    """A schedule of so many steps under a clock that ticks once per look."""
    return Schedule(seconds=steps, batch_size=32, learning_rate=3e-3, save_every_s=1e9)


def test_the_second_pass_draws_places_by_their_weight():
    places, weights = torch.tensor([0, 2, 3, 5]), torch.tensor([1.0, 9, 0, 3, 9, 0])
    chosen = drawn(places, 4000, weights, torch.Generator().manual_seed(0))
    counts = torch.bincount(chosen, minlength=6).tolist()
    assert [counts[i] for i in (1, 2, 4, 5)] == [0, 0, 0, 0]
    assert counts[0] / 4000 == pytest.approx(0.25, abs=0.03)


@pytest.mark.slow
def test_the_second_pass_learns_where_blocks_begin(tmp_path):
    """What has no weight is not learnt from: a head that sees one place alone knows that place."""
    target, head = head_of(seed=5), head_of(seed=6)
    states = rolled_out(target, num_texts=40)
    head._embedding, head.lm_head = target._embedding, target.lm_head
    weights, calls = torch.zeros(len(states)), []
    weights[9] = 1.0

    def starts():
        calls.append(len(calls))
        return weights

    schedule = dataclasses.replace(small_plan(300), returns_at=0.1, deepens_at=2, mixes_at=2)
    train(HeadStudent(head), states, schedule, tmp_path / "t.pt", starts=starts, clock=Ticks())
    assert calls == [0]
    with torch.no_grad():
        p = head.logits(states.hidden[10]).softmax(0)
        state = head(head.embed(states.tokens[9]), states.hidden[9])
        q = head.logits(state).softmax(0)
    assert float(torch.minimum(p, q).sum()) > 0.97


@pytest.mark.slow
def test_training_brings_the_acceptance_up(tmp_path):
    target, head = head_of(seed=5), head_of(seed=6)
    states = rolled_out(target, num_texts=150)
    head._embedding, head.lm_head = target._embedding, target.lm_head
    before = acceptance_of(
        HeadStudent(head), states, target.logits, SamplingParams(1.0)
    ).tokens_per_call[-1]
    train(HeadStudent(head), states, small_plan(150), tmp_path / "t.pt", clock=Ticks())
    after = acceptance_of(
        HeadStudent(head), states, target.logits, SamplingParams(1.0)
    ).tokens_per_call[-1]
    assert after > before + 0.3


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path):
    target = head_of(seed=5)
    states = rolled_out(target)

    def trained(path, *stops):
        for stop in stops:
            head = head_of(seed=6)
            head._embedding = target._embedding
            train(
                HeadStudent(head),
                states,
                small_plan(30),
                path,
                on_step=lambda progress, stop=stop: progress.steps < stop,
                clock=Ticks(),
            )
        return head.state_dict()

    whole, resumed = trained(tmp_path / "a.pt", 30), trained(tmp_path / "b.pt", 11, 30)
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, msg=name)
