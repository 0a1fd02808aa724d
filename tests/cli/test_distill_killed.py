"""`mtad distill` that is killed while the target answers, and again while the draft learns."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
from support import saved_pair
from support.command import answer

TARGET = str(saved_pair.folder() / "target")


def killed_when(fact: Callable[[], bool], command: list[str]) -> None:
    """Run the command until the fact holds, and kill it at once."""
    with tempfile.TemporaryFile("w+") as said:
        program = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        _kill_when(fact, program, said)


def _kill_when(fact: Callable[[], bool], program: subprocess.Popen[bytes], said: IO[str]) -> None:
    try:
        while not fact():
            if program.poll() is not None:
                said.seek(0)
                pytest.fail(f"it ended before it could be killed: {said.read()}")
            time.sleep(0.02)
        program.send_signal(signal.SIGKILL)
        assert program.wait() == -signal.SIGKILL
    finally:
        program.kill()
        program.wait()


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.slow
def test_a_run_that_is_killed_twice_ends_in_a_draft(tmp_path: Path) -> None:
    folder, prompts = tmp_path / "draft", tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "the cat {i}"}}\n' for i in range(60)))
    command = [sys.executable, "-c", "from mtad.cli import main; main()", "distill"]
    command += ["--target", TARGET, "--output", str(folder), "--prompts", str(prompts)]
    command += ["--hours", "0.005", "--draft-vocab-size", "200", "--batch-size", "5"]
    command += ["--max-new-tokens", "12"]
    work = folder / "work"
    killed_when(lambda: len(lines_of(work / "answers.jsonl")) >= 10, command)
    begun = lines_of(work / "answers.jsonl")
    assert len(begun) < 60
    killed_when((work / "training.pt").exists, command)
    whole = lines_of(work / "answers.jsonl")
    assert whole[: len(begun) - 1] == begun[:-1]  # the last line may have been half written
    stamp = os.stat(work / "answers.jsonl").st_mtime_ns
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert os.stat(work / "answers.jsonl").st_mtime_ns == stamp, "answers are not asked for again"
    asked = [json.loads(line)["chat"][0]["content"] for line in whole]
    assert sorted(asked) == sorted(f"the cat {i}" for i in range(60))
    ask = ["the cat", "--target-model", TARGET, "--temperature", "0", "--max-new-tokens", "20"]
    plain = answer(*ask, "--method", "autoregressive")
    with_draft = ("--draft-model", str(folder), "--method", "speculative_sampling", "--no-guard")
    drafted = answer(*ask, *with_draft)
    assert drafted["token_ids"] == plain["token_ids"]
    assert drafted["stats"]["num_draft_tokens"] > 0
