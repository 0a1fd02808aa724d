"""The file of a trace: its header, numbers packed into text, and its lines read back.

Knows no method and does not judge what the lines say; `docs/traces.md` describes them.
"""

from __future__ import annotations

import base64
import itertools
import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from mtad.core.options import jsonable
from mtad.core.schema import check_fields, options_of
from mtad.errors import DataError
from mtad.jsonl import damaged
from mtad.jsonl import read_lines as json_lines
from mtad.model.loading import Models

VERSION = 1
"""Of the file's format."""


@dataclass(frozen=True)
class TraceHeader:
    """What all texts of a file share.

    Attributes:
        target, draft: where the models came from; no draft is None.
        vocab: number of token ids in use.
        eos_token_ids: token ids that end a text unless a request says otherwise.
    """

    target: str
    draft: str | None
    vocab: Annotated[int, Ge(0)]
    eos_token_ids: tuple[Annotated[int, Ge(0)], ...] = ()

    def __post_init__(self) -> None:
        """Refuse fields of another type."""
        check_fields(self)

    @classmethod
    def of(cls, models: Models) -> TraceHeader:
        """The header for a pair's models."""
        draft = None if models.draft is None else str(models.draft.name_or_path)
        return cls(str(models.target.name_or_path), draft, models.vocab, models.eos_token_ids)

    def as_dict(self) -> dict[str, Any]:
        """The first line of a file."""
        return {"mtad_trace": VERSION, **jsonable(asdict(self))}


def pack(values: Tensor) -> dict[str, Any]:
    """Numbers of float32 as text, exactly.

    The first bytes of all numbers come first, then the second ones, and so on: equal bytes lie side
    by side, and those that bfloat16 leaves at zero take next to no space.
    """
    array = values.detach().to("cpu", torch.float32).contiguous().numpy()
    planes = np.ascontiguousarray(array.reshape(-1, 1).astype("<f4").view(np.uint8).T)
    data = base64.b64encode(zlib.compress(planes.tobytes(), 1)).decode()
    return {"shape": [*values.shape], "float32": data}


def unpack(packed: Mapping[str, Any]) -> Tensor:
    """The numbers that `pack` was given.

    Raises:
        ValueError: the text is damaged, or has more or fewer numbers than its shape.
    """
    shape = [int(size) for size in packed["shape"]]
    size = 4 * math.prod(shape)
    try:
        unzip = zlib.decompressobj()
        data = unzip.decompress(base64.b64decode(packed["float32"], validate=True), size + 1)
    except zlib.error as error:
        raise ValueError(f"packed numbers are damaged: {error}") from error
    if len(data) != size or min(shape, default=0) < 0:
        raise ValueError(f"packed numbers are not of shape {shape}")
    planes = np.frombuffer(data, np.uint8).reshape(4, -1)
    numbers = np.ascontiguousarray(planes.T).view("<f4").astype(np.float32)
    return torch.from_numpy(numbers.reshape(shape))


def read_header(path: Path) -> TraceHeader:
    """The header of a trace.

    Raises:
        DataError: no such file, no trace, or one of another version.
    """
    there, place = next(json_lines(path), ({}, ""))
    version = there.get("mtad_trace")
    if version is None:
        raise DataError(f"{path} is not a trace; give a file that --trace wrote")
    if version != VERSION:
        raise DataError(
            f"{path} is a trace of version {version!r}; this mtad reads version {VERSION}: read it "
            "with the mtad that wrote it"
        )
    with named_if_damaged(place):
        known = options_of(TraceHeader).values()
        return TraceHeader(**{field.name: field.typed(there[field.name]) for field in known})


def read_lines(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The lines after the header, and where each is; one that was cut off is left out.

    Raises:
        DataError: a line that is not a JSON object of a known type.
    """
    for row, place in itertools.islice(json_lines(path), 1, None):
        if row.get("type") not in ("request", "iteration", "end"):
            raise DataError(f"{place} is of unknown type {row.get('type')!r}; delete the line")
        yield row, place


@contextmanager
def named_if_damaged(place: str) -> Iterator[None]:
    """Turn what a line at `place` raises where it does not hold what it should into `DataError`."""
    try:
        yield
    except (LookupError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise damaged(place, error) from error
