"""A checkpoint that is not whole: which file it is, what is wrong with it and what to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import transformers
from support.saved_pair import folder
from transformers import AutoModelForCausalLM

from mtad.errors import CheckpointError
from mtad.model.folder import require_whole
from mtad.model.loading import load_models

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
Damage = Callable[[Path], object]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A whole folder, to be damaged."""
    return Path(shutil.copytree(folder() / "draft", tmp_path / "model"))


def refusal(target: Path, draft: Path | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_models(target, draft)
    return str(caught.value)


def write(name: str, content: bytes | str) -> Damage:
    data = content.encode() if isinstance(content, str) else content
    return lambda model: (model / name).write_bytes(data)


def edit(**changes: object) -> Damage:
    def damage(model: Path) -> None:
        path = model / "config.json"
        config = json.loads(path.read_text())
        kept = {k: v for k, v in (config | changes).items() if v is not None}
        path.write_text(json.dumps(kept))

    return damage


def cut(name: str, size: int) -> Damage:
    return lambda model: os.truncate(model / name, size)


def without(name: str) -> Damage:
    return lambda model: (model / name).unlink()


def empty(model: Path) -> None:
    shutil.rmtree(model)
    model.mkdir()


def one_below(model: Path) -> None:
    model.rename(model.parent / "inner")
    model.mkdir()
    (model.parent / "inner").rename(model / "v1")


def in_shards(model: Path) -> None:
    whole = AutoModelForCausalLM.from_pretrained(model)
    (model / "model.safetensors").unlink()
    whole.save_pretrained(model, max_shard_size="40KB")
    assert len([*model.glob("model-*.safetensors")]) > 2


def lost_shard(model: Path) -> None:
    in_shards(model)
    sorted(model.glob("model-*.safetensors"))[1].unlink()


def cut_shard(model: Path) -> None:
    in_shards(model)
    last = sorted(model.glob("model-*.safetensors"))[-1]
    os.truncate(last, last.stat().st_size - 1)


def bad_index(content: str) -> Damage:
    def damage(model: Path) -> None:
        (model / "model.safetensors").unlink()
        (model / "model.safetensors.index.json").write_text(content)

    return damage


def as_pickle(size: int) -> Damage:
    def damage(model: Path) -> None:
        (model / "model.safetensors").unlink()
        (model / "pytorch_model.bin").write_bytes((b"PK\x03\x04" + bytes(200))[:size])

    return damage


def swapped(model: Path) -> None:
    """A header of the right length that says nothing."""
    size = (model / "model.safetensors").stat().st_size
    (model / "model.safetensors").write_bytes((8).to_bytes(8, "little") + b"x" * (size - 8))


AGAIN = "copy or download it again"
DAMAGED: dict[str, tuple[Damage, str]] = {
    "an empty folder": (empty, "the folder is empty; copy or download the model into it"),
    "no config": (without("config.json"), r"the folder has no config\.json.*; copy it there"),
    "a config of another name": (
        lambda model: (model / "config.json").rename(model / "cofnig.json"),
        r"no config\.json \(did you mean 'cofnig\.json'\?\)",
    ),
    "a folder too high": (one_below, r"no config\.json, and 'v1' in it has one; give that folder"),
    "an empty config": (write("config.json", b""), rf"config\.json is empty; {AGAIN}"),
    "a broken config": (
        write("config.json", '{"model_type": "llama",}'),
        r"config\.json is no valid JSON: .*line 1 column \d+.*; mend it, or copy",
    ),
    "a config in bytes": (write("config.json", b"\xff\xfe{"), r"config\.json is no text in UTF-8"),
    "a config that is a list": (write("config.json", "[1]"), "must hold a JSON object, not list"),
    "a config as a pointer": (
        write("config.json", POINTER),
        r"config\.json is a pointer of Git LFS in place of the file; fetch .*: git lfs pull",
    ),
    "no type": (edit(model_type=None), r"its config\.json has no model_type; take the config"),
    "a misspelt type": (
        edit(model_type="lama"),
        r"model_type 'lama' \(did you mean 'llama'\?\), which transformers [\d.]+ does not know",
    ),
    "a type of the future": (
        edit(model_type="zzz-9000"),
        r"model_type 'zzz-9000', which transformers [\d.]+ does not know; mend it, or install",
    ),
    "no weights": (without("model.safetensors"), r"no weights: none of model\.safetensors, "),
    "weights as a pointer": (
        write("model.safetensors", POINTER),
        r"model\.safetensors is a pointer of Git LFS",
    ),
    "empty weights": (write("model.safetensors", b""), rf"model\.safetensors is empty; {AGAIN}"),
    "weights cut in the header": (
        cut("model.safetensors", 1000),
        rf"model\.safetensors is cut off within its header, at 1,000 bytes; {AGAIN}",
    ),
    "weights cut in their numbers": (
        lambda model: os.truncate(
            model / "model.safetensors", (model / "model.safetensors").stat().st_size - 100
        ),
        rf"model\.safetensors is cut off: it has [\d,]+ of [\d,]+ bytes; {AGAIN}",
    ),
    "other bytes for weights": (
        write("model.safetensors", b"<!DOCTYPE html><html>" * 9),
        r"model\.safetensors is damaged: it has no header of safetensors",
    ),
    "a header that says nothing": (swapped, r"model\.safetensors is damaged: it has no header"),
    "a lost shard": (
        lost_shard,
        r"1 of the \d+ files of weights that model\.safetensors\.index\.json names are missing, "
        r"such as 'model-00002-of-\d+\.safetensors'; copy or download them",
    ),
    "a cut shard": (cut_shard, r"model-\d+-of-\d+\.safetensors is cut off: it has [\d,]+ of"),
    "a broken index": (bad_index("{"), r"model\.safetensors\.index\.json is no valid JSON"),
    "an index of nothing": (bad_index("{}"), r"index\.json has no weight_map; copy"),
    "an archive of torch without its end": (
        as_pickle(150),
        r"pytorch_model\.bin is cut off, at 150 bytes",
    ),
    "an empty archive of torch": (as_pickle(0), r"pytorch_model\.bin is empty"),
    "a tokenizer as a pointer": (
        write("tokenizer.json", POINTER),
        r"tokenizer\.json is a pointer of Git LFS",
    ),
    "an empty tokenizer": (write("tokenizer.json", b""), r"tokenizer\.json is empty"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_folder_is_refused_before_anything_is_loaded(
    damage: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm, why = DAMAGED[damage]
    harm(model)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", pytest.fail)
    start = f"cannot load the target model from {str(model)!r}: "
    message = refusal(model)
    assert message.startswith(start)
    assert re.search(why, message)
    assert "\n" not in message
    assert refusal(folder() / "target", model) == message.replace("the target", "the draft", 1)


@pytest.mark.parametrize("which", ["target", "draft"])
def test_weights_of_another_shape_are_shown_with_both(model: Path, which: str) -> None:
    edit(intermediate_size=24)(model)
    message = refusal(*[model] if which == "target" else [folder() / "target", model])
    assert message.startswith(f"the {which} checkpoint {str(model)!r} has 6 weights of another ")
    assert "'model.layers.0.mlp.down_proj.weight', which is 32 x 64 and should be 32 x 24" in (
        message
    )
    assert message.endswith("; take the config.json that belongs to the weights")


@pytest.mark.parametrize("which", ["target", "draft"])
@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("tokenizer.json", '{"version": ', r"tokenizer\.json is no valid JSON: Expecting value"),
        ("tokenizer_config.json", POINTER, r"tokenizer_config\.json is a pointer of Git LFS"),
        ("tokenizer_config.json", "{,}", r"tokenizer_config\.json is no valid JSON"),
        ("tokenizer.json", '{"model": {"type": "Odd"}}', r"cannot be read: .*; copy its files"),
    ],
)
def test_a_damaged_tokenizer(
    which: str, name: str, content: bytes | str, why: str, model: Path
) -> None:
    write(name, content)(model)
    message = refusal(*[model] if which == "target" else [folder() / "target", model])
    assert message.startswith(f"the tokenizer of the {which} model in {str(model)!r} cannot be")
    assert re.search(why, message)


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder of which another user may read what the mode says, and that user."""
    if not hasattr(os, "seteuid") or os.geteuid() not in (0, 65534):
        yield Path(tempfile.mkdtemp())
        return
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    try:
        yield place
    finally:
        os.seteuid(0)
        shutil.rmtree(place)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", ""])
def test_what_may_not_be_read_is_named(name: str, nobody: Path) -> None:
    model = Path(shutil.copytree(folder() / "draft", nobody / "model"))
    for one in (model, *model.iterdir()):
        one.chmod(0o755)
    (model / name).chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    with pytest.raises(CheckpointError) as caught:
        require_whole(model, "target", {})
    assert re.match(
        rf"cannot load the target model from '{model}': '{model / name}.*' cannot be read: "
        r"Permission denied; give yourself the right to read it",
        str(caught.value),
    )


def test_what_is_whole_is_let_through(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_whole(model, "target", {})
    require_whole(model.parent, "target", {"subfolder": "model"})
    (model / "model.safetensors").rename(model / "model.fp16.safetensors")
    require_whole(model, "target", {"variant": "fp16"})
    edit(model_type="ours", auto_map={"AutoConfig": "ours.Config"})(model)
    require_whole(model, "target", {"variant": "fp16", "trust_remote_code": True})
    (model / "config.json").unlink()
    (model / "adapter_config.json").write_text("{}")
    require_whole(model, "target", {})


def test_a_subfolder_that_is_not_there(model: Path) -> None:
    with pytest.raises(CheckpointError, match=r"the draft model .*: it has no subfolder 'v2'"):
        require_whole(model, "draft", {"subfolder": "v2"})
