"""Settings in TOML files: errors name the file."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def require_table(value: Any, name: str) -> dict[str, Any]:
    """The value, if it is a table; raises `ValueError` with its name otherwise."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r}; it must be a table, [{name}]")
    return value


def from_toml(path: Path, read: Callable[[dict[str, Any]], T]) -> T:
    """What `read` makes of the table in a TOML file.

    Raises:
        ValueError: the file is missing or no TOML, or `read` says so; the message names it.
    """
    try:
        return read(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
