"""A model that is not there: one message that says so, and nothing of other libraries."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from support.command import MAIN

from mtad.errors import CheckpointError
from mtad.model.loading import load_models
from mtad.model.presence import require_checkpoint

ABSENT = "there is no such folder here"


def refusal(path: str | Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_models(path, **options)
    return str(caught.value)


@pytest.mark.parametrize("path", ["/nowhere/t", "./models", "a/b/c", "C:\\models\\x", "~/none", ""])
def test_a_path_is_never_asked_of_the_hub(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "model_info", pytest.fail)
    assert refusal(path) == f"cannot load the target model from {path!r}: {ABSENT}"


def test_a_folder_with_nearly_this_name_is_suggested(tmp_path: Path) -> None:
    for name in ("target", "draft"):
        (tmp_path / name).mkdir()
    assert refusal(tmp_path / "traget").endswith(f"{ABSENT} (did you mean 'target'?)")
    assert refusal(tmp_path / "Draft").endswith(f"{ABSENT} (did you mean 'draft'?)")
    assert refusal(tmp_path / "other").endswith(ABSENT)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    assert refusal(path).endswith("it is a file; give its folder, or a .gguf file")


@pytest.mark.parametrize(
    ("error", "options", "why"),
    [
        (RepositoryNotFoundError, {}, "no such model on the hub that you may read"),
        (RevisionNotFoundError, {"revision": "v9"}, "the hub's model has no revision 'v9'"),
        (TimeoutError, {}, "the hub cannot be reached"),
    ],
)
def test_what_the_hub_says(
    error: type[Exception], options: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = error("x", response=Mock()) if issubclass(error, HfHubHTTPError) else error("x")
    monkeypatch.setattr(huggingface_hub, "model_info", Mock(side_effect=raised))
    assert f"{ABSENT}, and {why}" in refusal("some/model", **options)


def test_a_model_of_the_hub_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "model_info", Mock())
    require_checkpoint("some/model", "target", {})
    busy = HfHubHTTPError("x", response=Mock())
    monkeypatch.setattr(huggingface_hub, "model_info", Mock(side_effect=busy))
    require_checkpoint("some/model", "target", {})


def test_local_files_only_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "model_info", pytest.fail)
    assert "nor in the hub's cache" in refusal("some/model", local_files_only=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "environment", "why"),
    [
        ("some/model", {"HF_HUB_OFFLINE": "1"}, ", and the hub is not asked, as HF_HUB_OFFLINE"),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in (
                ("/nowhere/t", {}, ""),
                ("a/b", {"HF_ENDPOINT": "http://127.0.0.1:9"}, ", and the hub cannot be reached"),
            )
        ),
    ],
)
def test_the_program_says_one_line(
    name: str, environment: dict[str, str], why: str, tmp_path: Path
) -> None:
    command = [*MAIN, "generate", "a", "--method", "autoregressive", "--target-model", name]
    done = subprocess.run(
        command,
        env={**os.environ, "HF_HOME": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    [line] = done.stderr.strip().split("\n")
    assert line.startswith(f"Error: cannot load the target model from {name!r}: {ABSENT}{why}")
    assert (done.returncode, done.stdout) == (1, "")
