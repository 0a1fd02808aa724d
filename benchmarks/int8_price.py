"""What 8-bit weights of a target change: perplexity, and how often the next token is another.

    python benchmarks/int8_price.py PROMPTS.jsonl [--pair smollm2] [--new-tokens 48] [--threads 1]

PROMPTS.jsonl is as for `mtad generate --chat --prompt-file`. The target in its own type
answers greedily; then it and the int8 target read each prompt with its answer, and what both say
after every token is compared, over prompts and answers apart. What all prompts begin with, such as
a chat template's first message, is left out: its errors are the same each time.
"""

from __future__ import annotations

import argparse
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mtad
from mtad.cli.generate.prompts import read_prompts
from mtad.model.tokenizer import encode

FORMS = ("auto", "int8")


@dataclass(frozen=True)
class Text:
    """A prompt and its answer, as token ids."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class Said:
    """What a target says of each token of a text after the first: −log p, and its most likely."""

    nll: Tensor
    best: Tensor


def answered(pair: Any, path: Path, new_tokens: int) -> list[Text]:
    """The prompts of a file with greedy answers of the pair's target."""
    chats = [item.prompt(()) for item in read_prompts(path, (), chat=True)]
    plain = mtad.Autoregressive()
    options = {"temperature": 0, "max_new_tokens": new_tokens, "max_batch_size": 8}
    done = list(pair.generate(chats, plain, **options))
    ids = [tuple(encode(pair.tokenizer, chat)) for chat in chats]
    return [Text(p, tuple(d.token_ids)) for p, d in zip(ids, done, strict=True)]


@torch.inference_mode()
def said(pair: Any, text: Text) -> Said:
    """What the pair's target says of a text."""
    ids = torch.tensor([[*text.prompt, *text.answer]])
    logits = pair.models.target(ids, use_cache=False).logits[0, :-1].float()
    chosen = logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return Said(-chosen, logits.argmax(-1))


def num_shared(texts: list[Text]) -> int:
    """How many tokens all prompts begin with."""
    columns = zip(*(text.prompt for text in texts), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda tokens: len({*tokens}) == 1, columns))


def compared(texts: list[Text], by_form: dict[str, list[Said]], part: str) -> str:
    """A row of the table, over the prompts or the answers."""
    start = max(num_shared(texts) - 1, 0)
    spans = [slice(start, len(t.prompt) - 1) for t in texts]
    if part == "answers":
        spans = [slice(span.stop, None) for span in spans]
    nll, best = (
        {
            form: torch.cat([getattr(one, name)[s] for one, s in zip(all_, spans, strict=True)])
            for form, all_ in by_form.items()
        }
        for name in ("nll", "best")
    )
    own, int8 = (math.exp(float(nll[form].mean())) for form in FORMS)
    difference = (nll["int8"] - nll["auto"]).double()
    error = float(difference.std() / math.sqrt(len(difference)))
    equal = float((best["int8"] == best["auto"]).double().mean())
    change = f"{int8 / own - 1:+.2%} ± {1.96 * error:.2%}"
    return f"| {part} | {len(difference)} | {own:.3f} | {int8:.3f} | {change} | {equal:.1%} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--pair", default="smollm2")
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    texts, by_form = list[Text](), dict[str, list[Said]]()
    for form in FORMS:
        pair = mtad.load_pair(given.pair, target_weights=form)
        texts = texts or answered(pair, given.prompts, given.new_tokens)
        by_form[form] = [said(pair, text) for text in texts]
        print(*pair.models.notes, sep="\n")
    print("| text | tokens | perplexity | in int8 | change, 95 % interval | same most likely |")
    print("|---|---:|---:|---:|---:|---:|")
    for part in ("prompts", "answers"):
        print(compared(texts, by_form, part))


if __name__ == "__main__":
    main()
