"""`mtad serve` as a process of its own, and what it answers."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
from support.command import MAIN


class Program:
    """`mtad serve` as its own process."""

    def __init__(self, *flags: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [*MAIN, "serve", "--port", "0", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
        self.client = httpx.Client(trust_env=False, timeout=60)

    def begin(self) -> None:
        """Wait until it serves."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("mtad serves demo on http://127.0.0.1:"), line
        self.client.base_url = line.split()[-1]

    def ask(self, **body: Any) -> httpx.Response:
        return self.client.post("/v1/completions", json={"model": "demo", **body})

    @contextlib.contextmanager
    def stream(self, **body: Any) -> Iterator[Iterator[dict[str, Any]]]:
        """The events of an answer that has begun."""
        asked = {"model": "demo", "prompt": "SELECT", "stream": True, **body}
        with self.client.stream("POST", "/v1/completions", json=asked) as answer:
            events = self._events(answer)
            next(events)
            yield events

    @staticmethod
    def _events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                word = line.removeprefix("data: ")
                yield {"done": True} if word == "[DONE]" else json.loads(word)

    def end(self) -> str:
        """What it wrote to stderr until it ended, as it should, with 0."""
        self.client.close()
        _, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors
        assert "Traceback" not in errors
        return errors


@contextlib.contextmanager
def program(*flags: str, **environment: str) -> Iterator[Program]:
    found = Program(*flags, **environment)
    try:
        found.begin()
        yield found
    finally:
        found.client.close()
        found.process.kill()
        found.process.communicate()
