"""One prompt: streams its answer to stdout as text, or prints it as one JSON object."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import typer

from mtad.api.pair import Chunk
from mtad.cli.blocks import BlockPainter
from mtad.cli.printing import print_json
from mtad.cli.settings import Settings
from mtad.cli.start import load, new_seed, require_utf8, system_message
from mtad.cli.terminal import Shown, summary
from mtad.core.prompt import Prompt
from mtad.errors import PromptError
from mtad.methods import describe
from mtad.model.tokenizer import encode
from mtad.speculative.method import Method
from mtad.trace.writer import TraceHeader, TraceWriter


def answer_prompt(settings: Settings, method: Method) -> None:
    """Decode the prompt of the settings, and print JSON or text."""
    text, path = _read_prompt(settings), settings.trace
    pair, prompt = load(settings), _prompt(settings, text)
    laws, weights = settings.trace_laws, pair.models.target_weights
    writer = path and TraceWriter(path, TraceHeader.of(pair.models), laws=laws, prompts=True)
    with writer or nullcontext() as trace:
        options = settings.decoding(method)
        seed = new_seed(settings.seed)
        chunks = pair.stream(prompt, method, seed=seed, trace=trace, **options)
        if settings.json:
            how = {"method": describe(method), "target_weights": weights}
            _print_json({"prompt": text}, chunks, how, settings.show_blocks)
            return
        painter = None
        if settings.show_blocks:
            is_plain, context = not sys.stdout.isatty(), encode(pair.tokenizer, prompt)
            painter = BlockPainter(pair.tokenizer, is_plain, context)
        _print_text(chunks, method, painter, weights)


def _read_prompt(settings: Settings) -> str:
    """The prompt as given, or all of stdin."""
    text = _read_stdin() if settings.reads_stdin else settings.prompt or ""
    require_utf8(text, "the prompt")
    return text


def _read_stdin() -> str:
    """All of stdin without its last newline; a terminal is asked for it.

    Raises:
        PromptError: there is nothing.
    """
    if sys.stdin is None:
        raise PromptError("the prompt is to come from stdin, which is closed; give it as PROMPT")
    if sys.stdin.isatty():
        typer.echo("type the prompt; Ctrl-D at the beginning of a line ends it", err=True)
    text = sys.stdin.buffer.read().decode("utf-8-sig", errors="surrogateescape")
    if not text:
        raise PromptError(
            "the prompt is empty: it is to come from stdin, where there is nothing; give a PROMPT, "
            "or send one through a pipe: echo 'Hello!' | mtad generate"
        )
    return text.removesuffix("\r\n" if text.endswith("\r\n") else "\n")


def _prompt(settings: Settings, text: str) -> Prompt:
    """The text, as a chat if one is asked for."""
    if not settings.chat:
        return text
    return [*system_message(settings), {"role": "user", "content": text}]


def _print_json(
    record: dict[str, Any], chunks: Iterator[Chunk], how: dict[str, Any], show_blocks: bool
) -> None:
    *_, last = chunks
    assert last.completion is not None, "the last chunk of a prompt has its completion"
    record = record | last.completion.as_dict() | how
    if show_blocks:
        record["blocks"] = [dataclasses.asdict(block) for block in last.completion.blocks]
    print_json(record)


def _print_text(
    chunks: Iterator[Chunk], method: Method, painter: BlockPainter | None, weights: str
) -> None:
    shown = Shown()
    shown.follow(chunks, painter)
    if painter:
        painter.print_legend()
    assert shown.completion is not None, "the last chunk of a prompt has its completion"
    typer.echo(summary(shown.stats, method, shown.completion.seed, weights), err=True)
