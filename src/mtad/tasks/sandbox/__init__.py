"""Running a program that a model wrote, where it can do no harm.

A program runs in a process of its own, under limits of time, memory, files, processes and output,
with an empty environment and an empty standard input. What else it is kept from depends on the
isolation that the system offers; `find_isolation` tries it out and every `Outcome` names it.

Memory is limited per process, so that a program may use `processes` times `memory_bytes`. The
kernel is shared: a hole in it is a way out, as it is with containers.
"""

from mtad.tasks.sandbox.isolation import Isolation
from mtad.tasks.sandbox.limits import Limits, Outcome
from mtad.tasks.sandbox.probe import find_isolation
from mtad.tasks.sandbox.run import run_python

__all__ = ["Isolation", "Limits", "Outcome", "find_isolation", "run_python"]
