"""GGUF files that mtad writes: what is read from them again, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from support.gguf_files import dequantised
from support.saved_pair import tokenizer
from support.tiny import tiny_model
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mtad.errors import UnsupportedModelError
from mtad.model.gguf_writing import WEIGHTS, write_gguf
from mtad.model.loading import load_models
from mtad.testing import random_llama

IDS = torch.tensor([[3, 5, 7, 3, 5, 9, 11, 40, 8, 2] * 2])
TEXT = "the cat sat 2024  on der Bär 🙂<eos>"


def llama() -> Any:
    return random_llama(vocab=len(tokenizer()), context=256)


def grouped() -> Any:
    """A Llama with two heads for each head of keys and values."""
    torch.manual_seed(0)
    changed = llama().config.to_dict() | {"num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**changed)).eval()


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    return model(IDS).logits


@pytest.mark.parametrize("make", [llama, grouped])
def test_a_file_holds_the_weights_in_their_quantisation(
    tmp_path: Path, make: Callable[[], Any]
) -> None:
    write_gguf(tmp_path / "m.gguf", make(), tokenizer(), "Q8_0")
    found = load_models(tmp_path / "m.gguf", dtype="float32")
    expected = logits(dequantised(make(), gguf.GGMLQuantizationType.Q8_0))
    assert torch.equal(logits(found.target), expected)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_tables_stay_in_8_bits_and_vectors_in_floats(tmp_path: Path, weights: str) -> None:
    write_gguf(tmp_path / "m.gguf", llama(), tokenizer(), weights)
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert kinds["token_embd.weight"] == "Q8_0"
    assert kinds["output_norm.weight"] == "F32"
    assert {kinds[f"blk.0.{n}.weight"] for n in ("attn_q", "attn_v", "ffn_down")} == {weights}


def test_the_vocabulary_gives_the_same_ids(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", llama(), tokenizer(), "Q4_1")
    found = load_models(tmp_path / "m.gguf")
    assert found.tokenizer is not None
    assert found.tokenizer.encode(TEXT) == tokenizer().encode(TEXT)
    assert found.eos_token_ids == (tokenizer().eos_token_id,)


def test_rows_without_a_token_are_unused(tmp_path: Path) -> None:
    padded = random_llama(vocab=len(tokenizer()) + 20, context=256)
    write_gguf(tmp_path / "m.gguf", padded, tokenizer(), "Q8_0")
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    kinds = np.array(fields["tokenizer.ggml.token_type"].contents())
    assert len(kinds) == padded.config.vocab_size and (kinds[-20:] == 5).all()


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    def refused(model: Any, fast: Any = None) -> str:
        with pytest.raises(UnsupportedModelError) as caught:
            write_gguf(tmp_path / "m.gguf", model, fast or tokenizer(), "Q8_0")
        assert not (tmp_path / "m.gguf").exists()
        return str(caught.value)

    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a")))
    biased, scaled, narrow = llama(), llama(), llama()
    biased.config.attention_bias = True
    scaled.config.rope_parameters = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    narrow.config.intermediate_size = 40
    assert "its attention has biases" in refused(biased)
    assert "its rope is scaled" in refused(scaled)
    assert "not multiples of 32" in refused(narrow)
    assert "not one of byte-level BPE but WordLevel after nothing" in refused(llama(), words)
    assert "of the architecture qwen2, not llama" in refused(tiny_model("qwen2"))
