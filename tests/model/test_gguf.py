"""Models of GGUF files: their logits, texts and chats, and what is said of files that are wrong."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType as Type
from support.gguf_files import dequantised, write_gguf
from support.real_data import real_data
from support.saved_pair import TEMPLATE, tokenizer
from support.tiny import ARCHITECTURES as ARCHITECTURE_OPTIONS
from support.tiny import tiny_model

import mtad
from mtad.errors import CheckpointError, UnsupportedModelError
from mtad.model.gguf import ARCHITECTURES, find_gguf
from mtad.model.loading import load_models
from mtad.model.tokenizer import encode, special_tokens
from mtad.testing import random_llama

IDS = torch.tensor([[3, 5, 7, 3, 5, 9, 11, 40, 8, 2] * 2])
CHAT = [{"role": "user", "content": "the cat sat on the mat 2024  <eos>"}]
MODELS = {"gemma3": "gemma3_text"}
REAL = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of quantised weights with a vocabulary, alone in a folder."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf", _llama(), Type.Q8_0)


def _llama(**options: Any) -> Any:
    return random_llama(vocab=len(tokenizer()), context=256, **options)


@torch.inference_mode()
def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    return model(ids).logits


def as_transformers_reads(path: Path, dtype: torch.dtype) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=dtype
    )


def refusal(path: str | Path, kind: type[Exception] = CheckpointError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        load_models(path, **options)
    return str(caught.value)


def test_weights_are_those_that_the_file_holds(path: Path) -> None:
    models = load_models(path, dtype="float32")
    assert torch.equal(logits(models.target), logits(dequantised(_llama(), Type.Q8_0)))
    assert torch.equal(
        logits(models.target), logits(as_transformers_reads(path, torch.float32).eval())
    )


@pytest.mark.slow
def test_quantised_weights_become_bfloat16_and_that_is_said(path: Path) -> None:
    models = load_models(path, path, target_weights="plain", draft_weights="plain")
    line = "tiny.Q8_0.gguf: weights in Q8_0, F32 are dequantised to bfloat16"
    assert models.notes == (line, line)
    assert {p.dtype for p in models.target.parameters()} == {torch.bfloat16}
    assert torch.equal(
        logits(models.target), logits(as_transformers_reads(path, torch.bfloat16).eval())
    )


@pytest.mark.parametrize(
    ("kind", "dtype"), [(Type.F32, torch.float32), (Type.F16, torch.float16)], ids=["F32", "F16"]
)
def test_plain_weights_keep_their_type(kind: Type, dtype: torch.dtype, tmp_path: Path) -> None:
    source = find_gguf(write_gguf(tmp_path / "m.gguf", _llama(num_layers=1), kind))
    assert source is not None and source.dtype == dtype


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_that_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own: dict[str, dict[str, Any]] = {"gemma3": {"sliding_window": 6}}
    kind = MODELS.get(name, name)
    if name in own:
        monkeypatch.setitem(ARCHITECTURE_OPTIONS, kind, own[name])
    model = tiny_model(kind)
    file = write_gguf(tmp_path / "m.gguf", model, with_tokenizer=False)
    models = load_models(file, target_weights="plain")
    assert torch.equal(logits(models.target), logits(model))
    assert "has none" in models.tokenizer_error


def test_a_folder_with_one_file_is_that_file(path: Path, tmp_path: Path) -> None:
    assert find_gguf(path.parent) == find_gguf(path) is not None
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(path, tmp_path / name)
    assert refusal(tmp_path).endswith("it has 2 GGUF files; give one of them: a.gguf, b.gguf")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert find_gguf(tmp_path) is None


def test_text_chats_and_ends_are_those_of_the_vocabulary(path: Path) -> None:
    models = load_models(path)
    read, own = models.tokenizer, tokenizer()
    assert read is not None and read.chat_template == TEMPLATE
    assert encode(read, CHAT) == encode(own, CHAT)
    for text in ("der Bär aß süße Äpfel", "猫が 🙂", "<user>x<eos>", "  x =  1\n"):
        assert read(text).input_ids == own(text).input_ids
        assert read.decode(own(text).input_ids) == own.decode(own(text).input_ids)
    assert special_tokens(read) == special_tokens(own)
    assert read.get_vocab() == own.get_vocab() and read("<|endoftext|>") == own("<|endoftext|>")
    assert models.eos_token_ids == (own.eos_token_id,)


def test_tokens_that_end_a_turn_end_a_text(tmp_path: Path) -> None:
    ids = {"tokenizer.ggml.eot_token_id": 3}
    file = write_gguf(tmp_path / "m.gguf", _llama(num_layers=1), metadata=ids)
    assert load_models(file).eos_token_ids == (tokenizer().eos_token_id, 3)


@pytest.mark.parametrize(
    "said",
    [{"tokenizer.ggml.add_bos_token": True},
     {"tokenizer.ggml.add_bos_token": None, "tokenizer.ggml.pre": "llama-bpe"}],
)  # fmt: skip
def test_a_vocabulary_that_begins_texts_with_a_token(said: dict[str, Any], tmp_path: Path) -> None:
    begins = {"tokenizer.ggml.bos_token_id": 2, **said}
    file = write_gguf(tmp_path / "m.gguf", _llama(num_layers=1), metadata=begins)
    read = load_models(file).tokenizer
    assert read is not None
    assert read("a cat").input_ids == [2, *tokenizer()("a cat").input_ids]
    assert encode(read, CHAT) == encode(tokenizer(), CHAT)


def test_a_vocabulary_that_parts_digits(tmp_path: Path) -> None:
    parts = {"tokenizer.ggml.pre": "smollm"}
    file = write_gguf(tmp_path / "m.gguf", _llama(num_layers=1), metadata=parts)
    read = load_models(file).tokenizer
    assert read is not None
    pieces = read.backend_tokenizer.pre_tokenizer.pre_tokenize_str("x =  24")
    assert [piece for piece, _ in pieces] == ["x", "Ġ=", "ĠĠ", "2", "4"]


@pytest.mark.parametrize(
    ("metadata", "wanted"),
    [
        (
            {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
            {"rope_type": "linear", "factor": 4.0},
        ),
        (
            {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.factor": 4.0,
                "llama.rope.scaling.original_context_length": 64,
            },
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        ),
    ],
)
def test_scaled_positions_are_read(
    metadata: dict[str, Any], wanted: dict[str, Any], tmp_path: Path
) -> None:
    model = _llama(num_layers=1)
    file = write_gguf(tmp_path / "m.gguf", model, metadata=metadata)
    config = model.config.__class__(**model.config.to_dict() | {"rope_parameters": None})
    config.rope_parameters = model.config.rope_parameters | wanted
    other = transformers.LlamaForCausalLM(config).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits(load_models(file).target), logits(other))
    assert not torch.allclose(logits(model), logits(other))


def test_positions_of_llama_3_are_read_from_their_divisors(tmp_path: Path) -> None:
    rope = {"rope_theta": 10_000.0, "rope_type": "llama3", "factor": 8.0}
    rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    model = _llama(num_layers=1, hidden=128)
    model.config.rope_parameters = rope | {"original_max_position_embeddings": 8192}
    other = transformers.LlamaForCausalLM(model.config).eval()
    other.load_state_dict(model.state_dict())
    plain = 1 / 10_000 ** (np.arange(16) / 16)
    divisors = (plain / other.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
    assert divisors.max() > 7.9
    file = write_gguf(tmp_path / "m.gguf", other, extra={"rope_freqs.weight": divisors})
    read = load_models(file).target
    assert torch.allclose(
        read.model.rotary_emb.inv_freq, other.model.rotary_emb.inv_freq, rtol=1e-5
    )
    file = write_gguf(tmp_path / "n.gguf", other, extra={"rope_freqs.weight": divisors[::-1]})
    assert "are not those of Llama 3" in refusal(file, UnsupportedModelError)


def test_positions_scaled_otherwise_are_refused(tmp_path: Path) -> None:
    metadata = {"llama.rope.scaling.type": "longrope"}
    file = write_gguf(tmp_path / "m.gguf", _llama(num_layers=1), metadata=metadata)
    assert "'longrope', which is not read from GGUF" in refusal(file, UnsupportedModelError)


def test_an_architecture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "m.gguf", _llama(num_layers=1), architecture="rwkv7")
    said = refusal(file, UnsupportedModelError)
    assert "its architecture 'rwkv7' cannot be read from GGUF files" in said
    assert said.endswith(f"architectures that work: {', '.join(ARCHITECTURES)}")


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.01, 0.1, 0.5, 0.999])
def test_a_file_that_ends_early_is_damaged(share: float, path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    file = tmp_path / "m.gguf"
    file.write_bytes(data[: int(share * len(data))])
    said = refusal(file)
    assert said.startswith(f"cannot load the target model from {str(file)!r}: ")
    assert said.endswith("download it again")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid x", "fetch that with: git lfs pull"),
        (b"PK\x03\x04" + bytes(99), "it is not a GGUF file: it begins with b'PK"),
        (b"GGUF\x00\x00\x00\x03" + bytes(99), "it is big-endian"),
        (b"GGUF\x01\x00\x00\x00" + bytes(99), "it is of version 1; versions 2 and 3"),
        (b"GGUF\x03\x00\x00\x00" + bytes(99), "it does not name its architecture"),
        (b"GGUF\x03\x00\x00\x00" + b"\xff" * 99, "it is damaged: its header"),
    ],
)
def test_what_is_not_a_whole_model(content: bytes, why: str, tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(content)
    assert why in refusal(file)


def test_a_part_of_a_split_file_is_refused(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "m-00001-of-00002.gguf"
    shutil.copy(path, file)
    assert "one part of a split file; join the parts with" in refusal(file)


def test_missing_packages_are_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "gguf" else find(n))
    said = refusal(path)
    assert "need the package gguf: pip install gguf" in said


def test_a_file_that_is_not_there(path: Path) -> None:
    said = refusal(path.with_name("tiny.Q8.gguf"))
    assert said.endswith("there is no such file here (did you mean 'tiny.Q8_0.gguf'?)")


def test_weights_are_made_int8_and_the_error_is_said(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.Q8_0.gguf", _llama(hidden=256, num_layers=1), Type.Q8_0)
    first, second = load_models(path, target_weights="int8").notes
    assert first == "a.Q8_0.gguf: weights in Q8_0, F32 are dequantised to bfloat16"
    assert "are int8" in second and "off by 0." in second


def test_quantising_again_is_refused(path: Path) -> None:
    said = refusal(path, quantization_config=transformers.BitsAndBytesConfig())
    assert "a GGUF file is dequantised" in said


@pytest.mark.slow
def test_a_pair_of_files_decodes(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    transformers.utils.logging.disable_progress_bar()
    pair = mtad.load_pair(str(path), draft=path)
    text = pair.generate("the cat", "mtad", temperature=0, max_new_tokens=8, ignore_eos=True)[0]
    alone = mtad.load_pair(target=path)
    wanted = alone.generate("the cat", "autoregressive", temperature=0, max_new_tokens=8)[0]
    assert text.text and wanted.token_ids == text.token_ids[: len(wanted.token_ids)]
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_the_real_file_is_read_as_transformers_reads_it() -> None:
    file = real_data(f"gguf/{REAL}")
    pair = mtad.load_pair(target=file, dtype="float32")
    theirs = as_transformers_reads(file, torch.float32).eval()
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    ids = encode(pair.tokenizer, chat)
    own = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    assert ids == own.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    ours = logits(pair.models.target, torch.tensor([ids]))
    assert torch.allclose(ours, logits(theirs, torch.tensor([ids])), atol=1e-3)
    found = pair.generate([chat], "autoregressive", temperature=0, max_new_tokens=24)[0]
    wanted = theirs.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=24)
    assert found.text == own.decode(wanted[0, len(ids) :], skip_special_tokens=True)
    assert "Paris" in found.text and found.finish_reason == "stop"
    assert special_tokens(pair.tokenizer)["<|im_end|>"] == 2 and pair.models.eos_token_ids == (2,)
    assert pair.tokenizer is not None
    assert pair.tokenizer.tokenize("a  2024") == ["a", "ĠĠ", "2", "0", "2", "4"]
