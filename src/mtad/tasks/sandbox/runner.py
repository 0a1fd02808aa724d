"""The first lines in a program's process: run the program and report how it ended.

Standard input has the token, the descriptor for reports and the source. Each report begins with the
token, which a program would have to go looking for. Only a program that reaches its last line is
reported as finished; one that leaves by `sys.exit` or `os._exit` is not.

Runs as a script of its own interpreter, so it knows the standard library only.
"""

import contextlib
import os
import sys
import types


def run() -> None:
    """Run the program, report, and leave without waiting for its threads."""
    header, _, source = sys.stdin.buffer.read().partition(b"\n")
    token, fd = header.split()
    process = os.getpid()
    with open("program.py", "wb") as file:
        file.write(source)
    os.write(int(fd), b"\n%b started\n" % token)
    verdict = execute()
    # a child that the program forked gets here as well
    if os.getpid() == process:
        os.write(int(fd), b"\n%b ended %b\n" % (token, verdict.encode(errors="replace")[:100]))
    leave(int(verdict != "finished"))


def execute() -> str:
    """The word "finished", or the name of the exception, whose traceback was printed."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"], sys.argv[:] = module, ["program.py"]
    try:
        with open("program.py", encoding="utf-8") as file:
            source = file.read()
        exec(compile(source, "program.py", "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        sys.__excepthook__(type(error), error, error.__traceback__)
        return type(error).__name__
    return "finished"


def leave(code: int) -> None:
    """End the process with what it printed written out."""
    for stream in (sys.stdout, sys.stderr):
        # the program may have closed or replaced it
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


run()
