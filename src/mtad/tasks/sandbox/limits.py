"""The limits of a program, and its outcome."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

Status = Literal["finished", "failed", "timed out", "killed"]


@dataclass(frozen=True)
class Limits:
    """The limits of a program.

    Attributes:
        time_s: wall-clock time from its start; a process gets as much of the processor, and a
            second more.
        memory_bytes: address space of each process.
        file_bytes: each file; all files together where the isolation gives a folder of its own.
        processes: processes and threads at once, the first one included.
        output_bytes: standard output and error together.
    """

    time_s: float = 5.0
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 24
    processes: int = 8
    output_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            ValueError: a limit is not positive.
        """
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                value = getattr(self, field.name)
                raise ValueError(f"{field.name} is {value}; it must be greater than 0")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a program.

    Attributes:
        status: "finished" if its last line was reached; "failed" after an exception or if it left
            before its end; "timed out"; "killed" by a signal, which is how a segmentation fault,
            too much output and the system's want of memory end.
        reason: the name of the exception, or some words on what happened.
        exit_code: as of `subprocess`: negative for a signal, None if the clock ended it.
        stdout, stderr: the last characters of what it wrote.
        isolation: the name of the isolation that was active.
    """

    status: Status
    reason: str
    exit_code: int | None
    stdout: str
    stderr: str
    isolation: str
