"""Whether there is a checkpoint where a name says so: a folder or file here, or a hub's model.

Asked once before anything is loaded, so that a wrong path is one clear message. Loads nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._validators import validate_repo_id

from mtad.core.names import did_you_mean
from mtad.errors import CheckpointError
from mtad.model.folder import require_whole
from mtad.model.gguf import SUFFIX, require_gguf

_ANSWER_S = 10.0
"""How long the hub may take to say whether it has a model."""


def require_checkpoint(path: str | Path, name: str, options: dict[str, Any]) -> None:
    """Refuse a path where there is nothing, and a name that the hub does not know.

    Args:
        path: a folder, a GGUF file or a hub name.
        name: "target" or "draft".
        options: of `from_pretrained`: revision, token, cache_dir, local_files_only.

    Raises:
        CheckpointError: with what is there instead, or why the hub has no answer; or files that
            are not whole, see `mtad.model.folder` and `mtad.model.gguf`.
        UnsupportedModelError: a GGUF file of an architecture that cannot be read.
    """
    if require_gguf(path, name):
        return None
    if str(path) and Path(path).is_dir():
        return require_whole(path, name, options)
    reason = (
        f"it is a file; give its folder, or a {SUFFIX} file"
        if Path(path).is_file()
        else _absent(str(path), options)
    )
    if reason:
        raise CheckpointError(f"cannot load the {name} model from {str(path)!r}: {reason}")


def _absent(path: str, options: dict[str, Any]) -> str:
    """Why there is no such model, neither here nor on the hub; empty if it may be there."""
    kind = "file" if Path(path).suffix == SUFFIX else "folder"
    here = f"there is no such {kind} here{near(path)}"
    if kind == "file":
        return here
    try:
        validate_repo_id(path)
    except HFValidationError:
        return here
    cached = {key: options[key] for key in ("cache_dir", "revision") if key in options}
    if isinstance(huggingface_hub.try_to_load_from_cache(path, "config.json", **cached), str):
        return ""
    if options.get("local_files_only"):
        return f"{here}, nor in the hub's cache, and local_files_only is set"
    why = _hub_says(path, options)
    return why and f"{here}, and {why}"


def _hub_says(path: str, options: dict[str, Any]) -> str:
    """Why the hub does not give the model; empty if it has it, or says something else."""
    asked = {key: options[key] for key in ("revision", "token") if key in options}
    try:
        huggingface_hub.model_info(path, timeout=_ANSWER_S, **asked)
    except RevisionNotFoundError:
        return f"the hub's model has no revision {options.get('revision')!r}"
    except RepositoryNotFoundError:
        return "no such model on the hub that you may read; for a private one log in: hf auth login"
    except OfflineModeIsEnabled:
        return "the hub is not asked, as HF_HUB_OFFLINE is set"
    except HfHubHTTPError:  # what loading says is clearer
        return ""
    except Exception:  # of the HTTP library: no connection, no name, no time
        return "the hub cannot be reached"
    return ""


def near(path: str) -> str:
    """The folder or GGUF file beside it whose name is nearly this one."""
    whole = Path(path).expanduser()
    if path and (whole.is_dir() or (whole.suffix == SUFFIX and whole.is_file())):
        return f" (did you mean {str(whole)!r}?)"
    try:
        beside = whole.parent.iterdir()
        names = [one.name for one in beside if one.is_dir() or one.suffix == SUFFIX]
    except OSError:
        return ""
    return did_you_mean(whole.name, names)
