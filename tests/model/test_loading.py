"""Loading from folders: what is refused, and what the message says."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from support.saved_pair import EOS, PADDED_ROWS, folder, tokenizer
from support.tiny import heat_of, some_names, tiny_model
from tokenizers import AddedToken, Tokenizer, models

from mtad.api.pair import ModelPair, load_pair
from mtad.errors import (
    CheckpointError,
    PromptError,
    UnsupportedModelError,
    VocabularyMismatchError,
)
from mtad.model.loading import _needed_bytes, join, load_models
from mtad.model.memory import memory_of
from mtad.model.tree_support import embedding_rows, require_tree_support
from mtad.testing import random_llama

TARGET, DRAFT = "target", "draft"


def copy_of(name: str, to: Path) -> Path:
    """A copy of a saved model that a test may spoil."""
    return Path(shutil.copytree(folder() / name, to / name))


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | changes), encoding="utf-8")


def test_a_pair_with_padded_rows() -> None:
    models = load_models(folder() / TARGET, folder() / DRAFT)
    assert models.draft is not None
    assert embedding_rows(models.target) == PADDED_ROWS
    assert models.vocab == embedding_rows(models.draft) == len(tokenizer())
    assert models.eos_token_ids == (tokenizer().eos_token_id,)
    assert not models.target.training


def test_dtypes() -> None:
    models = load_models(
        folder() / TARGET, folder() / DRAFT, dtype="bfloat16", draft_dtype="float32"
    )
    assert models.draft is not None
    assert (models.target.dtype, models.draft.dtype) == (torch.bfloat16, torch.float32)
    (completion,) = ModelPair.of(models).generate("the cat", seed=0, max_new_tokens=5)
    assert completion.token_ids
    assert load_models(folder() / TARGET, dtype="float64").target.dtype == torch.float64


@pytest.mark.parametrize("option", ["device", "draft_device"])
@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_here(option: str, device: str) -> None:
    with pytest.raises(ValueError, match=f"device '{device}' cannot be used here"):
        load_models(folder() / TARGET, folder() / DRAFT, **{option: device})


def test_a_missing_folder() -> None:
    with pytest.raises(CheckpointError, match=r"target model from '/nowhere/at all'.*no such fold"):
        load_models("/nowhere/at all")
    with pytest.raises(CheckpointError, match="draft model"):
        load_models(folder() / TARGET, "/nowhere/at all")


def test_missing_weights(tmp_path: Path) -> None:
    path = copy_of(TARGET, tmp_path)
    edit(path / "config.json", num_hidden_layers=3, layer_types=None)
    with pytest.raises(CheckpointError, match=r"lacks \d+ weights, such as 'model\.layers\.2"):
        load_models(path)


@pytest.mark.slow
def test_models_that_do_not_fit_are_refused_before_they_are_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = load_models(folder() / TARGET, folder() / DRAFT)
    assert models.draft is not None
    needs = [memory_of([m], 1, 1).total_bytes for m in (models.target, models.draft)]
    free = [float(sum(needs))]
    monkeypatch.setattr("mtad.model.memory.free_bytes", lambda device: free[0])
    load_models(folder() / TARGET, folder() / DRAFT)
    free[0] -= 1
    with monkeypatch.context() as patch:
        patch.setattr("mtad.model.loading.load_model", None)  # it would fail if called
        with pytest.raises(CheckpointError, match=r"'cpu', 0\.00 GiB are free.* the draft .*dtype"):
            load_models(folder() / TARGET, folder() / DRAFT)
    load_models(folder() / TARGET)
    load_models(folder() / TARGET, folder() / DRAFT, dtype="bfloat16")
    load_models(folder() / TARGET, folder() / DRAFT, draft_dtype="bfloat16")


@pytest.mark.parametrize("why", ["quantised", "options", "no dtype", "dear on meta"])
def test_what_cannot_be_told_is_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    path = copy_of(TARGET, tmp_path)
    options: dict[str, Any] = {}
    if why == "quantised":
        edit(path / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    elif why == "no dtype":
        edit(path / "config.json", dtype=None)
    elif why == "options":
        options = {"num_hidden_layers": 1}
    else:
        monkeypatch.setattr("mtad.model.loading.memory_of", None)
    assert _needed_bytes(path, "auto", options) == 0


def test_random_numbers_are_not_drawn_before_loading() -> None:
    state = torch.get_rng_state()
    assert _needed_bytes(folder() / TARGET, "auto", {}) > 0
    assert _needed_bytes(folder() / "nowhere", "auto", {}) == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_no_tokenizer(tmp_path: Path) -> None:
    path = copy_of(TARGET, tmp_path)
    for file in path.glob("*token*"):
        file.unlink()
    models = load_models(path)
    assert models.tokenizer is None
    assert models.vocab == PADDED_ROWS
    assert models.tokenizer_error
    with pytest.raises(PromptError, match=r"without a tokenizer \(.+\); give the prompt as"):
        ModelPair.of(models).generate("text", method=_autoregressive())
    ids = (
        ModelPair.of(models)
        .generate([1], method=_autoregressive(), seed=0, max_new_tokens=3, ignore_eos=True)[0]
        .token_ids
    )
    assert len(ids) == 3


def _autoregressive() -> Any:
    from mtad.methods.autoregressive import Autoregressive

    return Autoregressive()


def swapped(path: Path) -> None:
    """Exchange two tokens of a saved tokenizer."""
    content = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = content["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.slow
def test_tokenizers_of_equal_size_that_differ(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = copy_of(DRAFT, tmp_path)
    swapped(path)
    with caplog.at_level("WARNING"):
        pair = load_pair(target=folder() / TARGET, draft=path)
    assert pair.models.translation is not None
    assert pair.models.translation.num_common == len(tokenizer())
    assert "different tokenizers" in caplog.text and "100% of the target's" in caplog.text
    greedy = {"temperature": 0.0, "max_new_tokens": 5}
    plain = pair.generate("the cat", "autoregressive", **greedy)[0]
    assert pair.generate("the cat", "mtad", **greedy)[0].token_ids == plain.token_ids
    trusting = load_pair(target=folder() / TARGET, draft=path, trust_vocabulary=True)
    assert trusting.generate("the cat", seed=0, max_new_tokens=3)


def longer(name: str, to: Path, count: int, grow: bool) -> Path:
    """A copy of a saved model whose tokenizer, and perhaps whose model, has more tokens."""
    path = copy_of(name, to)
    tokens = transformers.AutoTokenizer.from_pretrained(path)
    tokens.add_tokens([AddedToken(f"<more{i}>", special=True) for i in range(count)])
    tokens.save_pretrained(path)
    if grow:
        model = transformers.AutoModelForCausalLM.from_pretrained(path)
        model.resize_token_embeddings(len(tokens), mean_resizing=False)
        model.save_pretrained(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "count", "trust"),
    [
        (TARGET, 7, False),
        (DRAFT, 1, True),
        *(
            pytest.param(more, count, trust, marks=pytest.mark.slow)
            for more, count, trust in itertools.product((TARGET, DRAFT), (1, 7), (False, True))
            if (more, count, trust) not in ((TARGET, 7, False), (DRAFT, 1, True))
        ),
    ],
)
def test_a_vocabulary_that_contains_the_other(
    tmp_path: Path, more: str, count: int, trust: bool
) -> None:
    paths = {name: folder() / name for name in (TARGET, DRAFT)}
    paths[more] = longer(more, tmp_path, count, grow=True)
    pair = load_pair(target=paths[TARGET], draft=paths[DRAFT], trust_vocabulary=trust)
    size = len(tokenizer()) + (count if more == TARGET else 0)
    assert pair.models.vocab == size
    plain = load_pair(target=paths[TARGET])
    options: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 12, "ignore_eos": True}
    (wanted,) = plain.generate("the cat", "autoregressive", **options)
    for method in ("speculative_sampling", "mcss", "block_verification"):
        (done,) = pair.generate("the cat", method, **options)
        assert done.token_ids == wanted.token_ids


@pytest.mark.parametrize("method", some_names())
def test_a_token_that_the_draft_lacks_can_be_produced_and_read(tmp_path: Path, method: str) -> None:
    target = longer(TARGET, tmp_path, 1, grow=True)
    pair, extra = load_pair(target=target, draft=folder() / DRAFT), len(tokenizer())
    sampling = {} if method == "beam_search" else {"logit_bias": {extra: 100.0}, "seed": 0}
    sampling |= {"temperature": heat_of(method)}
    (done,) = pair.generate([[5, extra, 7]], method, max_new_tokens=6, ignore_eos=True, **sampling)
    assert "seed" not in sampling or extra in done.token_ids


@pytest.mark.slow
def test_settings_that_leave_the_draft_nothing(tmp_path: Path) -> None:
    target = longer(TARGET, tmp_path, 1, grow=True)
    pair, size = load_pair(target=target, draft=folder() / DRAFT), len(tokenizer())
    for method in ("autoregressive", "mtad", "mcss", "spectr"):
        done = pair.generate([[5]], method, max_new_tokens=4, suppress_tokens=range(size))
        assert done[0].token_ids == [size] * 4


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gemma3_text", "gpt_neox", "cohere", "llama"])
def test_a_folder_without_tokenizer_files(tmp_path: Path, family: str) -> None:
    model = tiny_model(family)
    model.generation_config.eos_token_id = None
    model.save_pretrained(tmp_path)
    models = load_models(tmp_path)
    assert models.tokenizer is None
    assert models.vocab == embedding_rows(model)
    with pytest.raises(PromptError, match=r"came without a tokenizer \(.+\); give the pr"):
        ModelPair.of(models).generate("hello", "autoregressive")
    (done,) = ModelPair.of(models).generate([[5, 6]], "autoregressive", max_new_tokens=3, seed=0)
    assert len(done.token_ids) == 3


def test_a_draft_whose_tokenizer_is_empty(tmp_path: Path) -> None:
    tiny_model("gpt2").save_pretrained(tmp_path)
    with pytest.raises(VocabularyMismatchError, match=r"not both have a tokenizer .*--trust-voc"):
        load_pair(target=folder() / TARGET, draft=tmp_path)


def test_the_target_is_looked_for_before_the_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    read = transformers.AutoConfig.from_pretrained

    def noted(path: str, **options: Any) -> Any:
        asked.append(path)
        return read(path, **options)

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", noted)
    with pytest.raises(CheckpointError, match="cannot load the target model"):
        load_models(tmp_path / "missing", tmp_path / "other")
    assert str(tmp_path / "other") not in asked
    with pytest.raises(CheckpointError, match="cannot load the draft model"):
        load_models(folder() / TARGET, tmp_path / "other")


def tiny_mixtral(dtype: torch.dtype) -> Any:
    sizes = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}
    config = transformers.MixtralConfig(**sizes, **heads)
    return transformers.MixtralForCausalLM(config).to(dtype).eval()


def test_a_dtype_that_a_model_cannot_compute_in_is_named() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        join(tiny_mixtral(torch.float64), None, None)
    message = str(caught.value)
    assert "mixtral, float64 on cpu" in message and "Double" in message
    assert "architecture" not in message and "llama" not in message
    join(tiny_mixtral(torch.float32), None, None)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("no kernel for this"), "no kernel for this"),
        (torch.OutOfMemoryError("out of memory"), "out of memory"),
        (MemoryError("too much"), "too much"),
        (KeyError("experts"), "'experts'"),
    ],
)
def test_a_probe_that_fails_gives_its_own_reason(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    model = random_llama()

    def fail(*args: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(model, "forward", fail)
    with pytest.raises(UnsupportedModelError, match=f"without a token tree: {reason}") as caught:
        join(model, None, None)
    assert "architecture" not in str(caught.value)


def test_a_draft_without_tokenizer_and_with_other_rows(tmp_path: Path) -> None:
    path = copy_of(DRAFT, tmp_path)
    for file in path.glob("*token*"):
        file.unlink()
    with pytest.raises(VocabularyMismatchError, match=f"{PADDED_ROWS} and {len(tokenizer())} emb"):
        load_pair(target=folder() / TARGET, draft=path)


def test_a_draft_that_cannot_read_the_vocabulary() -> None:
    target, small = random_llama(vocab=PADDED_ROWS), random_llama(vocab=len(tokenizer()) - 1)
    size = len(tokenizer())
    with pytest.raises(VocabularyMismatchError, match=f"has {size - 1} emb.* {size} tokens; take"):
        join(target, small, tokenizer(), trust_vocabulary=True)
    with pytest.raises(VocabularyMismatchError, match=f"vocabulary {PADDED_ROWS} tokens"):
        join(target, random_llama(vocab=size), None, trust_vocabulary=True)
    padded = join(target, random_llama(vocab=size), tokenizer(), trust_vocabulary=True)
    assert padded.vocab == size
    larger = join(random_llama(vocab=size), target, tokenizer(), trust_vocabulary=True)
    assert larger.vocab == size


def test_a_vocabulary_with_gaps() -> None:
    words = models.WordLevel({"a": 0, "b": 40}, unk_token="a")
    sparse = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words))
    assert len(sparse) == 2
    assert join(random_llama(), None, sparse).vocab == 41


@pytest.mark.slow
def test_a_tokenizer_in_a_subfolder(tmp_path: Path) -> None:
    copy_of(TARGET, tmp_path)
    (tmp_path / TARGET).rename(tmp_path / "inner")
    loaded = load_models(tmp_path, folder() / DRAFT, subfolder="inner")
    assert loaded.tokenizer is not None
    assert loaded.draft is not None, "the draft's folder has no subfolder"
    inner = load_models(folder() / TARGET, tmp_path, draft_options={"subfolder": "inner"})
    assert inner.draft is not None and embedding_rows(inner.draft) == PADDED_ROWS
    (tmp_path / "inner" / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer of the target model"):
        load_models(tmp_path, subfolder="inner")


def test_a_device_object() -> None:
    assert load_models(folder() / TARGET, device=torch.device("cpu")).target.device.type == "cpu"


def test_models_are_put_into_evaluation_mode() -> None:
    target, draft = random_llama().train(), random_llama().train()
    joined = join(target, draft, None)
    assert not joined.target.training
    assert joined.draft is not None and not joined.draft.training


def tiny_bloom() -> Any:
    config = transformers.BloomConfig(vocab_size=61, hidden_size=32, n_layer=2, n_head=4)
    return transformers.BloomForCausalLM(config).eval()


def tiny_mamba() -> Any:
    config = transformers.MambaConfig(vocab_size=61, hidden_size=32, num_hidden_layers=2)
    return transformers.MambaForCausalLM(config).eval()


def tiny_falcon() -> Any:
    config = transformers.FalconConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True
    )
    return transformers.FalconForCausalLM(config).eval()


@pytest.mark.parametrize("make", [tiny_bloom, tiny_mamba, tiny_falcon])
def test_an_unsupported_architecture_is_named(make: Any) -> None:
    model = make()
    kind = model.config.model_type
    with pytest.raises(UnsupportedModelError, match=rf"draft model .*'{kind}'.*work: .*llama"):
        ModelPair(random_llama(), model)


def test_an_unsupported_architecture_on_disk(tmp_path: Path) -> None:
    tiny_bloom().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"architectures that work: .*llama"):
        load_models(tmp_path)


def test_why_a_model_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="its positions are ALiBi biases"):
        require_tree_support(tiny_falcon(), "target")
    chunked = random_llama()
    chunked.config.layer_types = ["full_attention", "chunked_attention"]
    with pytest.raises(UnsupportedModelError, match="has layers of type 'chunked_attention'"):
        join(chunked, None, None)


def test_a_known_architecture_is_tried_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_llama()
    forward = model.forward

    def disturbed(*args: Any, **options: Any) -> Any:
        output = forward(*args, **options)
        if any(isinstance(value, transformers.Cache) for value in options.values()):
            output.logits = output.logits.flip(-1)
        return output

    monkeypatch.setattr(model, "forward", disturbed)
    with pytest.raises(UnsupportedModelError, match="its logits on a tree differ"):
        join(model, None, None)


def test_weights_that_are_not_finite_are_left_to_the_engine() -> None:
    broken = random_llama()
    with torch.no_grad():
        broken.lm_head.weight.fill_(float("nan"))
    join(broken, None, None)


def test_eager_attention_is_switched() -> None:
    alike = tiny_model("gpt2")
    alike.config.num_key_value_heads = alike.config.num_attention_heads
    for model, implementation in ((alike, "sdpa"), (random_llama(), "mtad")):
        model.set_attn_implementation("eager")
        join(model, None, None)
        assert model.config._attn_implementation == implementation


def test_several_eos_tokens() -> None:
    model = random_llama()
    model.generation_config.eos_token_id = [3, 5]
    assert join(model, None, None).eos_token_ids == (3, 5)
    model.generation_config.eos_token_id = None
    assert join(model, None, None).eos_token_ids == ()
    model.generation_config.eos_token_id = [3, 61]
    assert join(model, None, None).eos_token_ids == (3,), "61 is beyond the vocabulary"
    padded = random_llama(vocab=PADDED_ROWS)
    padded.generation_config.eos_token_id = None
    ids = join(padded, None, tokenizer()).eos_token_ids
    assert ids == (tokenizer().convert_tokens_to_ids(EOS),)
