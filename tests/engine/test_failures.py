"""What goes wrong says so: the error names what was given, what is allowed and what to do."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from support.tiny import PROMPTS, VOCAB, complete, label, token_ids, variants

import mtad.core.buckets
import mtad.model.kv_cache
from mtad import methods
from mtad.errors import (
    CacheMemoryError,
    ContextLengthError,
    MtadError,
    NonFiniteLogitsError,
    PromptError,
)
from mtad.methods.autoregressive import Autoregressive
from mtad.methods.mmtad import MMTAD
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.model.lm import Model
from mtad.sampling.params import SamplingParams
from mtad.testing import random_llama

CHAIN = SpeculativeSampling(3)


@pytest.fixture(scope="module")
def target() -> Model:
    return random_llama()


def short(num_new: int = 6) -> SamplingParams:
    return SamplingParams(max_new_tokens=num_new)


# ---------------------------------------------------------------- prompts


@pytest.mark.parametrize("position", [0, 1])
def test_an_empty_prompt_is_refused(target, position):
    prompts = [[1, 2], [3]]
    prompts[position] = []
    with pytest.raises(PromptError, match="the prompt is empty; give at least one token"):
        complete(target, target, CHAIN, prompts, short())


@pytest.mark.parametrize("worst", [-1, -500, VOCAB, 10**6])
def test_ids_outside_the_vocabulary_are_refused(target, worst):
    with pytest.raises(PromptError, match=f"token id {worst} is not in the vocabulary of {VOCAB}"):
        complete(target, target, CHAIN, [[1, 2], [3, worst, 4]], short())


@pytest.mark.parametrize("worst", [-1, VOCAB])
def test_settings_that_name_unknown_ids_are_refused(target, worst):
    params = SamplingParams(logit_bias={worst: 1.0}, max_new_tokens=4)
    with pytest.raises(ValueError, match=f"token id {worst} is not in the vocabulary"):
        complete(target, target, CHAIN, [[1]], params)


@pytest.mark.parametrize(("prompt", "new", "allowed"), [(500, 13, 12), (511, 2, 1), (1, 512, 511)])
def test_a_text_longer_than_the_context_is_refused(target, prompt, new, allowed):
    with pytest.raises(ContextLengthError) as caught:
        complete(target, target, CHAIN, [[1, 2], [1] * prompt], [short(), short(new)])
    message = str(caught.value)
    for number in (prompt, new, prompt + new, 512):
        assert str(number) in message
    assert f"set max_new_tokens to at most {allowed}" in message
    assert "the target model's context is 512 tokens" in message


def test_the_context_of_the_draft_counts_too(target):
    draft = random_llama(context=40)
    with pytest.raises(ContextLengthError, match="the draft model's context is 40 tokens"):
        complete(target, draft, CHAIN, [[1] * 30], short(20))
    assert len(token_ids(target, draft, CHAIN, [[1] * 30], short(10))[0]) == 10
    assert len(token_ids(target, draft, Autoregressive(), [[1] * 30], short(20))[0]) == 20


@pytest.mark.parametrize("method", variants(), ids=label)
def test_a_missing_draft_is_refused_by_those_who_need_one(target, method):
    if method.drafted_by == "draft":
        with pytest.raises(ValueError, match=f"{method.name} needs a draft model and none"):
            complete(target, None, method, PROMPTS, short())
    else:
        assert all(len(text) == 3 for text in token_ids(target, None, method, PROMPTS, short(3)))


# ---------------------------------------------------------------- numbers that are none


def spoilt(model: Model, value: float, token: int) -> Model:
    """A copy whose states after `token` hold `value`."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_input_embeddings().weight[token] = value
    return other


def saturated(model: Model, logit: float) -> Model:
    """A copy that gives token 7 this logit, always."""
    other = copy.deepcopy(model)

    def overwrite(module: torch.nn.Module, args: object, logits: torch.Tensor) -> torch.Tensor:
        return torch.cat(
            [logits[..., :7], torch.full_like(logits[..., :1], logit), logits[..., 8:]], -1
        )

    other.get_output_embeddings().register_forward_hook(overwrite)
    return other


@pytest.mark.parametrize("method", variants(), ids=label)
@pytest.mark.parametrize("who", ["target", "draft"])
def test_nan_in_a_model_is_never_silent(target, method, who):
    if who == "draft" and method.drafted_by != "draft":
        pytest.skip("asks no draft model")
    broken = copy.deepcopy(target)
    with torch.no_grad():
        broken.model.layers[0].mlp.up_proj.weight[3, 3] = float("nan")
    pair = (broken, target) if who == "target" else (target, broken)
    with pytest.raises(NonFiniteLogitsError, match=f"the {who} model returned NaN or infinite"):
        complete(*pair, method, PROMPTS, short())


@pytest.mark.parametrize("who", ["target", "draft"])
@pytest.mark.parametrize("logit", [float("inf"), float("nan")])
@pytest.mark.parametrize("method", [CHAIN, MMTAD(2, 2)], ids=label)
def test_infinite_logits_are_never_silent(target, who, logit, method):
    broken = saturated(target, logit)
    pair = (broken, target) if who == "target" else (target, broken)
    with pytest.raises(NonFiniteLogitsError, match=f"the {who} model returned NaN or infinite"):
        complete(*pair, method, [[5]], short())


