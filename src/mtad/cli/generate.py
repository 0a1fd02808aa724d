"""`mtad generate`: loads the models, completes one prompt and shows it."""

from __future__ import annotations

import dataclasses
import json
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console

from mtad.api.pair import Chunk, Completion, ModelPair, open_pair
from mtad.cli import view
from mtad.cli.blocks import BlockPainter
from mtad.cli.options import make_method
from mtad.cli.settings import Settings
from mtad.core.options import jsonable
from mtad.core.prompt import Message, Prompt
from mtad.engine.stats import Stats
from mtad.errors import PromptError
from mtad.methods import describe
from mtad.model.parallel import one_voice
from mtad.model.tokenizer import encode
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method
from mtad.trace.writer import TraceHeader, TraceWriter


def run(settings: Settings) -> None:
    """Complete what the settings ask for; options are judged before anything is loaded."""
    method = make_method(settings)
    method.check(SamplingParams(**settings.sampling))
    if method.drafter == "draft" and settings.target_model and not settings.draft_model:
        raise ValueError(f"{method.name} needs a draft model; give --draft-model")
    if settings.tensor_parallel:
        _require_own(settings)
    with one_voice() if settings.tensor_parallel else nullcontext():
        if settings.prompt_file is None:
            _Answer(settings, method, _read_prompt(settings)).show(load(settings))
            return
        from mtad.cli.many import answer_file

        answer_file(settings, method)


def _require_own(settings: Settings) -> None:
    """Refuse what the processes of torchrun would share, each reading or writing a piece of it."""
    shared = {"PROMPT -": settings.prompt == "-", "--output": settings.output is not None}
    shared["--trace"] = settings.trace is not None
    for name in (name for name, is_given in shared.items() if is_given):
        raise ValueError(
            f"{name} and --tensor-parallel were given, whose processes would all use one stream; "
            "give the prompt as a PROMPT or in --prompt-file, and write with >"
        )


def load(settings: Settings) -> ModelPair:
    """The models that the settings name, the embedded pair if none."""
    return open_pair(settings.target_model, settings.draft_model, **settings.placement)


def new_seed(seed: int | None) -> int:
    """The seed, or a random one that is short enough to type."""
    return secrets.randbits(32) if seed is None else seed


def system_message(settings: Settings) -> list[Message]:
    """The chat's first message, if one was given."""
    return [] if settings.system is None else [{"role": "system", "content": settings.system}]


def _read_prompt(settings: Settings) -> str:
    """The prompt as given, or all of stdin."""
    text = settings.prompt or ""
    try:
        if text == "-":
            text = sys.stdin.buffer.read().decode().removesuffix("\n")
        text.encode()
    except UnicodeError as error:
        raise PromptError(f"the prompt is not UTF-8: {error}") from error
    return text


@dataclass(frozen=True)
class _Answer:
    """One prompt on its way to an answer on stdout."""

    settings: Settings
    method: Method
    text: str

    def show(self, pair: ModelPair) -> None:
        """Decode, and print JSON or text."""
        seed = new_seed(self.settings.seed)
        with self._trace(pair) as trace:
            options = self.settings.decoding | {"seed": seed, "trace": trace}
            chunks = pair.stream(self._prompt, self.method, **options)
            if self.settings.json:
                self._print_json(list(chunks))
            else:
                self._print_text(pair, chunks)

    def _trace(self, pair: ModelPair) -> AbstractContextManager[TraceWriter | None]:
        path, laws = self.settings.trace, self.settings.trace_laws
        if path is None:
            return nullcontext()
        return TraceWriter(path, TraceHeader.of(pair.models), laws=laws, prompts=True)

    @property
    def _prompt(self) -> Prompt:
        if not self.settings.chat:
            return self.text
        return [*system_message(self.settings), {"role": "user", "content": self.text}]

    def _print_json(self, chunks: list[Chunk]) -> None:
        completion = _completion(chunks)
        record: dict[str, Any] = {"prompt": self.text} | completion.as_dict()
        record["method"] = describe(self.method)
        if self.settings.show_blocks:
            record["blocks"] = [dataclasses.asdict(block) for block in completion.blocks]
        print(json.dumps(jsonable(record), ensure_ascii=False, allow_nan=False), flush=True)

    def _print_text(self, pair: ModelPair, chunks: Iterator[Chunk]) -> None:
        painter = None
        if self.settings.show_blocks:
            context = encode(pair.tokenizer, self._prompt)
            painter = BlockPainter(pair.tokenizer, not sys.stdout.isatty(), context)
        completion = _stream(chunks, painter)
        if painter:
            Console(stderr=True, highlight=False).print(painter.legend(), soft_wrap=True)
        facts = (self.method.name, self.method.is_lossless, completion.seed)
        typer.echo(view.summary(completion.stats, *facts), err=True)


def _stream(chunks: Iterator[Chunk], painter: BlockPainter | None) -> Completion:
    """Show the chunks as they come; the completion."""
    started, so_far, seen = time.perf_counter(), Stats(), []
    with view.open_view() as screen:
        for chunk in chunks:
            seen.append(chunk)
            if chunk.block:
                so_far.add(chunk.block)
            so_far.decode_s = time.perf_counter() - started
            screen.add(pieces(chunk, painter), view.figures(so_far))
    return _completion(seen)


def pieces(chunk: Chunk, painter: BlockPainter | None) -> view.Pieces:
    """A chunk's text as it is shown, painted by origin if there is a painter."""
    if painter is None:
        return [(chunk.text, "")]
    if chunk.block:
        painter.add(chunk.block)
    return painter.take(len(chunk.text))


def _completion(chunks: list[Chunk]) -> Completion:
    completion = chunks[-1].completion
    assert completion is not None, "the last chunk of a prompt has its completion"
    return completion
