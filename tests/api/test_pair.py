"""`ModelPair`: prompts of every kind, streaming, seeds, stops and budgets."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from support.saved_pair import PADDED_ROWS, folder, pair, tokenizer
from support.tiny import similar

import mtad
from mtad.api.options import method_of
from mtad.api.pair import Chunk, Completion, ModelPair, load_pair
from mtad.errors import ContextLengthError, PromptError, VocabularyMismatchError
from mtad.methods.autoregressive import Autoregressive
from mtad.methods.mcss import MCSS
from mtad.methods.mtad import MTAD
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.testing import random_llama

PROMPTS: list[Any] = ["the cat", [40, 41, 42], [{"role": "user", "content": "hi"}]]
SHORT = {"max_new_tokens": 12, "ignore_eos": True}


def one(prompt: Any = "the cat", method: Any = None, **options: Any) -> Completion:
    (completion,) = pair().generate(prompt, method, **({"seed": 3} | SHORT | options))
    return completion


def whole(chunks: Iterator[Chunk]) -> tuple[str, list[int], Completion]:
    """Text and ids of a stream, and the completion in its last chunk."""
    seen = list(chunks)
    assert all(chunk.completion is None for chunk in seen[:-1])
    ids = [token for chunk in seen if chunk.block for token in chunk.block.token_ids]
    assert seen[-1].completion is not None
    return "".join(chunk.text for chunk in seen), ids, seen[-1].completion


@pytest.mark.slow
def test_every_kind_of_prompt() -> None:
    together = pair().generate(PROMPTS, seed=3, **SHORT)
    assert [len(c.token_ids) for c in together] == [12, 12, 12]
    alone = [one(prompt) for prompt in PROMPTS]
    assert [c.token_ids for c in alone] == [c.token_ids for c in together]


def test_a_string_is_its_ids_and_a_chat_is_its_template() -> None:
    assert one("the cat").token_ids == one(tokenizer()("the cat").input_ids).token_ids
    assert one(PROMPTS[2]).token_ids == one("<user>hi<assistant>").token_ids


@pytest.mark.parametrize("method", [MTAD(), MCSS(k_config=(2, 2)), Autoregressive()])
def test_streaming_equals_generating(method: Any) -> None:
    text, ids, completion = whole(pair().stream("the cat", method, seed=3, **SHORT))
    again = one(method=method)
    assert text == completion.text == again.text
    assert ids == completion.token_ids == again.token_ids
    assert completion.blocks == again.blocks
    assert text == tokenizer().decode(ids, skip_special_tokens=True)


def test_the_text_of_a_token_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh, decoded = ModelPair.of(pair().models), []

    def decode(_: object, ids: list[int]) -> str:
        decoded.append(ids)
        return f"<{ids[0]}>"

    monkeypatch.setattr(type(fresh.tokenizer), "decode", decode)
    assert [fresh.text_of(token) for token in (40, 41, 40)] == ["<40>", "<41>", "<40>"]
    assert decoded == [[40], [41]]


def test_chunks_of_many_prompts_carry_their_index() -> None:
    chunks = list(pair().stream_all(PROMPTS * 2, seed=3, max_batch_size=4, **SHORT))
    finished = [chunk.index for chunk in chunks if chunk.completion]
    assert sorted(finished) == list(range(6))
    texts = ["".join(c.text for c in chunks if c.index == i) for i in range(6)]
    assert texts == [c.text for c in pair().generate(PROMPTS * 2, seed=3, **SHORT)]


def test_a_seed_per_prompt() -> None:
    both = pair().generate(["the cat"] * 2, seed=[3, 4], **SHORT)
    assert [c.token_ids for c in both] == [one(seed=3).token_ids, one(seed=4).token_ids]
    assert [c.seed for c in both] == [3, 4]
    assert [c.seed for c in pair().generate(["a", "b"], seed=range(2), **SHORT)] == [0, 1]
    assert both[0].token_ids != both[1].token_ids
    with pytest.raises(ValueError, match="3 seeds were given for 2 prompts"):
        pair().generate(["a", "b"], seed=[1, 2, 3])


def test_a_drawn_seed_gives_the_text_again() -> None:
    first = one(seed=None)
    assert one(seed=first.seed).token_ids == first.token_ids
    assert one(seed=None).seed != first.seed


def test_negative_and_huge_seeds() -> None:
    for seed in (-1, 2**63, 2**64 - 1):
        assert one(seed=seed).seed == seed


@pytest.mark.parametrize("budget", [0, 1])
def test_tiny_budgets(budget: int) -> None:
    text, ids, completion = whole(pair().stream("the cat", seed=3, max_new_tokens=budget))
    assert len(completion.token_ids) == len(ids) == budget
    assert completion.finish_reason == "length"
    assert text == completion.text
    json.dumps(completion.as_dict(), allow_nan=False)


def test_no_prompts_no_completions() -> None:
    assert pair().generate([]) == []


def test_finish_reasons() -> None:
    eos = tokenizer().eos_token_id
    assert one().finish_reason == "length"
    ended = one(ignore_eos=False, logit_bias={eos: 100.0})
    assert (ended.finish_reason, ended.token_ids, ended.text) == ("stop", [eos], "")
    stopped = one(stop=one().text[2:5])
    assert stopped.finish_reason == "stop"


def test_min_new_tokens_holds_eos_back() -> None:
    eos = tokenizer().eos_token_id
    ended = one(ignore_eos=False, logit_bias={eos: 100.0}, min_new_tokens=5)
    assert ended.token_ids.index(eos) == len(ended.token_ids) - 1 == 5


@pytest.mark.slow
@pytest.mark.parametrize("method", [MTAD(accept_threshold=0.0), Autoregressive()])
def test_stop_strings_wherever_they_begin(method: Any) -> None:
    plain = one(method=method, max_new_tokens=24)
    text = plain.text
    for start in range(0, len(text) - 4, 3):
        stop = text[start : start + 3]
        if "\ufffd" in stop:
            continue
        cut = one(method=method, max_new_tokens=24, stop=["never there", stop])
        assert cut.text == text[: text.find(stop)]
        assert cut.finish_reason == "stop"
        assert cut.token_ids == plain.token_ids[: len(cut.token_ids)]
        streamed, _, _ = whole(
            pair().stream("the cat", method, seed=3, stop=stop, max_new_tokens=24, ignore_eos=True)
        )
        assert streamed == cut.text


def test_stats_agree_with_the_blocks() -> None:
    completion = one(max_new_tokens=40)
    stats = completion.stats
    assert stats.num_output_tokens == len(completion.token_ids) == 40
    assert stats.num_spec_steps == len(completion.blocks)
    assert stats.num_accepted_draft_tokens == sum(b.num_accepted for b in completion.blocks) > 0
    assert stats.decode_s > 0 and stats.prefill_s > 0


def test_options_that_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown sampling option 'temprature'.*temperature"):
        one(temprature=1.0)
    with pytest.raises(ValueError, match="max_batch_size is 0"):
        one(max_batch_size=0)
    with pytest.raises(ValueError, match=r"top_p is 0\.0"):
        one(top_p=0.0)
    with pytest.raises(ValueError, match=r"temperature is -1\.0"):
        one(temperature=-1.0)


def test_names_of_other_libraries() -> None:
    for name, hint in (
        ("max_tokens", "give max_new_tokens"),
        ("do_sample", r"give temperature=0\.0"),
        ("num_beams", r"give method=mtad\.BeamSearch"),
    ):
        with pytest.raises(ValueError, match=f"'{name}' .{hint}.*known ones: .*ignore_eos.*stop"):
            one(**{name: 1})


def test_eos_ids_that_are_ignored() -> None:
    with pytest.raises(ValueError, match="ignore_eos=True and eos_token_ids contradict"):
        one(ignore_eos=True, eos_token_ids=[1])


def test_options_are_judged_before_the_first_chunk() -> None:
    for call in (pair().stream, pair().stream_all, pair().generate):
        with pytest.raises(ValueError, match=r"top_p is 0\.0"):
            call("the cat", top_p=0.0)
        with pytest.raises(PromptError, match="empty"):
            call("")


def test_every_prompt_is_judged_before_the_first_batch() -> None:
    prompts = [*["the cat"] * 4, [PADDED_ROWS - 1]]
    with pytest.raises(PromptError, match="request 4: token id 319"):
        pair().stream_all(prompts, max_batch_size=2)
    long = [*["the cat"] * 4, [5] * 1020]
    with pytest.raises(ContextLengthError, match="request 4: the prompt has 1020 tokens"):
        pair().stream_all(long, max_batch_size=2, max_new_tokens=12)


def test_a_stream_is_of_one_prompt() -> None:
    with pytest.raises(ValueError, match="stream takes one prompt, not 2; use stream_all"):
        pair().stream(np.array([[1, 2], [3, 4]]))


def test_methods_by_name() -> None:
    assert one(method="mtad").token_ids == one().token_ids
    assert method_of("autoregressive") == Autoregressive()
    assert method_of(None) == MTAD()
    with pytest.raises(ValueError, match=r"is the class MTAD; give an instance, such as MTAD\(\)"):
        method_of(MTAD)
    with pytest.raises(ValueError, match="method is 3; it must be a Method"):
        method_of(3)
    with pytest.raises(ValueError, match="there is no method 'nothing'"):
        one(method="nothing")


def test_arrays_as_prompts_and_seeds() -> None:
    expected = one([40, 41, 42]).token_ids
    for ids in (torch.tensor([40, 41, 42]), np.array([[40, 41, 42]])):
        assert one(ids).token_ids == expected
    seeds = (np.int64(3), np.array([3]), torch.tensor(3))
    assert [one([40, 41, 42], seed=s).token_ids for s in seeds] == [expected] * 3
    assert {type(one(seed=s).seed) for s in seeds} == {int}


def test_a_special_token_as_stop_string() -> None:
    user = tokenizer().convert_tokens_to_ids("<user>")
    ended = one(stop="<user>", logit_bias={user: 100.0})
    assert (ended.token_ids, ended.text, ended.finish_reason) == ([user], "", "stop")


@pytest.mark.slow
def test_the_time_between_chunks_is_not_decode_time() -> None:
    stream = pair().stream("the cat", Autoregressive(), seed=3, max_new_tokens=4, ignore_eos=True)
    began, chunks = time.perf_counter(), []
    for chunk in stream:
        chunks.append(chunk)
        time.sleep(0.2)
    wall = time.perf_counter() - began
    assert chunks[-1].completion is not None
    stats = chunks[-1].completion.stats
    assert 0 < stats.prefill_s + stats.decode_s < wall - 0.79


def test_prompts_that_are_refused() -> None:
    with pytest.raises(PromptError, match="empty"):
        one("")
    with pytest.raises(PromptError, match="empty"):
        one([[]])
    with pytest.raises(PromptError, match=r"token id 319 is not in the vocabulary of 300"):
        one([PADDED_ROWS - 1])
    with pytest.raises(PromptError, match="token id -1"):
        one([-1])
    with pytest.raises(ContextLengthError, match="context is 1024 tokens"):
        one("the cat", max_new_tokens=2000)


@pytest.mark.slow
def test_padding_rows_are_never_produced() -> None:
    assert pair().models.vocab == len(tokenizer()) < PADDED_ROWS
    assert max(one(max_new_tokens=100, temperature=5.0).token_ids) < len(tokenizer())


def test_models_in_memory_without_a_tokenizer() -> None:
    target = random_llama()
    quiet = ModelPair(target, similar(target))
    (completion,) = quiet.generate([1, 2, 3], seed=0, max_new_tokens=8, ignore_eos=True)
    assert completion.text == ""
    assert len(completion.token_ids) == 8
    with pytest.raises(PromptError, match="without a tokenizer"):
        quiet.generate("text")
    with pytest.raises(PromptError, match="stop strings need a tokenizer"):
        quiet.generate([1], stop="x")


def test_models_in_memory_with_a_tokenizer() -> None:
    models = pair().models
    assert models.draft is not None
    own = ModelPair(models.target, models.draft, tokenizer(), draft_tokenizer=tokenizer())
    assert own.generate("the cat", seed=3, **SHORT)[0].token_ids == one().token_ids
    same = ModelPair(models.target, assistant_model=models.draft, tokenizer=tokenizer(),
                     trust_vocabulary=True)  # fmt: skip
    assert same.generate("the cat", seed=3, **SHORT)[0].token_ids == one().token_ids
    with pytest.raises(VocabularyMismatchError, match="trust_vocabulary"):
        ModelPair(models.target, models.draft, tokenizer())


def test_a_target_alone() -> None:
    alone = ModelPair(random_llama())
    assert len(alone.generate([1], Autoregressive(), seed=0, max_new_tokens=3)[0].token_ids) == 3
    with pytest.raises(ValueError, match="mtad needs a draft model"):
        alone.generate([1], max_new_tokens=3)


def test_a_draft_in_another_dtype() -> None:
    target = random_llama()
    mixed = ModelPair(target, similar(target).to(torch.bfloat16))
    (completion,) = mixed.generate([1, 2], SpeculativeSampling(), seed=0, max_new_tokens=20)
    assert completion.stats.num_accepted_draft_tokens > 0


def test_load_pair_wants_a_name_or_a_target() -> None:
    for options in ({}, {"name": "demo", "target": "x"}):
        with pytest.raises(ValueError, match="give either"):
            load_pair(**options)
    with pytest.raises(ValueError, match="no pair called 'deom'"):
        load_pair("deom")
    with pytest.raises(ValueError, match="'demo' has its own draft"):
        load_pair("demo", draft="x")


def test_a_folder_as_name_is_the_target() -> None:
    loaded = load_pair(str(folder() / "target"), draft=folder() / "draft")
    assert loaded.generate("the cat", seed=3, **SHORT)[0].token_ids == one().token_ids


@pytest.mark.slow
def test_the_embedded_pair() -> None:
    (completion,) = load_pair("demo").generate("SELECT", seed=0, max_new_tokens=4)
    assert completion.token_ids


def test_everything_public_is_there() -> None:
    assert list(mtad.__all__) == sorted(mtad.__all__, key=lambda n: (_rank(n), n))
    for name in mtad.__all__:
        assert getattr(mtad, name) is not None
    assert set(mtad._WHERE) | {"__version__"} == set(mtad.__all__) == set(dir(mtad))
    for name, module in mtad._WHERE.items():
        assert getattr(importlib.import_module(f"mtad.{module}"), name) is getattr(mtad, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mtad.nothing


def _rank(name: str) -> int:
    """Constants, then classes, then functions: the order of ruff's RUF022."""
    return 0 if name.isupper() else 1 if name.lstrip("_")[0].isupper() else 2


def test_every_method_is_public() -> None:
    for name in mtad.methods.own_names():
        assert mtad.methods.find(name).__name__ in mtad.__all__


def test_importing_mtad_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, mtad, mtad.cli; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
