"""What a draft is trained on: the target's own answers, written as they are made.

A file of JSON lines, one per answer, so that a run that was killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtad.api.pair import ModelPair
from mtad.distill.asking import next_chats
from mtad.distill.prompts import Chat
from mtad.jsonl import JsonLines, damaged, read_lines
from mtad.methods.autoregressive import Autoregressive
from mtad.model.tokenizer import encode
from mtad.sampling.params import SamplingParams


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn; batches take the settings in turns.

    Attributes:
        temperatures: those to be served; 0 is greedy.
        top_k, top_p: of those above 0.
        max_new_tokens: of an answer.
        batch_size: answers decoded at a time.
        seed: of prompts and answers.
    """

    temperatures: tuple[float, ...] = (0.0, 1.0)
    top_k: int = 10
    top_p: float = 0.9
    max_new_tokens: int = 192
    batch_size: int = 64
    seed: int = 0

    def cut(self, temperature: float) -> dict[str, Any]:
        """How the target's probabilities are cut at a temperature."""
        cut = {"top_k": self.top_k, "top_p": self.top_p} if temperature else {}
        return {"temperature": temperature} | cut

    def params(self, temperature: float) -> SamplingParams:
        """The same as a request's settings."""
        return SamplingParams(**self.cut(temperature))

    def of(self, batch: int) -> dict[str, Any]:
        """The settings of a batch."""
        temperature = self.temperatures[batch % len(self.temperatures)]
        return self.cut(temperature) | {"max_new_tokens": self.max_new_tokens}


@dataclass(frozen=True)
class Answer:
    """A prompt and what the target said to it.

    Attributes:
        chat: the prompt's messages.
        prompt_ids: their token ids.
        token_ids: the answer's.
        text: of the answer.
        temperature: what it was drawn at.
    """

    chat: Chat
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    temperature: float


def read_answers(path: Path) -> list[Answer]:
    """The answers of a file, in their order; none where there is no file.

    Raises:
        DataError: a line is not an answer.
    """
    if not path.exists():
        return []
    return [_answer(row, place) for row, place in read_lines(path)]


def _answer(row: dict[str, Any], place: str) -> Answer:
    try:
        ids = {name: tuple(row[name]) for name in ("prompt_ids", "token_ids")}
        return Answer(row["chat"], **ids, text=row["text"], temperature=row["temperature"])
    except (KeyError, TypeError) as error:
        raise damaged(place, error) from error


def write_answers(
    pair: ModelPair,
    path: Path,
    sampling: Sampling,
    chats: Sequence[Chat] | None = None,
    on_answers: Callable[[list[Answer]], bool] | None = None,
    also_bundled: bool = False,
) -> list[Answer]:
    """Have the target answer until `on_answers` returns False, or prompts run out.

    Args:
        pair: its target answers.
        path: the file of answers; what it holds already is kept and counts.
        sampling: how answers are drawn.
        chats: the user's prompts, each used once; None for bundled ones.
        on_answers: called with all answers after every batch; false ends the work.
        also_bundled: bundled prompts and the target's own take turns with the user's, and go on
            where those end.
    """
    answers = read_answers(path)
    with JsonLines(path) as file:
        while True:
            batch = len(answers) // sampling.batch_size
            prompts = _next(pair, answers, sampling, chats, also_bundled)
            if not prompts:
                break
            fresh = list(_answered(pair, prompts, sampling, batch))
            file.append(vars(answer) for answer in fresh)
            answers += fresh
            if on_answers and not on_answers(answers):
                break
    return answers


def _next(
    pair: ModelPair,
    answers: Sequence[Answer],
    sampling: Sampling,
    chats: Sequence[Chat] | None,
    also_bundled: bool,
) -> list[Chat]:
    """The prompts of the next batch; they follow from what is answered already."""
    done, size = len(answers), sampling.batch_size
    if chats is not None and not also_bundled:
        return list(chats[done : done + size])
    answered = [(a.chat, a.text) for a in answers]
    return next_chats(pair, answered, size, sampling.seed, chats or ())


def _answered(
    pair: ModelPair, chats: Sequence[Chat], sampling: Sampling, batch: int
) -> Iterator[Answer]:
    settings = sampling.of(batch)
    prompts = [encode(pair.tokenizer, _prompt(pair, chat)) for chat in chats]
    seeds = [sampling.seed + batch * sampling.batch_size + i for i in range(len(chats))]
    completions = pair.generate(
        prompts,
        method=Autoregressive(),
        seed=seeds,
        max_batch_size=sampling.batch_size,
        guard=False,
        **settings,
    )
    for chat, ids, done in zip(chats, prompts, completions, strict=True):
        yield Answer(chat, tuple(ids), tuple(done.token_ids), done.text, settings["temperature"])


def _prompt(pair: ModelPair, chat: Chat) -> Any:
    """The chat, or its last message where the target has no template for chats."""
    has_template = getattr(pair.tokenizer, "chat_template", None)
    return chat if has_template else chat[-1]["content"]


def num_tokens_of(answers: Iterable[Answer]) -> int:
    """Tokens that the target made."""
    return sum(len(answer.token_ids) for answer in answers)
