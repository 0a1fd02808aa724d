"""llama.cpp in a process of its own, by the prebuilt binaries of the npm package node-llama-cpp.

Why this package: one command installs it on every system, its binaries come with kernels for each
kind of processor and are chosen by what the machine has, it follows llama.cpp closely, and it has
speculation of its own, with a draft model or by looking the text up in the prompt. Packages of
Python that bind llama.cpp are built from source where they are installed. The script that node
runs is llama_cpp.mjs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtad.api.pair import ModelPair
from mtad.atomic import replacing
from mtad.errors import MtadError
from mtad.model.gguf_writing import write_gguf

PACKAGE = "node-llama-cpp"
SCRIPT = Path(__file__).with_name("llama_cpp.mjs")
LEAST_NODE = 20
"""Major version of Node.js that the package asks for."""
_MISSING = "ERR_MODULE_NOT_FOUND"


class LlamaEngine:
    """A process that decodes with llama.cpp, and the GGUF files that it reads.

    Args:
        num_threads: that it decodes with.
        folder: where the package is looked for, in `node_modules` there or in a folder above.
        command: in place of node, for tests.

    Attributes:
        version: of llama.cpp.

    Raises:
        MtadError: node or the package is missing, or its binaries do not run here.
    """

    def __init__(
        self, num_threads: int, folder: Path | None = None, command: tuple[str, ...] = ()
    ) -> None:
        command, place = command or _node_command(), folder or Path.cwd()
        self._files = tempfile.TemporaryDirectory(prefix="mtad-gguf-")
        self._stderr = (Path(self._files.name) / "stderr").open("w+")
        self._process = subprocess.Popen(
            [*command, str(num_threads)],
            cwd=place,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        try:
            self.version = str(self._begun(place)["version"])
        except BaseException:
            self.close()
            raise

    def _begun(self, place: Path) -> dict[str, Any]:
        found = self._read()
        if found.get("code") == _MISSING:
            raise MtadError(
                f"llama.cpp runs by the npm package {PACKAGE}, which is not in {place} or a folder "
                f"above; npm install {PACKAGE} in one of them, or leave llama.cpp out of --against"
            )
        if "error" in found:
            raise MtadError(f"{PACKAGE} does not start: {found['error']}")
        return found

    def decode(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of the script to a request.

        Raises:
            MtadError: it could not be decoded, or the process has ended.
        """
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write(json.dumps(request) + "\n")
            pipe.flush()
        except BrokenPipeError:
            raise self._ended() from None
        found = self._read()
        if "error" in found:
            raise MtadError(f"llama.cpp did not decode: {found['error']}")
        return found

    def file(self, pair: ModelPair, name: str, weights: str) -> Path:
        """A GGUF file of a pair's "target" or "draft", written at its first use.

        Raises:
            MtadError: the model is not one that can be written.
        """
        path = Path(self._files.name) / f"{id(pair)}-{name}-{weights}.gguf"
        if not path.exists():
            tokenizer: Any = pair.tokenizer  # pairs that are measured have one
            with replacing(path) as part:
                write_gguf(part, getattr(pair.models, name), tokenizer, weights)
        return path

    def close(self) -> None:
        """End the process and delete the files."""
        self._process.kill()
        self._process.communicate()
        self._stderr.close()
        self._files.cleanup()

    def _read(self) -> dict[str, Any]:
        pipe = self._process.stdout
        assert pipe is not None
        line = pipe.readline()
        if not line:
            raise self._ended()
        found: dict[str, Any] = json.loads(line)
        return found

    def _ended(self) -> MtadError:
        status = self._process.wait()
        self._stderr.seek(0)
        said = self._stderr.read().strip().split("\n")
        return MtadError(
            f"the process of llama.cpp ended with status {status}"
            + (f": {said[-1]}" if said else "")
        )


def _node_command() -> tuple[str, ...]:
    """Node with the script as text, whose imports are then looked for from the current folder."""
    node = shutil.which("node")
    if node is None:
        raise MtadError(
            "llama.cpp runs by the npm package node-llama-cpp, which needs node on the path; "
            f"install Node.js {LEAST_NODE} or newer, or leave llama.cpp out of --against"
        )
    return node, "--input-type=module", "--eval", SCRIPT.read_text(), "--"
