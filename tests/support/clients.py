"""Programs of other projects, each in an environment of its own that scripts/test-clients makes.

A client's folder in tests/clients has its packages (requirements.txt, or package.json) and, where
it is a library, a program `calls.py` or `calls.mjs` that makes its users' everyday calls and prints
in one line of JSON what each gave: `{"chat": {"got": …}, "tools": {"error": "…"}}`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.calling.asking import Event
from support.calling.calling import CHAT
from support.serving import demo

PLACE = "MTAD_CLIENTS"
"""The environment variable with the folder that holds the environments."""
WANTED = Path(__file__).parents[1] / "clients"
CALLING = Path(__file__).parent / "calling"
"""What the programs have in common."""


def place_of(client: str) -> Path:
    """The folder of a client's environment."""
    if PLACE not in os.environ:
        pytest.fail(f"{PLACE} is not set: run bash scripts/test-clients", pytrace=False)
    return Path(os.environ[PLACE]).resolve() / client


def run(command: list[str], folder: Path, timeout_s: float, **environment: str) -> str:
    """What a program prints; it has to end with 0."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    own = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder), "HOME": str(folder)}
    own |= {"OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    errors = folder / "stderr.txt"
    with errors.open("w") as file:
        done = subprocess.run(
            command,
            cwd=folder,
            env=inherited | own | environment,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            timeout=timeout_s,
        )
    assert done.returncode == 0, (done.stdout + errors.read_text())[-4000:]
    return done.stdout


def run_client(name: str, *arguments: str, folder: Path, timeout_s: float = 600) -> str:
    """What a client's program prints; it has to end with 0.

    Args:
        name: of the program, which is its environment's too.
        arguments: of the program.
        folder: where it runs, and keeps what it keeps.
        timeout_s: seconds until it is given up.
    """
    program = place_of(name) / "bin" / name
    return run([str(program), *arguments], folder, timeout_s)


def calls_of(client: str, address: str, folder: Path, timeout_s: float = 300) -> dict[str, Any]:
    """What each call of a client's program gave, by its words.

    Args:
        client: the name of its folder and of its environment.
        address: of the server, without /v1.
        folder: where the program runs, which is its home.
        timeout_s: seconds until it is given up.
    """
    place, program = place_of(client), WANTED / client / "calls.py"
    command = [str(place / "bin" / "python"), str(program)]
    if not program.exists():  # modules are looked for beside the program
        shutil.copy(CALLING / "calling.mjs", place)
        command = ["node", shutil.copy(WANTED / client / "calls.mjs", place)]
    printed = run(
        command,
        folder,
        timeout_s,
        PYTHONPATH=str(CALLING),
        PATH=f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}",
        MTAD_URL=address,
        OPENAI_BASE_URL=f"{address}/v1",
        OPENAI_API_KEY="none",
    )
    found = json.loads(printed.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def packages_of(client: str) -> dict[str, str]:
    """The versions of the packages that a client's folder asks for.

    A program whose requests its calls repeat stands in `recorded.json`, with its version.
    """
    wanted, place = WANTED / client, place_of(client)
    recorded = wanted / "recorded.json"
    if (wanted / "package.json").exists():
        names = json.loads((wanted / "package.json").read_text())["dependencies"]
        files = {name: place / "node_modules" / name / "package.json" for name in names}
        return {name: json.loads(file.read_text())["version"] for name, file in files.items()}
    lines = (wanted / "requirements.txt").read_text().split()
    names = [re.split(r"[\[=<>~!]", line)[0] for line in lines]
    code = "import sys, json; from importlib.metadata import version as of\n"
    code += "print(json.dumps({name: of(name) for name in sys.argv[1:]}))"
    python = str(place / "bin" / "python")
    printed = subprocess.run([python, "-c", code, *names], stdout=subprocess.PIPE, check=True)
    found = json.loads(printed.stdout)
    assert isinstance(found, dict)
    return (json.loads(recorded.read_text()) if recorded.exists() else {}) | found


def expected(prompt: Any, **sampling: Any) -> str:
    """What `generate` makes of a prompt or chat, greedily unless told otherwise."""
    options = {"temperature": 0.0, "max_new_tokens": 16} | sampling
    return demo().generate([prompt], guard=False, **options)[0].text


def call(words: str, holds: Callable[[Any], None], *marks: Any) -> Any:
    """A parameter of a test: a call, and what has to hold of what it gave."""
    return pytest.param(holds, marks=[pytest.mark.call(words), *marks], id=words)


def is_answer(got: Any) -> None:
    """It is the text that `generate` gives for the chat."""
    assert got == expected(CHAT)


def is_completion(got: Any) -> None:
    """It is the text that `generate` gives for the prompt."""
    assert got == expected("def area(r):")


def is_conversation(got: Any) -> None:
    """Both answers are those that `generate` gives, the second with the first before it."""
    first = expected(CHAT)
    said = [{"role": "assistant", "content": first}, {"role": "user", "content": "Why?"}]
    assert got == [first, expected([*CHAT, *said])]


def is_event(got: Any) -> None:
    """It has the form that was asked for, without more."""
    assert Event.model_validate(got).model_dump() == got


def are_calls(got: Any) -> None:
    """There are calls, with valid arguments, as objects or in JSON."""
    assert got
    for name, arguments in got:
        given = json.loads(arguments) if isinstance(arguments, str) else arguments
        assert (name, given) in [("weather", {"city": city}) for city in ("Oslo", "Rome")]


def is_loop(got: Any) -> None:
    """Calls were made, each has its result, and an answer came after them."""
    are_calls(got["calls"])
    assert len(got["results"]) == len(got["calls"])
    assert got["text"]
