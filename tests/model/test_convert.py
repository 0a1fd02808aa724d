"""A GGUF file as a folder: the same model, whole or not there at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from gguf import GGMLQuantizationType as Type
from support.command import cli, refused
from support.gguf_files import write_gguf
from support.saved_pair import tokenizer

from mtad.errors import CheckpointError
from mtad.model import convert as module
from mtad.model.convert import convert
from mtad.model.loading import load_models
from mtad.testing import random_llama

IDS = torch.tensor([[3, 5, 7, 3, 5, 9]])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = random_llama(vocab=len(tokenizer()), num_layers=1)
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", model, Type.Q8_0)


def names(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


def test_the_folder_is_the_model_of_the_file(path: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    folder = tmp_path / "model"
    note = convert(path, folder, on_progress=lambda *step: seen.append(step))
    assert note == "tiny.gguf: weights in Q8_0, F32 are dequantised to bfloat16"
    assert seen[0][:2] == ("reading", 0) and seen[-2][1] == seen[-2][2] > 10
    assert seen[-1] == ("writing", 0, 0)
    assert names(folder) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    written, read = (load_models(one, target_weights="plain") for one in (folder, path))
    with torch.inference_mode():
        assert torch.equal(written.target(IDS).logits, read.target(IDS).logits)
    assert written.target.dtype == torch.bfloat16 and written.notes == ()
    assert written.eos_token_ids == read.eos_token_ids
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert read.tokenizer is not None
    assert theirs.chat_template == read.tokenizer.chat_template
    assert theirs("süße 猫 <user>  x").input_ids == tokenizer()("süße 猫 <user>  x").input_ids
    assert {one.stat().st_mode & 0o077 for one in folder.iterdir()} == {0o044}


def test_nothing_is_left_of_a_conversion_that_fails(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(transformers.LlamaForCausalLM, "save_pretrained", fail)
    with pytest.raises(OSError, match="no space"):
        convert(path, tmp_path / "model")
    assert names(tmp_path) == set()


def test_what_is_in_the_way_is_kept(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    convert(path, folder, "float32")
    before = (folder / "config.json").read_bytes()
    with pytest.raises(ValueError, match="is not empty; choose another folder, or --overwrite"):
        convert(path, folder)
    assert (folder / "config.json").read_bytes() == before
    convert(path, folder, "float16", overwrite=True)
    assert b"float16" in (folder / "config.json").read_bytes() and names(tmp_path) == {"model"}
    (folder / "work").mkdir()
    with pytest.raises(ValueError, match="overwriting would delete all of it"):
        convert(path, folder, overwrite=True)
    with pytest.raises(ValueError, match="overwriting would delete all of it"):
        convert(path, path.parent, overwrite=True)
    with pytest.raises(ValueError, match="is a file; give a folder"):
        convert(path, path)
    with pytest.raises(ValueError, match="there is no folder"):
        convert(path, tmp_path / "a" / "b")


def test_what_is_no_gguf_file(path: Path, tmp_path: Path) -> None:
    for given, why in ((tmp_path, "nor a folder with one"), (path.with_name("tny.gguf"), "'tiny")):
        with pytest.raises(CheckpointError, match=why):
            convert(given, tmp_path / "model")


def test_the_command(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "require_memory", lambda needs: None)
    done = cli("convert", str(path), str(tmp_path / "model"), "--dtype", "float32")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "dequantised to float32" in done.stderr and "--target-model" in done.stderr
    assert "float8" in refused("convert", str(path), str(tmp_path / "x"), "--dtype", "float8")
    said = refused("convert", str(tmp_path / "none.gguf"), str(tmp_path / "x"), code=1)
    assert "there is no such file here" in said


def test_the_commands_take_files(path: Path) -> None:
    options = ["--method", "autoregressive", "--temperature", "0", "--max-new-tokens", "4"]
    done = cli("generate", "the cat", "--target-model", str(path), *options, "--json")
    assert done.exit_code == 0 and '"text"' in done.stdout
    assert done.stderr == "tiny.gguf: weights in Q8_0, F32 are dequantised to bfloat16\n"
