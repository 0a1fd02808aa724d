"""Whether the files of a checkpoint's folder are whole, before anything is loaded from them.

Reads the config and the first bytes of weights and tokenizer, so that a download that broke off, a
pointer of Git LFS or a misspelt model type is one clear message. Names and shapes of the weights
are known once they are loaded. Knows no model.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import transformers

from mtad.core.names import did_you_mean
from mtad.errors import CheckpointError

CONFIG = "config.json"
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where transformers looks for weights, the first one first."""
TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""Files one of which every tokenizer has."""
_TOKENIZER_JSON = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

_POINTER = b"version https://git-lfs"
_COPY = "copy or download it again"
_OWN_FILES = frozenset("gguf_file variant use_safetensors from_tf from_flax".split())
"""Options that name other files than `WEIGHTS`."""
_LARGEST_HEADER = 100_000_000
"""Bytes, that the format allows."""


class _Fault(Exception):
    """What is wrong with a folder, and what to do."""


def require_whole(path: str | Path, name: str, options: Mapping[str, Any]) -> None:
    """Refuse a folder whose config, weights or tokenizer file cannot be what they should be.

    Args:
        path: the folder.
        name: "target" or "draft".
        options: of `from_pretrained`.

    Raises:
        CheckpointError: with the file, what is wrong with it and what to do.
    """
    folder = Path(path) / str(options.get("subfolder") or "")
    try:
        if _is_there(folder / "adapter_config.json"):
            return  # its config and most of its weights are elsewhere
        config = _config(folder, options)
        if not _OWN_FILES & options.keys() and "transformers_weights" not in config:
            _require_weights(folder)
        if (tokenizer := folder / TOKENIZER[0]).exists():
            _require_content(tokenizer)
    except _Fault as fault:
        raise CheckpointError(
            f"cannot load the {name} model from {str(path)!r}: {fault}"
        ) from fault.__cause__
    except OSError as error:
        where = error.filename or folder
        raise CheckpointError(
            f"cannot load the {name} model from {str(path)!r}: {str(where)!r} cannot be read: "
            f"{error.strerror or error}; {_remedy(error)}"
        ) from error


def tokenizer_fault(folder: Path) -> str:
    """What is wrong with the tokenizer's files, with what to do; empty if that cannot be seen."""
    try:
        for file in map(folder.joinpath, dict.fromkeys((*_TOKENIZER_JSON, *TOKENIZER))):
            if file.exists():
                _require_content(file)
                if file.suffix == ".json":
                    _json(file)
    except _Fault as fault:
        return str(fault)
    except OSError as error:
        return f"{str(error.filename)!r}: {error.strerror}; {_remedy(error)}"
    return ""


def require_all_weights(info: Mapping[str, Any], path: str | Path, name: str) -> None:
    """Refuse a model that was loaded without some of its weights, or with weights of other shapes.

    Args:
        info: transformers' loading info, with mismatched weights ignored.
        path: of the checkpoint.
        name: "target" or "draft".

    Raises:
        CheckpointError: with a weight as an example.
    """
    start = f"the {name} checkpoint {str(path)!r}"
    if wrong := sorted(info["mismatched_keys"], key=str):
        key, found, wanted = wrong[0]
        raise CheckpointError(
            f"{start} has {len(wrong)} weights of another shape than its {CONFIG} says, such as "
            f"{key!r}, which is {_shape(found)} and should be {_shape(wanted)}; take the "
            f"{CONFIG} that belongs to the weights"
        )
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(
            f"{start} lacks {len(missing)} weights, such as {missing[0]!r}; it is incomplete or of "
            "another architecture than its config says"
        )


def _shape(size: Collection[int]) -> str:
    return " x ".join(map(str, size)) or "a single number"


