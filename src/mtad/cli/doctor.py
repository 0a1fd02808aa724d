"""`mtad doctor`: whether a draft pays for a target, and why not.

Imports nothing heavy: it is read for `mtad --help`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mtad.cli.flags import DebugFlag, ModelFlags, flag
from mtad.cli.settings import SAMPLING_FLAGS, SamplingFlags

if TYPE_CHECKING:
    from mtad.advice.prompts import Asked
    from mtad.api.pair import ModelPair

_prompts = partial(flag, panel="Many prompts")
_sampling = partial(flag, panel="Sampling")
_output = partial(flag, panel="Output")


@dataclass(frozen=True)
class PromptFlags(DebugFlag, SamplingFlags, ModelFlags):  # type: ignore[misc]
    """The pair, what it is asked, and how it samples; of commands that examine a pair."""

    prompt_file: Annotated[
        Path | None,
        _prompts(
            exists=True,
            dir_okay=False,
            help="JSON lines as of mtad generate, of which the first turns are asked; their "
            "category is the kind of prompt. Without it bundled ones that suit the pair.",
        ),
    ] = None
    chat: Annotated[
        bool, _prompts("--chat", help="Send plain prompts of the file as user messages.")
    ] = False
    num_prompts: Annotated[int, _prompts(min=2, help="Asked at most.")] = 8
    max_new_tokens: Annotated[int, _sampling(min=1, help="Budget of new tokens.")] = 64
    json: Annotated[bool, _output("--json", help="Print one JSON object.")] = False

    def __post_init__(self) -> None:
        """Refuse flags that don't go together."""
        self.require_one_pair()
        if self.chat and self.prompt_file is None:
            raise ValueError("--chat needs --prompt-file")

    @property
    def sampling(self) -> dict[str, Any]:
        """Fields of `SamplingParams`."""
        return {name: getattr(self, name) for name in SAMPLING_FLAGS}

    def asked(self, tokenizer: Any) -> list[Asked]:
        """The prompts with their kinds; `tokenizer` is the target's."""
        from mtad.advice.prompts import Asked, bundled_prompts
        from mtad.cli.generate.prompts import read_prompts

        if self.prompt_file is None:
            return bundled_prompts(self.name, tokenizer, self.num_prompts)
        items = read_prompts(self.prompt_file, (), self.chat)[: self.num_prompts]
        kinds = [str(item.labels.get("category", "yours")) for item in items]
        return [Asked(kind, item.prompt(())) for kind, item in zip(kinds, items, strict=True)]

    def load(self) -> ModelPair:
        """The models."""
        from mtad.api.pair import open_pair

        return open_pair(self.target_model, self.draft_model, self.pair, **self.placement)


@dataclass(frozen=True)
class DoctorFlags(PromptFlags):
    """What the user asked of `mtad doctor`; the help texts say what each field means."""

    num_draft_tokens: Annotated[
        int,
        flag(panel="Method", min=1, help="Of the drafts that you would make; 1 to 8 are compared."),
    ] = 4


def run(flags: DoctorFlags) -> None:
    """Examine the pair and print what was found."""
    from mtad.advice.page import as_dict, page, verdict_lines
    from mtad.advice.verdict import mismatched
    from mtad.cli.printing import print_json
    from mtad.cli.progress import shown
    from mtad.errors import VocabularyMismatchError

    try:
        with shown() as observer:
            found = _examined(flags, observer)
    except VocabularyMismatchError as error:
        verdict = mismatched(str(error))
        record, text = {"verdict": vars(verdict)}, "\n".join(verdict_lines(verdict))
    else:
        record, text = as_dict(found), page(found)
    if flags.json:
        names = {"target": flags.name, "draft": flags.draft_model}
        print_json(names | record)
    else:
        typer.echo(text)


def _examined(flags: DoctorFlags, observer: Any) -> Any:
    from mtad.advice.checkup import check_up
    from mtad.model.tokenizer_files import load_tokenizer
    from mtad.pairs import find_pair

    pair = flags.load()
    for note in pair.models.notes:
        observer.say(note)
    draft_tokenizer = None
    if pair.models.draft is not None:
        draft = flags.draft_model or find_pair(flags.name).draft
        draft_tokenizer, _ = load_tokenizer(draft, "draft", {})
    return check_up(
        pair,
        flags.asked(pair.tokenizer),
        observer,
        draft_tokenizer=draft_tokenizer,
        num_draft_tokens=flags.num_draft_tokens,
        **flags.sampling,
    )
