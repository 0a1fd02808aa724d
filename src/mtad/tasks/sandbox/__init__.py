"""Runs a program that a model wrote, isolated from this machine.

A program runs in a process of its own, under limits of time, memory, files, processes and output,
with an empty environment and an empty standard input. bubblewrap, or `unshare` and `mount` of
util-linux, keep it from the network, from files and from other processes. `find_isolation` tries
out what works here with a program that tries to get out; every `Outcome` names the isolation.

Memory is limited per process, so a program may use `processes` times `memory_bytes`. The kernel is
shared: a hole in it is a way out, as it is with containers.
"""

from mtad.tasks.sandbox.isolation import Isolation
from mtad.tasks.sandbox.limits import Limits, Outcome
from mtad.tasks.sandbox.probe import find_isolation
from mtad.tasks.sandbox.run import run_python

__all__ = ["Isolation", "Limits", "Outcome", "find_isolation", "run_python"]
