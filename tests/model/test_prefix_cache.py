"""The prefix cache: what is found, what leaves, and rows that equal a fresh read of their texts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import torch
from support.caches import CLOSE, assert_fresh
from support.heads import fresh_hidden
from support.tiny import VOCAB, random_tree, tiny_model
from torch import Tensor

import mtad.model.kv_cache
import mtad.model.lm
from mtad.errors import CacheMemoryError
from mtad.model.lm import LM, Model
from mtad.model.prefix_cache import BLOCK, LEAST_SHARED, PrefixCache, rounds
from mtad.testing import random_llama

SIZE = 8
"""Bytes of a block in the tests that have no model."""


def numbers(first: int, stop: int) -> list[Tensor]:
    """One number for each block: the place where it begins."""
    return [torch.tensor([place], dtype=torch.int64) for place in range(first, stop, BLOCK)]


def text(num_tokens: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(VOCAB), k=num_tokens)


@pytest.mark.parametrize("same", [0, 1, 15, 16, 17, 31, 32, 33, 50])
def test_the_whole_blocks_that_two_texts_share_are_found(same: int) -> None:
    cache, first = PrefixCache(1000), text(50)
    cache.add("", first, numbers)
    other = [*first[:same], *((token + 1) % VOCAB for token in first[same:])]
    found = cache.find("", other)
    assert [int(block.data) for block in found] == [*range(0, same - BLOCK + 1, BLOCK)]
    assert cache.num_found("", other) == len(found) * BLOCK
    assert cache.find("another root", first) == []
    assert cache.num_bytes == 3 * SIZE


def test_a_block_is_found_after_its_own_beginning_alone() -> None:
    cache, block = PrefixCache(1000), [7] * BLOCK
    cache.add("", [*text(BLOCK, 1), *block], numbers)
    assert cache.find("", block) == [] and cache.find("", [*text(BLOCK, 2), *block]) == []
    cache.add("", [*text(BLOCK, 2), *block], numbers)
    assert cache.num_bytes == 4 * SIZE, "equal tokens after others are other keys and values"


def test_what_was_used_longest_ago_leaves_first_and_ends_before_beginnings() -> None:
    cache = PrefixCache(4 * SIZE)
    old, new = text(2 * BLOCK, 1), text(2 * BLOCK, 2)
    for one in (old, new):
        cache.add("", one, numbers)
    assert len(cache.find("", old)) == 2  # now the other one was used longest ago
    cache.add("", text(BLOCK, 3), numbers)
    assert (cache.num_found("", old), cache.num_found("", new)) == (2 * BLOCK, BLOCK)
    cache.add("", text(9 * BLOCK, 4), numbers)
    assert cache.num_found("", text(9 * BLOCK, 4)) == 4 * BLOCK, "as much as there is room for"
    cache.max_bytes = SIZE
    assert cache.num_found("", text(9 * BLOCK, 4)) == BLOCK and cache.num_bytes == SIZE
    cache.clear()
    assert cache.num_bytes == 0 and cache.find("", text(9 * BLOCK, 4)) == []


def test_no_block_is_left_that_no_text_can_reach() -> None:
    cache, drawn = PrefixCache(12 * SIZE), random.Random(0)
    beginnings = [text(BLOCK * n, 9) for n in range(4)]
    texts = [beginnings[i % 4] + text(3 * BLOCK, i % 7) for i in range(40)]
    for _ in range(200):
        cache.add("", drawn.choice(texts), numbers)
        cache.find("", drawn.choice(texts))
        reached = {block.id for one in texts for block in map_found(cache, one)}
        assert len(reached) * SIZE == cache.num_bytes <= 12 * SIZE


def map_found(cache: PrefixCache, tokens: Sequence[int]) -> list:
    return [cache._blocks[key] for key in cache._path("", tokens)]


# ---------------------------------------------------------------- rows of a model's cache


@pytest.fixture(scope="module")
def target() -> Model:
    return random_llama()


@pytest.fixture
def fed(target: Model) -> list[int]:
    """Rows times tokens of every forward of the target."""
    counts: list[int] = []

    def note(module: torch.nn.Module, args: object, kwargs: dict[str, Tensor]) -> None:
        counts.append(kwargs["input_ids"].numel())

    handle = target.register_forward_pre_hook(note, with_kwargs=True)
    yield counts
    handle.remove()


def lm_of(model: Model, cache: PrefixCache, num_rows: int = 4, keeps_hidden: bool = False) -> LM:
    lm = LM(model, "target", VOCAB, num_rows, 256, keeps_hidden=keeps_hidden)
    lm.share_prefixes(cache)
    return lm


def read(lm: LM, *texts: Sequence[int], salt: str | None = "") -> list[int]:
    """Read texts into rows; how many tokens of each were found."""
    with torch.inference_mode():
        lm.begin_prefill(texts, [salt] * len(texts))
        found = lm.num_cached
        while lm.prefill_chunk():
            pass
        lm.end_prefill()
    return found


def same_but_for(whole: list[int], common: int, length: int) -> list[int]:
    """A text of a length that has the first tokens of another and then no more of it."""
    return [*whole[:common], *((t + 1) % VOCAB for t in [*whole, *whole][common:])][:length]


WHOLE = text(100, 5)
OTHERS = [
    WHOLE,
    same_but_for(WHOLE, 70, 90),
    same_but_for(WHOLE, 33, 34),
    text(120, 6),
    WHOLE[:33],
    WHOLE[:34],
]
FOUND = [96, 64, 32, 0, 16, 32]
"""Whole blocks, and never the last token that is fed."""


@pytest.mark.parametrize("prefill_tokens", [12, 64, 1000])
@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2"])
def test_rows_with_cached_prefixes_equal_a_fresh_read(
    monkeypatch: pytest.MonkeyPatch, name: str, prefill_tokens: int
) -> None:
    model, cache = tiny_model(name), PrefixCache(2**24)
    assert read(lm_of(model, cache), WHOLE) == [0]
    monkeypatch.setitem(mtad.model.lm.PREFILL_TOKENS, "cpu", prefill_tokens)
    lm = lm_of(model, cache, len(OTHERS))
    assert read(lm, *OTHERS) == FOUND
    with torch.inference_mode():
        assert_fresh(lm, OTHERS, last_slot_may_lag=False)


def test_rows_that_join_others_with_a_cached_prefix(target: Model) -> None:
    cache = PrefixCache(2**24)
    lm = lm_of(target, cache)
    found = [read(lm, one) for one in (WHOLE, OTHERS[1], text(40, 8), WHOLE)]
    assert found == [[0], [64], [0], [96]]
    with torch.inference_mode():
        assert_fresh(lm, [WHOLE, OTHERS[1], text(40, 8), WHOLE], last_slot_may_lag=False)
        lm.release([3, 1])
        assert_fresh(lm, [WHOLE, OTHERS[1]], last_slot_may_lag=False)


def test_only_the_rest_is_fed(target: Model, fed: list[int]) -> None:
    cache = PrefixCache(2**24)
    lm = lm_of(target, cache)
    read(lm, WHOLE)
    assert sum(fed) == 99
    fed.clear()
    read(lm, WHOLE)
    assert fed == [3]
    fed.clear()
    read(lm, WHOLE, salt="another")
    read(lm, WHOLE, salt=None)
    assert sum(fed) == 2 * 99, "with another salt, and without any, nothing is shared"


@pytest.mark.parametrize("prefill_tokens", [12, 1000])
def test_hidden_states_after_a_cached_prefix(
    monkeypatch: pytest.MonkeyPatch, target: Model, prefill_tokens: int
) -> None:
    cache = PrefixCache(2**24)
    read(lm_of(target, cache), WHOLE)
    monkeypatch.setitem(mtad.model.lm.PREFILL_TOKENS, "cpu", prefill_tokens)
    lm = lm_of(target, cache, len(OTHERS), keeps_hidden=True)
    assert read(lm, *OTHERS) == FOUND
    torch.testing.assert_close(lm.hidden, fresh_hidden(target, OTHERS), **CLOSE)


def test_a_prefill_that_was_cancelled_leaves_nothing(target: Model) -> None:
    cache = PrefixCache(2**24)
    lm = lm_of(target, cache)
    with torch.inference_mode():
        lm.begin_prefill([WHOLE], [""])
        lm.prefill_chunk()
        lm.cancel_prefill()
    assert cache.num_bytes == 0
    assert read(lm, OTHERS[3]) == [0]
    assert read(lm, OTHERS[3], WHOLE) == [112, 0]
    with torch.inference_mode():
        assert_fresh(lm, [OTHERS[3], OTHERS[3], WHOLE], last_slot_may_lag=False)


def test_of_a_text_with_nan_nothing_is_kept() -> None:
    model, cache = random_llama(), PrefixCache(2**24)
    with torch.no_grad():
        model.get_input_embeddings().weight[WHOLE[3]] = torch.nan
    sound = [token for token in text(100, 7) if token != WHOLE[3]]
    lm = lm_of(model, cache)
    read(lm, WHOLE, sound)
    assert read(lm, WHOLE, sound) == [0, (len(sound) - 2) // BLOCK * BLOCK]


@pytest.mark.parametrize("change", ["in place", "replaced"])
def test_other_weights_find_nothing(change: str) -> None:
    model, cache = random_llama(), PrefixCache(2**24)
    lm = lm_of(model, cache)
    read(lm, WHOLE)
    assert read(lm, WHOLE) == [96]
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        if change == "in place":
            weight.mul_(1.1)
        else:
            weight.data = weight.data * 1.1
    assert read(lm, WHOLE) == [0]
    with torch.inference_mode():
        fresh = LM(model, "target", VOCAB, 1, 256)
        fresh.prefill([WHOLE])
        lm.release([2])
        root = random_tree([WHOLE], (), seed=0)
        torch.testing.assert_close(lm.forward(root), fresh.forward(root), **CLOSE)


def test_prefixes_are_given_up_where_a_cache_needs_the_memory(
    target: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = PrefixCache(2**24)
    read(lm_of(target, cache), WHOLE)
    held = cache.num_bytes
    assert held > 0
    other = lm_of(target, cache)
    needed = other.num_slots * held // 96  # bytes of a slot are those of a token

    def free(missing: int) -> Callable[[torch.device], float]:
        return lambda device: float(needed - missing + (held if cache.num_bytes == 0 else 0))

    monkeypatch.setattr(mtad.model.kv_cache, "free_bytes", free(held))
    assert read(other, text(10, 1)) == [0]
    assert other.memory_bytes == needed and cache.num_bytes == 0
    monkeypatch.setattr(mtad.model.kv_cache, "free_bytes", free(held + 1))
    with pytest.raises(CacheMemoryError):
        read(lm_of(target, cache), WHOLE)


def test_nothing_is_kept_where_memory_is_short(
    target: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = PrefixCache(2**24)
    lm = lm_of(target, cache)
    monkeypatch.setattr("mtad.model.row_prefixes.free_bytes", lambda device: 1000.0)
    read(lm, WHOLE)
    assert cache.num_bytes == 0 and lm.num_rows == 1


def test_a_scored_text_is_fed_whole_beside_one_with_a_cached_prefix(target: Model) -> None:
    cache, seen = PrefixCache(2**24), []
    lm = lm_of(target, cache)
    read(lm, WHOLE)
    lm.on_prefill = lambda logits, chunk: seen.append(logits)
    with torch.inference_mode():
        lm.begin_prefill([WHOLE, WHOLE], ["", None])
        assert lm.num_cached == [96, 0]
        while lm.prefill_chunk():
            pass
        lm.end_prefill()
        expected = target(torch.tensor([WHOLE[:-1]])).logits[0, :, :VOCAB]
    torch.testing.assert_close(torch.cat(seen, dim=1)[1], expected, **CLOSE)


def test_what_texts_share_is_read_in_rounds() -> None:
    long, short = text(LEAST_SHARED * BLOCK, 1), text((LEAST_SHARED - 1) * BLOCK, 2)
    texts = [[*long, 1], [*long, 2], [*short, 1], [*short, 2], [*long, *text(70, 3)], [5]]
    texts += [[*texts[4], 7]]
    assert rounds(texts, [0] * 7) == [[0, 2, 3, 5], [1, 4], [6]]
    assert rounds(texts, [0, *[LEAST_SHARED * BLOCK] * 6]) == [[0, 1, 2, 3, 4, 5], [6]]
    assert rounds([], []) == []
