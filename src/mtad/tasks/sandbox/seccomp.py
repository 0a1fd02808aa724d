"""A filter for the kernel (seccomp): system calls that a program may not make.

They give memory outside the address space, where no limit of a process counts it. util-linux loads
no such filters before its release 2.39, so `boot.py` loads this one.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import Final

# architecture, then memfd_create, memfd_secret, shmget, msgget
_NUMBERS: Final = {
    "x86_64": (0xC000003E, (319, 447, 29, 68)),
    "aarch64": (0xC00000B7, (279, 447, 194, 186)),
}
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4
_ALLOW, _NOT_PERMITTED, _NO_SUCH_CALL = 0x7FFF0000, 0x00050001, 0x00050026
_X32: Final = 1 << 30


def call_filter() -> bytes:
    """The filter as an array of `struct sock_filter`, empty where the call numbers are not known.

    It refuses the other numberings of the same processor (32 bits, x32) as a whole.
    """
    is_known = sys.platform == "linux" and os.uname().machine in _NUMBERS
    if not is_known or not sys.maxsize >> 32:
        return b""
    architecture, numbers = _NUMBERS[os.uname().machine]
    checks = [(_IF_AT_LEAST, _X32), *((_IF_EQUAL, number) for number in numbers)]
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _NO_SUCH_CALL),
        (_LOAD, 0, 0, _NUMBER_AT),
        *((test, len(checks) - at, 0, value) for at, (test, value) in enumerate(checks)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _NOT_PERMITTED),
    ]
    return b"".join(struct.pack("HBBI", *step) for step in steps)
