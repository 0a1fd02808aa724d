"""A draft of its own: what it reads, what it learns from, and how it goes on after a kill."""

import collections

import pytest
import torch
from support.ticks import Ticks
from support.tiny import VOCAB, tiny_model

from mtad.distill.acceptance import acceptance_of
from mtad.distill.beginning import logits_after
from mtad.distill.corpus import Answer
from mtad.distill.standalone import StandaloneStudent, drafted_from, drawn_texts
from mtad.distill.states import write_states
from mtad.distill.student import Step
from mtad.distill.training import Schedule, train
from mtad.sampling.params import SamplingParams
from mtad.testing import random_llama

ALL = torch.arange(VOCAB)
SAMPLED = SamplingParams(1.0)


@pytest.fixture(scope="module")
def target():
    return random_llama(vocab=VOCAB)


@pytest.fixture(scope="module")
def states(target, tmp_path_factory):
    """Of answers that the target drew, to prompts of other lengths."""
    generator, answers = torch.Generator().manual_seed(0), []
    for number in range(24):
        prompt = torch.randint(VOCAB, (1 + number % 5,), generator=generator).tolist()
        text = list(prompt)
        for _ in range(6 + number % 3):
            with torch.inference_mode():
                law = target(input_ids=torch.tensor([text])).logits[0, -1].softmax(0)
            text.append(int(torch.multinomial(law, 1, generator=generator)))
        answers.append(Answer([], tuple(prompt), tuple(text[len(prompt) :]), "", 1.0))
    return write_states(target, answers, tmp_path_factory.mktemp("states"))


@pytest.mark.slow
def test_a_draft_of_all_layers_is_accepted_always(target, states):
    student = StandaloneStudent(target, ALL, num_layers=2)
    found = acceptance_of(student, states, logits_after(target), SAMPLED, depth=3)
    assert min(found.by_position) > 0.99  # states are kept as bfloat16
    loss, acceptance = student.loss(states, Step(40, 1, torch.Generator().manual_seed(1)))
    assert float(loss.detach()) < 0.01 and acceptance > 0.97


@pytest.mark.slow
def test_it_reads_the_prompts(target, states):
    """Else the test above would not tell: with other prompts the same draft is accepted less."""
    student = StandaloneStudent(target, ALL, num_layers=2)
    others = [[*prompt[:-1], (prompt[-1] + 7) % VOCAB] for prompt in states.prompts]
    wrong = type(states)(**{**vars(states), "prompts": others})
    found = acceptance_of(student, wrong, logits_after(target), SAMPLED, depth=3)
    assert found.by_position[0] < 0.97


def test_a_capped_and_scaled_target_is_learnt_as_it_decodes(states):
    model = tiny_model("gemma3_text")
    model.config.final_logit_softcapping = 1.5
    student, ids = StandaloneStudent(model, ALL, 2), torch.tensor([[3, 5, 7]])
    with torch.inference_mode():
        expected = model(input_ids=ids).logits[0]
        entering = model.base_model(input_ids=ids).last_hidden_state[0]
        torch.testing.assert_close(logits_after(model)(entering), expected)
        torch.testing.assert_close(student._logits(entering), expected)


def test_every_answer_is_drawn_as_often_and_with_others_of_its_length(states):
    order, count = torch.Generator().manual_seed(0), collections.Counter()
    spread = []
    for _ in range(600):
        spans = drawn_texts(states, 28, order)
        count.update(spans)
        lengths = [stop - start + len(states.prompt_at(start)) for start, stop in spans]
        spread.append(max(lengths) - min(lengths))
    ends = (states.left == 0).nonzero().squeeze(1) + 1
    assert set(count) == set(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))
    assert min(count.values()) > 60 and max(count.values()) < 140  # 100 each are expected
    assert sum(spread) / len(spread) < 2  # of 24 at random it would be 3 and more


def test_places_count_as_often_as_blocks_draft_them(states):
    starts = torch.zeros(len(states))
    starts[6:12] = torch.tensor([1.0, 0.0, 0.5, 0.25, 0.0, 1.0])
    found = drafted_from(starts, [(6, 12), (0, 6)], 2)
    assert found.tolist() == [0.0, 1.0, 1.0, 0.5, 0.75, 0.25] + [0.0] * 6


def test_answers_that_were_not_walked_are_not_drawn(target, states):
    student, order = StandaloneStudent(target, ALL, 1), torch.Generator().manual_seed(0)
    starts = torch.zeros(len(states))
    ends = ((states.left == 0).nonzero().squeeze(1) + 1).tolist()
    walked = {(0, ends[0]), (ends[4], ends[5])}
    for start, stop in walked:
        starts[start:stop] = 0.5
    drawn = {span for _ in range(20) for span in drawn_texts(states, 28, order, starts)}
    assert drawn == walked
    loss, _ = student.loss(states, Step(28, 2, order, starts=starts))
    assert bool(loss.isfinite())


def trained(target, states, path, *stops):
    """A draft of one layer, trained in runs that end after so many steps."""
    schedule = Schedule(seconds=stops[-1], batch_size=48, learning_rate=2e-3, save_every_s=1e9)
    for stop in stops:
        student = StandaloneStudent(target, ALL, num_layers=1)
        train(
            student,
            states,
            schedule,
            path,
            on_step=lambda progress, stop=stop: progress.steps < stop,
            clock=Ticks(),
        )
    return student


@pytest.mark.slow
def test_training_brings_the_acceptance_up_and_leaves_the_embedding(target, states, tmp_path):
    def acceptance(student):
        laws = logits_after(target)
        return acceptance_of(student, states, laws, SAMPLED, depth=3).tokens_per_call[-1]

    before = acceptance(StandaloneStudent(target, ALL, num_layers=1))
    student = trained(target, states, tmp_path / "t.pt", 60)
    assert acceptance(student) > before + 0.2
    rows = [model.get_input_embeddings().weight for model in (student.model, target)]
    assert torch.equal(*rows)


def test_a_training_that_was_killed_goes_on_as_if_it_had_not_been(target, states, tmp_path):
    whole = trained(target, states, tmp_path / "a.pt", 12)
    resumed = trained(target, states, tmp_path / "b.pt", 5, 12)
    for name, value in whole.kept().items():
        torch.testing.assert_close(resumed.kept()[name], value, msg=name)
    assert "model.embed_tokens.weight" not in whole.kept()
