"""Prompts and the target's answers to them: the same for a seed, and none lost when killed."""

import itertools
import json
from types import SimpleNamespace

import pytest
from support import saved_pair

from mtad.distill import asking
from mtad.distill.corpus import Sampling, num_tokens_of, read_answers, write_answers
from mtad.distill.prompts import bundled, follow_ups

SMALL = Sampling(max_new_tokens=12, batch_size=4)


def enough(batches):
    """A callback that ends the work after so many batches in all."""
    return lambda answers: len(answers) < batches * SMALL.batch_size


def test_bundled_prompts_are_the_same_for_a_seed_and_no_two_alike():
    first, again, other = (list(itertools.islice(bundled(seed), 600)) for seed in (1, 1, 2))
    assert first == again != other
    texts = [chat[0]["content"] for chat in first]
    assert len(set(texts)) == 600
    assert not any("{" in text or "}" in text for text in texts)


def test_follow_ups_speak_of_the_answers():
    answered = [([{"role": "user", "content": f"ask {i}"}], f"answer {i}") for i in range(40)]
    chats = list(follow_ups(answered, seed=0))
    assert len(chats) == 40 and {len(chat) for chat in chats} == {1, 3}
    for i, chat in enumerate(chats):
        assert f"answer {i}" in "".join(message["content"] for message in chat)
        assert chat[-1]["role"] == "user"


@pytest.mark.slow
def test_answers_are_those_that_the_target_gives(tmp_path):
    pair = saved_pair.pair()
    answers = write_answers(pair, tmp_path / "a.jsonl", SMALL, on_answers=enough(2))
    assert [a.temperature for a in answers] == [0.0] * 4 + [1.0] * 4
    greedy = answers[0]
    alone = pair.generate(
        [greedy.chat], method="autoregressive", temperature=0.0, max_new_tokens=12
    )
    assert tuple(alone[0].token_ids) == greedy.token_ids and alone[0].text == greedy.text
    assert read_answers(tmp_path / "a.jsonl") == answers
    assert num_tokens_of(answers) == sum(len(a.token_ids) for a in answers) > 8


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path):
    pair, path = saved_pair.pair(), tmp_path / "a.jsonl"
    whole = write_answers(pair, tmp_path / "whole.jsonl", SMALL, on_answers=enough(6))
    write_answers(pair, path, SMALL, on_answers=enough(2))
    with path.open("a") as file:
        file.write('{"chat": [{"role": "us')  # what a kill leaves
    assert write_answers(pair, path, SMALL, on_answers=enough(6)) == whole
    assert len(path.read_text().splitlines()) == len(whole)
    assert any(len(a.chat) == 3 for a in whole), "no second turn was asked"


class Writer:
    """Stands for a pair whose target writes these users' turns."""

    def __init__(self, *texts):
        self.tokenizer, self.texts, self.asked = saved_pair.tokenizer(), texts, []

    def generate(self, prompts, **options):
        self.asked += prompts
        assert options["temperature"] == 1.0 and len(set(options["seed"])) == len(prompts)
        turns = itertools.islice(itertools.cycle(self.texts), len(prompts))
        return [SimpleNamespace(text=text, finish_reason=reason) for text, reason in turns]


def test_the_target_writes_prompts_in_the_place_of_a_user():
    pair = Writer(
        (" What is a lake? ", "stop"), ("no end of it, and so", "length"), ("Eh?", "stop")
    )
    found = asking.own_prompts(pair, 6, seed=3)
    assert found == [[{"role": "user", "content": "What is a lake?"}]]
    assert pair.tokenizer.decode(pair.asked[0]) == "<user>"


def test_own_prompts_that_are_too_few_are_filled_up_with_bundled_ones():
    pair = Writer((" What is a lake? ", "stop"))
    batch = asking.KINDS.index("own")
    answered = [([{"role": "user", "content": "x"}], "y")] * 4 * batch
    chats = asking.next_chats(pair, answered, size=4, seed=0)
    start = 4 * batch
    assert chats[0][0]["content"] == "What is a lake?"
    assert chats[1:] == list(itertools.islice(bundled(0), start, start + 3))


def test_a_target_without_a_template_is_asked_bundled_prompts(monkeypatch):
    pair = saved_pair.pair()
    monkeypatch.setattr(asking, "_around_a_user", lambda tokenizer: None)
    chats = asking.next_chats(pair, [([], "")] * 4, size=4, seed=0)
    assert asking.own_prompts(pair, 4, seed=0) == []
    assert chats == list(itertools.islice(bundled(0), 4, 8))


def test_the_kinds_of_prompts_take_turns():
    """Nine batches, an odd number: with two temperatures in turns, each gets all kinds."""
    assert len(asking.KINDS) % 2 == 1
    assert {"bundled", "own", "follow-up"} == set(asking.KINDS)


@pytest.mark.slow
def test_prompts_of_the_user_are_asked_once_each(tmp_path):
    chats = [[{"role": "user", "content": f"the cat {i}"}] for i in range(6)]
    answers = write_answers(saved_pair.pair(), tmp_path / "a.jsonl", SMALL, chats)
    assert [a.chat for a in answers] == chats
    assert write_answers(saved_pair.pair(), tmp_path / "a.jsonl", SMALL, chats) == answers


def test_prompts_of_the_user_take_turns_with_others():
    """Each is asked once and in its order, at both temperatures, and others go on in theirs."""
    given = [[{"role": "user", "content": f"given {i}"}] for i in range(10)]
    pair, answered, batches = Writer((" What is a lake? ", "stop")), [], []
    for _ in range(12):
        chats = asking.next_chats(pair, answered, 2, 0, given)
        assert len(chats) == 2
        batches.append(chats)
        answered += [(chat, "an answer") for chat in chats]
    theirs = [chats[0] in given for chats in batches]
    assert [i for i, one in enumerate(theirs) if one] == [0, 2, 5, 7, 10]
    assert [c for chats, one in zip(batches, theirs, strict=True) if one for c in chats] == given
    others = [chats for chats, one in zip(batches, theirs, strict=True) if not one]
    bundled_at = [i for i, kind in enumerate(asking.KINDS) if kind == "bundled"]
    assert all("lake" not in others[i][0][0]["content"] for i in bundled_at if i < len(others))
    own_at = [i for i, kind in enumerate(asking.KINDS) if kind == "own"]
    assert all("lake" in others[i][0][0]["content"] for i in own_at if i < len(others))


def test_prompts_of_the_user_that_fill_no_batch_are_left_out():
    given = [[{"role": "user", "content": f"given {i}"}] for i in range(3)]
    chats = asking.next_chats(Writer(), [([], "")] * 4, 2, 0, given)
    assert not any("given" in chat[0]["content"] for chat in chats)


@pytest.mark.slow
def test_bundled_prompts_go_on_where_the_users_end(tmp_path):
    chats = [[{"role": "user", "content": f"the cat {i}"}] for i in range(4)]
    answers = write_answers(
        saved_pair.pair(),
        tmp_path / "a.jsonl",
        SMALL,
        chats,
        on_answers=lambda answers: len(answers) < 3 * SMALL.batch_size,
        also_bundled=True,
    )
    assert [a.chat for a in answers[: SMALL.batch_size]] == chats[: SMALL.batch_size]
    assert len(answers) == 3 * SMALL.batch_size


def test_a_damaged_file_of_answers_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"chat": []}) + "\n")
    with pytest.raises(Exception, match=r"a\.jsonl, line 1 is damaged"):
        read_answers(tmp_path / "a.jsonl")
