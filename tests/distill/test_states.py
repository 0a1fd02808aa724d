"""The states of answers: what the target's head sees, text by text."""

import pytest
import torch
from support.tiny import VOCAB

from mtad.distill.corpus import Answer
from mtad.distill.states import write_states
from mtad.testing import random_llama

ANSWERS = [
    Answer([], prompt, text, "", temperature)
    for prompt, text, temperature in (
        ((3, 5, 7), (1, 2, 3, 4), 0.0),
        ((8,), (9, 10), 1.0),
        ((1, 2, 3, 4, 5, 6), (7,), 0.0),
    )
]


@pytest.fixture(scope="module")
def target():
    return random_llama(vocab=VOCAB)


def test_a_state_gives_the_logits_that_the_token_was_drawn_from(target, tmp_path):
    states = write_states(target, ANSWERS, tmp_path)
    assert len(states) == 7
    assert states.tokens.tolist() == [1, 2, 3, 4, 9, 10, 7]
    assert states.left.tolist() == [3, 2, 1, 0, 1, 0, 0]
    assert states.temperatures.tolist() == [0, 0, 0, 0, 1, 1, 0]
    row = 0
    for answer in ANSWERS:
        ids = torch.tensor([[*answer.prompt_ids, *answer.token_ids]])
        with torch.inference_mode():
            logits = target(input_ids=ids).logits[0, len(answer.prompt_ids) - 1 : -1]
            head = target.get_output_embeddings()
            ours = head(states.hidden[row : row + len(logits)].to(head.weight.dtype))
        torch.testing.assert_close(ours, logits, atol=0.02, rtol=0.02)  # kept as bfloat16
        row += len(logits)


def test_starts_never_reach_into_the_next_answer(target, tmp_path):
    states = write_states(target, ANSWERS, tmp_path)
    assert states.starts(1).tolist() == [0, 1, 2, 4]
    assert states.starts(3).tolist() == [0]


def test_what_is_there_is_not_read_again(target, tmp_path):
    first = write_states(target, ANSWERS * 30, tmp_path)
    files = sorted(tmp_path.glob("*.pt"))
    assert len(files) == 2
    files[1].unlink()
    (tmp_path / "0000064-0000090.pt.part").write_bytes(b"what a kill left")
    stamp = files[0].stat().st_mtime_ns
    again = write_states(target, ANSWERS * 30, tmp_path)
    assert torch.equal(again.hidden, first.hidden)
    assert files[0].stat().st_mtime_ns == stamp
