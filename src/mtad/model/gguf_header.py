"""The header of a GGUF file: its metadata and a table of its tensors, without their data.

Read here and not by the package gguf, which takes seconds for a vocabulary, and whose exceptions do
not say that a file is damaged. Knows no model. Format: docs/gguf.md of ggml, version 3.
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAGIC = b"GGUF"
_LFS = b"version https://git-lfs"
_VERSIONS = (2, 3)
_NUMBERS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9
_KEPT = "tokenizer.ggml.tokens"
"""The one array of strings that is kept; the others, such as the merges, are passed over."""
_ALIGNMENT = 32


class GgufError(Exception):
    """Why a file cannot be read as GGUF, and what to do about it."""


@dataclass(frozen=True)
class Tensor:
    """One line of the table of tensors.

    Attributes:
        name: as GGUF calls it.
        shape: the dimension that is contiguous last, as in torch.
        type_id: number of its type, as ggml counts them.
        offset: bytes from the begin of all data.
    """

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int


@dataclass(frozen=True)
class Header:
    """The metadata of a GGUF file, and where its tensors are.

    Attributes:
        metadata: by key; numbers, strings, lists of numbers, and the list of tokens.
        tensors: in the order of the file.
        data_start: where the data of the tensors begin, in bytes.
        size: of the file, in bytes.
    """

    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]
    data_start: int
    size: int

    @property
    def architecture(self) -> str:
        """The family of models, as GGUF calls it."""
        return str(self.metadata["general.architecture"])

    def of(self, key: str) -> Any:
        """A value among those of the architecture; None if there is none."""
        return self.metadata.get(f"{self.architecture}.{key}")

    @property
    def num_by_type(self) -> dict[int, int]:
        """How many tensors there are of each type, the most frequent first."""
        return dict(Counter(one.type_id for one in self.tensors).most_common())


def read_header(path: Path) -> Header:
    """The header of a file.

    Raises:
        GgufError: it is not a GGUF file, one of another version, or it ends too early.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        _require_magic(file.read(len(_LFS)))
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Reader(data).header()
            except (struct.error, IndexError) as error:
                raise GgufError(
                    f"it is damaged: its header does not end within its {len(data)} bytes; "
                    "download it again"
                ) from error
            except (UnicodeDecodeError, KeyError) as error:
                raise GgufError(
                    f"it is damaged: its header makes no sense ({error}); download it again"
                ) from error


def _require_magic(begin: bytes) -> None:
    if begin == _LFS:
        raise GgufError(
            "it is a pointer of Git LFS and not the model itself; fetch that with: git lfs pull"
        )
    if not begin:
        raise GgufError("the file is empty; download it again")
    if not begin.startswith(MAGIC):
        raise GgufError(f"it is not a GGUF file: it begins with {begin[:4]!r} and not {MAGIC!r}")


class _Reader:
    """Reads one value after the other."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.place = data, len(MAGIC)

    def header(self) -> Header:
        """The whole header."""
        version = self.number("I")
        if version not in _VERSIONS:
            kind = "big-endian" if version >> 24 in _VERSIONS else f"of version {version}"
            raise GgufError(f"it is {kind}; versions 2 and 3 in little-endian can be read")
        num_tensors, num_keys = self.number("Q"), self.number("Q")
        metadata = dict(self.entry() for _ in range(num_keys))
        if "general.architecture" not in metadata:
            raise GgufError("it does not name its architecture, so it is not a whole model")
        tensors = tuple(self.tensor() for _ in range(num_tensors))
        alignment = int(metadata.get("general.alignment", _ALIGNMENT)) or _ALIGNMENT
        start = -(-self.place // alignment) * alignment
        return Header(metadata, tensors, start, len(self.data))

    def number(self, code: str) -> Any:
        """One number, of the type with this letter of `struct`."""
        [value] = self.numbers(code, 1)
        return value

    def numbers(self, code: str, count: int) -> tuple[Any, ...]:
        """Several numbers of one type."""
        form = f"<{count}{code}"
        if struct.calcsize(f"<{code}") * count > len(self.data) - self.place:
            raise IndexError
        values = struct.unpack_from(form, self.data, self.place)
        self.place += struct.calcsize(form)
        return values

    def skip(self, size: int) -> None:
        """Pass over so many bytes."""
        self.place += size
        if self.place > len(self.data):
            raise IndexError

    def string(self) -> str:
        """One string."""
        size = self.number("Q")
        self.skip(size)
        return self.data[self.place - size : self.place].decode()

    def entry(self) -> tuple[str, Any]:
        """A key of the metadata and its value."""
        key = self.string()
        return key, self.value(self.number("I"), keeps=key == _KEPT)

    def value(self, kind: int, keeps: bool = True) -> Any:
        """A value of a type; of strings in an array that is not to be kept, their number."""
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.number(_NUMBERS[kind])
        kind, count = self.numbers("I", 1)[0], self.number("Q")
        if kind in _NUMBERS:
            return list(self.numbers(_NUMBERS[kind], count))
        if keeps or kind != _STRING:
            return [self.value(kind) for _ in range(count)]
        for _ in range(count):
            self.skip(self.number("Q"))
        return count

    def tensor(self) -> Tensor:
        """A line of the table of tensors."""
        name, num_dims = self.string(), self.number("I")
        shape = self.numbers("Q", num_dims)[::-1]
        return Tensor(name, shape, self.number("I"), self.number("Q"))
