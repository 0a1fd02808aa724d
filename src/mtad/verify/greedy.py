"""Greedy texts of a method against those of plain decoding, alone and in a batch.

Where two texts part, the target itself reads the text before: the logits of the two tokens are a
near tie if reading it otherwise (in a batch of copies) moves their difference about as much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count

from mtad.api.pair import ModelPair
from mtad.api.turns import completed
from mtad.engine.request import Request
from mtad.errors import OptionError
from mtad.methods.autoregressive import Autoregressive
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method
from mtad.verify.laws import law_after, read_all
from mtad.verify.result import Check
from mtad.verify.sampling import Show

COPIES = (1, 2, 3, 5, 8)
"""Sizes of batches in which a text is read to see how it is rounded."""
BATCH = 16


@dataclass(frozen=True)
class Parting:
    """The first token in which two greedy texts of a prompt differ.

    Attributes:
        prompt: its index.
        position: of the token in the output.
        plain, other: the tokens; None where the text has ended.
        gap: how much likelier the target finds the plain one, in nats.
        rounding: how much that moves with the batch in which the target reads the text.
        is_near_tie: whether the gap is within rounding.
    """

    prompt: int
    position: int
    plain: int | None
    other: int | None
    gap: float
    rounding: float
    is_near_tie: bool


def check_greedy(
    pair: ModelPair,
    method: Method,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    other: ModelPair | str,
    show: Show,
) -> list[Check]:
    """The checks of greedy texts against those of plain decoding, alone and without a draft.

    Args:
        pair: the models.
        method: with its options.
        prompts: token ids.
        params: sampling settings, of which the temperature becomes 0.
        other: the same pair with the target's weights in another form, or why there is none.
        show: called with what is done, how much of it, and of how much.
    """
    params = replace(params, temperature=0.0)
    alone = ModelPair.of(replace(pair.models, draft=None, draft_weights="plain"))
    plain = _texts(alone, Autoregressive(), prompts, params, 1, show, "plain decoding")
    name = method.name
    ways: list[tuple[str, ModelPair | str, Method, int]] = [
        ("plain decoding in a batch", alone, Autoregressive(), BATCH),
        (f"{name} alone", pair, method, 1),
        (f"{name} in a batch", pair, method, BATCH),
        (f"{name}, weights in another form", other, method, 1),
    ]
    if method.drafted_by != "draft" and pair.models.draft is not None:
        ways.append((f"{name} without a draft loaded", alone, method, 1))
    checks = []
    for label, way, decodes, size in ways:
        title = f"greedy: {label}"
        if isinstance(way, str):
            checks.append(Check(title, "left out", way))
            continue
        try:
            decodes.check(params)
        except OptionError as error:
            checks.append(Check(title, "left out", str(error)))
            continue
        texts = _texts(way, decodes, prompts, params, size, show, label)
        partings = [
            _parting(pair, params, prompt, index, plain[index], text)
            for index, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
            if text != plain[index]
        ]
        checks.append(_check(title, plain, partings))
    return checks


def _texts(
    pair: ModelPair,
    method: Method,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    size: int,
    show: Show,
    label: str,
) -> list[list[int]]:
    """The greedy texts of the prompts, of which so many are decoded at once."""
    settings = {name: getattr(params, name) for name in params.active()}
    settings |= {"max_new_tokens": params.max_new_tokens, "eos_token_ids": params.eos_token_ids}
    done, asked = count(1), [list(ids) for ids in prompts]
    show(label, 0, len(asked))
    texts = completed(
        pair,
        method,
        asked,
        lambda: show(label, next(done), len(asked)),
        max_batch_size=size,
        **settings,
    )
    return [list(text.token_ids) for text in texts]


def _parting(
    pair: ModelPair,
    params: SamplingParams,
    prompt: Sequence[int],
    index: int,
    plain: Sequence[int],
    other: Sequence[int],
) -> Parting:
    """Where two different texts part, and by how much."""
    shared = next(
        (i for i, (a, b) in enumerate(zip(plain, other, strict=False)) if a != b),
        min(len(plain), len(other)),
    )
    one, two = (text[shared] if shared < len(text) else None for text in (plain, other))
    if one is None or two is None:
        return Parting(index, shared, one, two, math.inf, 0.0, False)
    request = Request(prompt, params)
    ids = [*prompt, *plain[:shared]]
    gaps = []
    for copies in COPIES:
        logits = read_all(pair, ids, copies, num_last=1)[0]
        law = law_after(pair, request, plain[:shared], logits)
        chances = [max(float(law.raw[token]), 1e-300) for token in (one, two)]
        gaps.append(math.log(chances[0] / chances[1]))
    gap, rounding = gaps[0], max(gaps) - min(gaps)
    is_near = abs(gap) <= max(4 * rounding, 2 * law.unit)
    return Parting(index, shared, one, two, gap, max(rounding, law.unit), is_near)


def _check(title: str, plain: Sequence[Sequence[int]], partings: Sequence[Parting]) -> Check:
    num_tokens = sum(map(len, plain))
    real = [one for one in partings if not one.is_near_tie]
    facts = {
        "num_texts": len(plain),
        "num_tokens": num_tokens,
        "num_different": len(real),
        "num_near_ties": len(partings) - len(real),
        "partings": [asdict(one) for one in partings],
    }
    if not partings:
        return Check(title, "equal", f"{len(plain)} texts, {num_tokens} tokens", facts)
    worst = max(real or partings, key=lambda one: abs(one.gap))
    where = (
        f"prompt {worst.prompt}, token {worst.position}: {worst.gap:.3g} nats apart, "
        f"rounding {worst.rounding:.1g}"
    )
    near = f"{len(partings) - len(real)} of {len(plain)} texts part at a near tie"
    if not real:
        return Check(title, "within rounding", f"{near} ({where})", facts)
    found = f"{len(real)} of {len(plain)} texts differ ({where})" + (
        f"; {near}" if len(real) < len(partings) else ""
    )
    return Check(title, "differs", found, facts)
