"""Models of GGUF files: weights, tokenizer, chat template and EOS, as transformers reads them.

Quantised weights are dequantised once, so what is decoded is a model like any other. What
transformers does not take from a file and the model needs is added here: the tokens that end a
text, and how some vocabularies split it.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers import modeling_gguf_pytorch_utils as reading

from mtad.errors import CheckpointError, UnsupportedModelError, first_line
from mtad.model.gguf_config import complete, scaling
from mtad.model.gguf_header import GgufError, Header, Tensor, read_header
from mtad.model.gguf_reading import read_quickly
from mtad.model.gguf_tokenizer import adjust, end_ids
from mtad.model.lm import Model

SUFFIX = ".gguf"
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3", "phi3", "stablelm", "starcoder2")
"""What GGUF calls the architectures that the tests decode from files; for messages only."""

_WEIGHTS = ("*.safetensors", "*.bin")
_PACKAGES = ("gguf", "accelerate")
_PART = re.compile(r"-\d{5}-of-\d{5}$")
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def gguf_path(path: str | Path) -> Path | None:
    """The GGUF file that a path means: itself, or the only one in a folder without other weights.

    Raises:
        GgufError: the folder has several.
    """
    place = Path(path)
    if place.suffix == SUFFIX and place.is_file():
        return place
    if not str(path) or not place.is_dir() or any(any(place.glob(one)) for one in _WEIGHTS):
        return None
    found = sorted(place.glob(f"*{SUFFIX}"))
    if len(found) > 1:
        names = ", ".join(one.name for one in found[:5]) + (", …" if len(found) > 5 else "")
        raise GgufError(f"it has {len(found)} GGUF files; give one of them: {names}")
    return found[0] if found else None


def require_gguf(path: str | Path, name: str) -> bool:
    """Whether the path means a GGUF file, once that is known to be one that can be read.

    Args:
        path: what was given, perhaps a folder or a hub name.
        name: "target" or "draft".

    Raises:
        CheckpointError: it is damaged, in parts, or a package is missing.
        UnsupportedModelError: of an architecture that transformers does not read.
    """
    try:
        source = find_gguf(path)
        if source is not None:
            source.check()
    except (GgufError, OSError) as error:
        raise CheckpointError(
            f"cannot load the {name} model from {str(path)!r}: {error}"
        ) from error
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            f"cannot load the {name} model from {str(path)!r}: {error}"
        ) from error
    return source is not None


def find_gguf(path: str | Path | None) -> GgufFile | None:
    """The GGUF file that a path means, None if it means none; raises as `gguf_path` does."""
    found = None if path is None else gguf_path(path)
    if found is None:
        return None
    facts = found.stat()
    return _opened(found, facts.st_mtime_ns, facts.st_size)


def gguf_notes(*loaded: tuple[str | Path | None, Any]) -> tuple[str, ...]:
    """A line for each path of a GGUF file, beside its model or None, on what its weights became."""
    found = ((find_gguf(path), model) for path, model in loaded if model is not None)
    return tuple(source.note(model.dtype) for source, model in found if source)


@lru_cache(maxsize=4)
def _opened(path: Path, mtime_ns: int, size: int) -> GgufFile:
    return GgufFile(path, read_header(path))


def require_packages() -> None:
    """Refuse to go on without what reads GGUF files.

    Raises:
        GgufError: says what to install.
    """
    missing = [one for one in _PACKAGES if importlib.util.find_spec(one) is None]
    if missing:
        raise GgufError(
            f"GGUF files need the package{'s' * (len(missing) > 1)} {' and '.join(missing)}: "
            f"pip install {' '.join(missing)}"
        )


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file whose header was read.

    Attributes:
        path: of the file.
        header: what it says of itself.
    """

    path: Path
    header: Header

    def check(self) -> None:
        """Refuse a file that cannot be loaded, before it takes minutes to find that out.

        Raises:
            GgufError, UnsupportedModelError: with the reason.
        """
        if _PART.search(self.path.stem) or self.header.metadata.get("split.count", 1) > 1:
            raise GgufError(
                "it is one part of a split file; join the parts with llama.cpp's "
                "llama-gguf-split --merge FIRST-PART OUTPUT"
            )
        if self.header.architecture not in _readable():
            raise UnsupportedModelError(
                f"its architecture {self.header.architecture!r} cannot be read from GGUF files; "
                f"architectures that work: {', '.join(ARCHITECTURES)}"
            )
        require_packages()
        scaling(self.header, self.path)
        end = self.header.data_start + max(
            (t.offset + _nbytes(t) for t in self._tensors), default=0
        )
        if end > self.header.size:
            raise GgufError(
                f"it is damaged: it has {self.header.size} of {end} bytes; download it again"
            )

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        return self.header.tensors

    @cached_property
    def types(self) -> tuple[str, ...]:
        """Names of the types of its tensors, the most frequent first."""
        return tuple(_type_name(one) for one in self.header.num_by_type)

    @property
    def dtype(self) -> torch.dtype:
        """What "auto" stands for: its own float type, bfloat16 for quantised weights."""
        if not set(self.types) <= _PLAIN.keys():
            return torch.bfloat16
        halves = [_PLAIN[one] for one in ("BF16", "F16") if one in self.types]
        return halves[0] if halves else torch.float32

    def note(self, dtype: torch.dtype) -> str:
        """One line that says what the weights were and are."""
        plain = [one for one in self.types if one in _PLAIN]
        packed = [one for one in self.types if one not in _PLAIN]
        kind, name = ", ".join(packed + plain), str(dtype).removeprefix("torch.")
        verb = "dequantised to" if packed else "kept as"
        return f"{self.path.name}: weights in {kind} are {verb} {name}"

    def load_config(self, path: str, **options: Any) -> Any:
        """The model's config; the arguments are those of `from_pretrained`, and not needed."""
        with read_quickly(self.path):
            config = AutoConfig.from_pretrained(str(self.path.parent), gguf_file=self.path.name)
        for key, value in self._special_ids(config).items():
            setattr(config, key, value)
        return complete(config, self.header, self.path)

    def _special_ids(self, config: Any) -> dict[str, Any]:
        """The tokens that begin, end and pad texts, as a config names them."""
        metadata = self.header.metadata
        return {
            "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
            "eos_token_id": end_ids(metadata, config.eos_token_id),
            "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
        }

    def load_model(self, path: str, **options: Any) -> tuple[Model, dict[str, Any]]:
        """The dequantised model, and what transformers says of the loading.

        Args:
            path: as it was given.
            options: of `from_pretrained`.

        Raises:
            ValueError: a quantization_config was given.
        """
        if options.get("quantization_config") is not None:
            raise ValueError(
                f"quantization_config was given for {path!r}; a GGUF file is dequantised, so "
                "leave it out, or quantise the folder that mtad convert makes of the file"
            )
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
        if options.get("dtype", "auto") == "auto":
            options["dtype"] = self.dtype
        with read_quickly(self.path, forgets=True):
            config = self.load_config(path)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(self.path.parent), gguf_file=self.path.name, config=config, **options
            )
        model, info = loaded
        self._settle(model)
        return model, info

    def _settle(self, model: Any) -> None:
        """Make it a plain model that ends its texts as the file says."""
        for owner, name in ((model.config, "quantization_config"), (model, "hf_quantizer")):
            if hasattr(owner, name):
                delattr(owner, name)
        model.is_quantized = False
        model.config.name_or_path = str(self.path)
        model.name_or_path = str(self.path)
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(model.generation_config, key, getattr(model.config, key))

    def load_tokenizer(self) -> tuple[PreTrainedTokenizerFast | None, str]:
        """The tokenizer with its chat template; None, and the reason, if the file has none.

        Raises:
            CheckpointError: it has one that cannot be read.
        """
        if "tokenizer.ggml.tokens" not in self.header.metadata:
            return None, f"{str(self.path)!r} has none"
        try:
            with read_quickly(self.path):
                tokenizer = PreTrainedTokenizerFast(
                    name_or_path=str(self.path.parent), gguf_file=self.path.name
                )
            return adjust(tokenizer, self.header.metadata), ""
        except Exception as error:
            raise CheckpointError(
                f"the tokenizer of {str(self.path)!r} cannot be read: {first_line(error)}"
            ) from error


def _readable() -> set[str]:
    """What GGUF calls the architectures that transformers tries to read."""
    names = set(reading.GGUF_SUPPORTED_ARCHITECTURES) | set(reading.TENSOR_PROCESSORS)
    newer = getattr(import_module("transformers.integrations"), "gguf", None)
    return names | {"gpt-oss"} | set(getattr(newer, "GGUF_CONFIG_ARCHS", ()))


def _type_name(type_id: int) -> str:
    import gguf

    try:
        return gguf.GGMLQuantizationType(type_id).name
    except ValueError as error:
        raise GgufError(
            f"it has tensors of type {type_id}, which the package gguf does not know; raise its "
            "version: pip install --upgrade gguf"
        ) from error


def _nbytes(tensor: Tensor) -> int:
    """Bytes of a tensor's data."""
    import gguf

    _type_name(tensor.type_id)
    num, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(tensor.type_id)]
    return prod(tensor.shape) // num * size
