"""Tapes: a program recorded once gives for other inputs what the program itself gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtad.runtime.tape import BYTES_PER_OP, Tape


def ignore(phase: str) -> None: ...


def recorded(program, *inputs: Tensor) -> Tape:
    """A tape of one phase."""

    def run(begin):
        begin("all")
        return program(*inputs)

    with torch.inference_mode():
        return Tape(run, inputs)


def play(tape: Tape, *inputs: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        return tape.replay(inputs, ignore)


def test_other_inputs_of_the_same_shape() -> None:
    def program(x: Tensor, index: Tensor) -> list[Tensor]:
        values, places = x.softmax(1).topk(2, dim=1)
        picked = x.gather(1, index)
        masked = torch.where(picked > 0, picked, float("-inf")).to(torch.float64)
        return [values, places, masked, torch.cat([x, x[:, :1]], dim=1)]

    shape = torch.randn(3, 5), torch.randint(0, 5, (3, 2))
    tape = recorded(program, *shape)
    for seed in range(3):
        torch.manual_seed(seed)
        inputs = torch.randn(3, 5), torch.randint(0, 5, (3, 2))
        for got, wanted in zip(play(tape, *inputs), program(*inputs), strict=True):
            assert torch.equal(got, wanted)
            assert got.dtype == wanted.dtype


def test_changes_in_place_reach_the_buffers_that_are_given() -> None:
    def program(buffer: Tensor, slot: Tensor, x: Tensor) -> list[Tensor]:
        buffer.transpose(0, 1)[slot] = x
        buffer[0].add_(1)
        return [buffer.sum(1)]

    first = torch.zeros(2, 4), torch.tensor([1]), torch.ones(1, 2)
    tape = recorded(program, *first)
    wanted, got = torch.full((2, 4), 2.0), torch.full((2, 4), 2.0)
    slot, x = torch.tensor([3]), torch.tensor([[5.0, 7.0]])
    assert torch.equal(play(tape, got, slot, x)[0], program(wanted, slot, x)[0])
    assert torch.equal(got, wanted)


def test_what_never_changes_is_kept_and_what_is_written_to_is_not() -> None:
    weight = torch.randn(4, 4)

    def program(x: Tensor) -> list[Tensor]:
        scratch = torch.zeros(4)  # made anew at every play, for it is written to
        view = scratch[1:]
        view += x[1:]
        other = scratch * 2
        return [other, x @ weight.t(), torch.arange(4) + 1]

    tape = recorded(program, torch.ones(4))
    for _ in range(3):
        x = torch.randn(4)
        for got, wanted in zip(play(tape, x), program(x), strict=True):
            assert torch.equal(got, wanted)


def test_what_was_done_before_is_not_done_again() -> None:
    def program(x: Tensor, buffer: Tensor) -> list[Tensor]:
        for row in range(2):
            place = torch.arange(1)[:, None]  # known, though something is written where it says
            buffer[place, row] = x[:1] + 1
        halves = [x.split([1, 2])[1] * 2 + x[1:] for _ in range(3)]
        return [torch.cat(halves), x.detach()]

    tape = recorded(program, torch.ones(3), torch.zeros(1, 2))
    writing = "slice add view select index_put_ select index_put_"
    ops = f"{writing} split mul slice add cat detach".split()
    assert tape.num_bytes == BYTES_PER_OP * len(ops)
    x, got, wanted = torch.randn(3), torch.zeros(1, 2), torch.zeros(1, 2)
    for one, other in zip(play(tape, x, got), program(x, wanted), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(got, wanted)


def test_what_is_written_to_is_done_again() -> None:
    def program(x: Tensor) -> list[Tensor]:
        first, second = x * 2, x * 2
        before = first.sum()
        first[:1] += 1
        return [first, second, before, first.sum()]

    tape = recorded(program, torch.ones(3))
    x = torch.randn(3)
    for got, wanted in zip(play(tape, x), program(x), strict=True):
        assert torch.equal(got, wanted)


def test_a_tensor_returned_as_it_came_and_results_that_nobody_reads() -> None:
    def program(x: Tensor) -> list[Tensor]:
        x.exp()
        return [x.to(torch.float32), x.contiguous() + 0.5]

    tape = recorded(program, torch.ones(3))
    x = torch.randn(3)
    assert torch.equal(play(tape, x)[0], x)
    assert torch.equal(play(tape, x)[1], x + 0.5)


def test_lists_of_tensors_numbers_and_formats_are_arguments_and_results() -> None:
    def program(x: Tensor) -> list[Tensor]:
        first, second = x.split([1, 2], dim=1)
        rows = (x + 1).unbind(0)
        wide = torch.cat([second, 2 - first, first * 0.5], dim=1)
        kept = x.clone(memory_format=torch.contiguous_format)[:, None, None]
        return [wide, rows[1] // 2, kept.to(torch.int64), torch.full_like(x, float("inf"))]

    tape = recorded(program, torch.ones(2, 3))
    x = torch.randn(2, 3)
    for got, wanted in zip(play(tape, x), program(x), strict=True):
        assert torch.equal(got, wanted) and got.dtype == wanted.dtype


def test_phases_hand_their_values_on() -> None:
    heard: list[str] = []

    def run(begin) -> list[Tensor]:
        begin("first")
        y = x * 2
        z = y[1:]
        begin("nothing")
        begin("last")
        z += 1
        return [y + x]

    x = torch.arange(3.0)
    with torch.inference_mode():
        tape = Tape(run, [x])
        given = torch.tensor([5.0, 6.0, 7.0])
        (result,) = tape.replay([given], heard.append)
    assert heard == ["first", "nothing", "last"]
    assert result.tolist() == [15.0, 19.0, 22.0]


@pytest.mark.parametrize(
    "reading",
    [
        lambda x: x * float(x[0]),
        lambda x: x * 2 if bool((x > 0).any()) else x,
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x if torch.equal(x, x + 0) else -x,
    ],
    ids=["float", "bool", "mask", "nonzero", "equal"],
)
def test_a_program_that_reads_is_refused(reading) -> None:
    with pytest.raises(RuntimeError, match="reads a tensor back"):
        recorded(lambda x: [reading(x)], torch.ones(3))
