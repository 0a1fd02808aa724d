"""One prompt: streams its answer to stdout as text, or prints it as one JSON object."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console

from mtad.api.pair import Chunk, ModelPair
from mtad.cli import terminal
from mtad.cli.blocks import BlockPainter
from mtad.cli.settings import Settings
from mtad.cli.start import load, new_seed, system_message
from mtad.core.options import jsonable
from mtad.core.prompt import Prompt
from mtad.errors import PromptError
from mtad.methods import describe
from mtad.model.tokenizer import encode
from mtad.speculative.method import Method
from mtad.trace.writer import TraceHeader, TraceWriter


def answer_prompt(settings: Settings, method: Method) -> None:
    """Answer the prompt of the settings."""
    _Answer(settings, method, _read_prompt(settings)).show(load(settings))


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
    """One prompt and how it is answered."""

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
                self._print_json(chunks)
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

    def _print_json(self, chunks: Iterator[Chunk]) -> None:
        *_, last = chunks
        assert last.completion is not None, "the last chunk of a prompt has its completion"
        record: dict[str, Any] = {"prompt": self.text} | last.completion.as_dict()
        record["method"] = describe(self.method)
        if self.settings.show_blocks:
            record["blocks"] = [dataclasses.asdict(block) for block in last.completion.blocks]
        print(json.dumps(jsonable(record), ensure_ascii=False, allow_nan=False), flush=True)

    def _print_text(self, pair: ModelPair, chunks: Iterator[Chunk]) -> None:
        painter = None
        if self.settings.show_blocks:
            context = encode(pair.tokenizer, self._prompt)
            painter = BlockPainter(pair.tokenizer, not sys.stdout.isatty(), context)
        shown = terminal.Shown()
        shown.follow(chunks, painter)
        if painter:
            Console(stderr=True, highlight=False).print(painter.legend(), soft_wrap=True)
        assert shown.completion is not None, "the last chunk of a prompt has its completion"
        facts = (self.method.name, self.method.is_lossless, shown.completion.seed)
        typer.echo(terminal.summary(shown.stats, *facts), err=True)