def _config(folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """The config, of a model type that is known."""
    file = folder / CONFIG
    if not _is_there(file):
        raise _Fault(_without_config(folder))
    _require_content(file)
    config = _json(file)
    if "auto_map" in config and options.get("trust_remote_code"):
        return config
    known = transformers.CONFIG_MAPPING
    kind = config.get("model_type")
    if kind is None:
        raise _Fault(
            f"its {CONFIG} has no model_type; take the {CONFIG} that belongs to the weights"
        )
    if kind not in known and "auto_map" not in config:
        raise _Fault(
            f"its {CONFIG} says model_type {kind!r}{did_you_mean(str(kind), known)}, which "
            f"transformers {transformers.__version__} does not know; mend it, or install a "
            "version that does"
        )
    return config


def _without_config(folder: Path) -> str:
    """What there is in a folder that has no config."""
    if not folder.is_dir():
        return f"it has no subfolder {folder.name!r}"
    there = sorted(folder.iterdir())
    if not there:
        return "the folder is empty; copy or download the model into it"
    if nested := [one.name for one in there if (one / CONFIG).is_file()]:
        shown = ", ".join(map(repr, nested[:3]))
        return f"the folder has no {CONFIG}, and {shown} in it has one; give that folder"
    near = did_you_mean(CONFIG, [one.name for one in there if one.suffix == ".json"])
    return (
        f"the folder has no {CONFIG}{near}; copy it there, it belongs to every model that "
        "transformers saves"
    )


def _require_weights(folder: Path) -> None:
    """Refuse weights that are not there or not whole."""
    first = next((folder / one for one in WEIGHTS if (folder / one).exists()), None)
    if first is None:
        raise _Fault(f"the folder has no weights: none of {', '.join(WEIGHTS)}; copy them there")
    _require_content(first)
    for file in [first] if first.suffix != ".json" else _shards(first):
        _require_content(file)
        if file.suffix == ".safetensors":
            _require_safetensors(file)
        else:
            _require_pickle(file)


def _shards(index: Path) -> Iterator[Path]:
    """The files that an index names, all there."""
    places = _json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise _Fault(f"{index.name} has no weight_map; {_COPY}")
    files = sorted({str(name) for name in places.values()})
    if lost := [name for name in files if not (index.parent / name).exists()]:
        raise _Fault(
            f"{len(lost)} of the {len(files)} files of weights that {index.name} names are "
            f"missing, such as {lost[0]!r}; copy or download them, too"
        )
    yield from map(index.parent.joinpath, files)


def _require_content(file: Path) -> None:
    """Refuse an empty file, and a pointer that Git LFS left in place of the file."""
    with file.open("rb") as stream:
        start = stream.read(len(_POINTER))
    if not start:
        raise _Fault(f"{file.name} is empty; {_COPY}")
    if start == _POINTER:
        raise _Fault(
            f"{file.name} is a pointer of Git LFS in place of the file; fetch the files with: git "
            "lfs pull"
        )


def _require_safetensors(file: Path) -> None:
    """Refuse a file whose header is damaged, or that is shorter than its header says."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > _LARGEST_HEADER:
            raise _Fault(f"{file.name} is damaged: it has no header of safetensors; {_COPY}")
        header = stream.read(length)
    if len(header) < length or size < 8:
        raise _Fault(f"{file.name} is cut off within its header, at {size:,} bytes; {_COPY}")
    try:
        tensors = json.loads(header)
        ends = [one["data_offsets"][1] for key, one in tensors.items() if key != "__metadata__"]
        wanted = 8 + length + max(ends, default=0)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _Fault(f"{file.name} is damaged: it has no header of safetensors; {_COPY}") from error
    if size < wanted:
        raise _Fault(f"{file.name} is cut off: it has {size:,} of {wanted:,} bytes; {_COPY}")


def _require_pickle(file: Path) -> None:
    """Refuse an archive of torch whose end is missing."""
    with file.open("rb") as stream:
        is_archive = stream.read(2) == b"PK"
    if is_archive and not zipfile.is_zipfile(file):
        raise _Fault(f"{file.name} is cut off, at {file.stat().st_size:,} bytes; {_COPY}")


def _json(file: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise _Fault(f"{file.name} is no text in UTF-8; {_COPY}") from error
    except (ValueError, RecursionError) as error:
        raise _Fault(f"{file.name} is no valid JSON: {error}; mend it, or {_COPY}") from error
    if not isinstance(value, dict):
        raise _Fault(f"{file.name} must hold a JSON object, not {type(value).__name__}; {_COPY}")
    return value


def _is_there(file: Path) -> bool:
    """Whether there is such a file.

    Raises:
        PermissionError: the folder does not say.
    """
    try:
        return bool(file.stat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _remedy(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "give yourself the right to read it"
    return "look at the disk"