def test_tokens_a_model_rules_out_are_no_error(target):
    params = SamplingParams(temperature=0.0, max_new_tokens=6)
    texts = token_ids(saturated(target, float("-inf")), target, CHAIN, PROMPTS, params)
    assert not any(7 in text for text in texts)


@pytest.mark.parametrize("place", [0, 2, 4])
def test_the_error_says_where_and_in_which_request(target, place):
    """NaN enters with one token of the second prompt."""
    prompt = [1, 2, 3, 4, 5]
    prompt[place] = 60
    broken = spoilt(target, float("nan"), 60)
    params = SamplingParams(suppress_tokens=[60], max_new_tokens=4)
    with pytest.raises(NonFiniteLogitsError) as caught:
        complete(broken, target, CHAIN, [[1, 2, 3], prompt], params)
    message = str(caught.value)
    assert "of request 1;" in message
    position = int(message.split("after position ")[1].split()[0])
    assert place <= position <= 4
    assert "float32 or bfloat16" in message


def test_bad_padding_of_a_neighbour_is_no_error(target):
    """Shorter prompts are padded with token 0, whose states must not matter to anyone."""
    broken = spoilt(target, 1e30, 0)
    params = SamplingParams(temperature=0.0, suppress_tokens=[0], max_new_tokens=4)
    method = Autoregressive()
    texts = token_ids(broken, None, method, PROMPTS, params)
    assert texts == token_ids(target, None, method, PROMPTS, params)


# ---------------------------------------------------------------- memory


def test_a_cache_that_does_not_fit_is_refused_before_it_is_allocated(target, monkeypatch):
    monkeypatch.setattr(mtad.model.kv_cache, "free_bytes", lambda device: 1e6)
    model = random_llama(hidden=64, context=100_000)
    with pytest.raises(CacheMemoryError) as caught:
        complete(model, model, CHAIN, [[1]] * 8, short(50_000))
    message = str(caught.value)
    # keys and values × layers × rows × slots × heads × head size × bytes
    needed = 2 * 2 * 8 * 50_176 * 2 * 16 * 4
    assert f"{needed / 2**30:.2f} GiB" in message
    assert "8 rows of 50176 tokens" in message
    assert "0.00 GiB are free" in message
    assert "lower max_batch_size, max_new_tokens or the prompt's length" in message


def test_a_failing_allocation_says_the_same(target, monkeypatch):
    calls = []

    def zeros(like: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        calls.append(shape)
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch.Tensor, "new_zeros", zeros)
    with pytest.raises(CacheMemoryError, match=r"GiB are free; lower max_batch_size") as caught:
        complete(target, None, Autoregressive(), [[1, 2]], short())
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert len(calls) == 1


def test_enough_memory_is_enough(target, monkeypatch):
    needed = 2 * 2 * 1 * mtad.core.buckets.bucket_of(1 + 6 + 1) * 2 * 8 * 4
    monkeypatch.setattr(mtad.model.kv_cache, "free_bytes", lambda device: float(needed))
    assert len(token_ids(target, None, Autoregressive(), [[1]], short(6))[0]) == 6
    monkeypatch.setattr(mtad.model.kv_cache, "free_bytes", lambda device: needed - 1.0)
    with pytest.raises(CacheMemoryError):
        complete(target, None, Autoregressive(), [[1]], short(6))


# ---------------------------------------------------------------- methods by name


def test_an_unknown_method_lists_the_known_ones():
    with pytest.raises(ValueError, match="there is no method 'mtda'") as caught:
        methods.find("mtda")
    assert all(name in str(caught.value) for name in methods.names())


OUTSIDE = '''
from dataclasses import dataclass
from typing import ClassVar
from mtad.methods.speculative_sampling import SpeculativeSampling


@dataclass(frozen=True)
class Outside(SpeculativeSampling):
    """A method of somebody else."""

    name: ClassVar[str] = "outside"
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An importable package `elsewhere` whose modules the test writes."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "elsewhere"]:
        del sys.modules[name]


def test_a_method_from_another_package_works(target, package):
    (package / "mine.py").write_text(OUTSIDE)
    method = methods.find("elsewhere.mine")(num_draft_tokens=2)
    assert method.name == "outside"
    ours = token_ids(target, target, SpeculativeSampling(2), PROMPTS, short())
    assert token_ids(target, target, method, PROMPTS, short()) == ours


def test_modules_without_exactly_one_method_are_refused(package):
    (package / "none.py").write_text("from mtad.methods.mtad import MTAD\n")
    with pytest.raises(ValueError, match=r"elsewhere\.none must define exactly one Method.*0"):
        methods.find("elsewhere.none")
    (package / "two.py").write_text(OUTSIDE + OUTSIDE.replace("Outside(", "Second("))
    with pytest.raises(ValueError, match=r"elsewhere\.two must define exactly one Method.*2"):
        methods.find("elsewhere.two")


def test_a_module_that_cannot_be_imported_says_why():
    with pytest.raises(ValueError, match=r"'elsewhere\.gone' cannot be imported: No module named"):
        methods.find("elsewhere.gone")


def test_every_error_for_the_user_is_an_mtad_error():
    for error in (CacheMemoryError, ContextLengthError, NonFiniteLogitsError, PromptError):
        assert issubclass(error, MtadError)
