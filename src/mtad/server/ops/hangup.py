"""SIGHUP: files are opened again, and the server goes on.

Knows no file.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def hangups() -> Iterator[list[Callable[[], None]]]:
    """What SIGHUP does: the functions in this list, in a thread of their own.

    Until the end of the context the signal ends nothing, even while the list is empty.
    """
    actions: list[Callable[[], None]] = []
    number = getattr(signal, "SIGHUP", None)  # Windows has none
    if number is None or threading.current_thread() is not threading.main_thread():
        yield actions
        return

    def act() -> None:
        for action in list(actions):
            action()

    # a handler runs between any two instructions, perhaps of one that holds a file's lock
    before = signal.signal(number, lambda *_: threading.Thread(target=act, daemon=True).start())
    try:
        yield actions
    finally:
        signal.signal(number, before)
