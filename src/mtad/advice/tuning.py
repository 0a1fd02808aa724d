"""The settings of a pair that are fastest on a user's prompts, as text, configuration and JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtad.advice.grid import lossless_grid, lossy_grid
from mtad.advice.halving import Arm, Tuned, halve
from mtad.advice.prompts import Asked
from mtad.advice.spelling import interval, named
from mtad.api.options import MethodConfig, server_toml
from mtad.api.pair import ModelPair
from mtad.api.turns import Timed, decode_timed
from mtad.atomic import write_text
from mtad.bench.likelihood import negative_log_likelihoods
from mtad.bench.statistics import MIN_ITEMS
from mtad.distill.run import Observer, steps
from mtad.methods import describe
from mtad.model.tokenizer import encode
from mtad.speculative.method import Method

LOSSLESS, WITHIN = "lossless", "within-loss"
"""Names of the files."""


def nats_of(percent: float) -> float:
    """Nats per token by which the perplexity grows by so many per cent."""
    return math.log1p(percent / 100)


class Decoding:
    """What the settings take on a pair.

    Args:
        pair: decodes, one text at a time.
        prompts: by place.
        settings: of sampling.
        judges: whether texts are read once more by the target, for their likelihood.
    """

    def __init__(
        self, pair: ModelPair, prompts: Sequence[Asked], settings: Mapping[str, Any], judges: bool
    ) -> None:
        self._pair, self._settings, self._judges = pair, settings, judges
        error = pair.models.tokenizer_error
        self._ids = [encode(pair.tokenizer, one.prompt, error) for one in prompts]

    def __call__(self, method: Method, place: int) -> tuple[Timed, float]:
        """The text of a prompt, and its −log p under the raw target; 0 where it is not judged.

        The quicker of two runs, which give the same text: in the first one programs may have to be
        captured, which settings that take turns take from each other.
        """
        ids = self._ids[place]
        runs = [decode_timed(self._pair, method, ids, place, **self._settings) for _ in range(2)]
        text = min(runs, key=lambda run: run.seconds)
        if not self._judges:
            return text, 0.0
        [nll] = negative_log_likelihoods(self._pair, [ids], [text.token_ids])
        return text, nll


def tune(
    pair: ModelPair,
    prompts: Sequence[Asked],
    observer: Observer,
    max_loss: float | None = None,
    on_prompt: Callable[[Tuned], None] = lambda tuned: None,
    **settings: Any,
) -> Tuned:
    """The settings that are fastest on the prompts.

    Args:
        pair: target and, perhaps, a draft.
        prompts: that are asked at most.
        observer: hears how far it is.
        max_loss: nats per token that lossy methods may lose beside plain decoding; None to try
            lossless ones alone.
        on_prompt: called after each prompt with what is known by then.
        settings: of sampling, as `ModelPair.generate` takes them.

    Raises:
        ValueError: there are too few prompts to show that little is lost.
    """
    if max_loss is not None and len(prompts) < MIN_ITEMS:
        raise ValueError(
            f"there are {len(prompts)} prompts, too few to show that little is lost; give "
            f"{MIN_ITEMS} or more, or leave out --max-loss and --max-regret"
        )
    has_draft = pair.models.draft is not None
    grid = lossless_grid(settings, has_draft)
    if max_loss is not None:
        grid += lossy_grid(settings, has_draft, max_loss)
    measure = Decoding(pair, prompts, settings, judges=max_loss is not None)
    return halve(
        grid,
        len(prompts),
        measure,
        max_loss,
        lambda number, num_texts: steps(observer, f"round {number}", num_texts),
        on_prompt,
    )


def write(
    tuned: Tuned, folder: Path, models: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Arm]:
    """Write the configurations; what was chosen, by the name of its file.

    Args:
        tuned: what came of the comparison.
        folder: made if it is not there. NAME.toml is for `mtad generate` and `mtad chat`,
            serve-NAME.toml for `mtad serve`.
        models: the settings of the models, for the server.
        settings: of sampling.
    """
    chosen = {LOSSLESS: tuned.lossless}
    if tuned.max_loss is not None:
        chosen[WITHIN] = tuned.within
    folder.mkdir(parents=True, exist_ok=True)
    for name, arm in chosen.items():
        head = "".join(f"# {line}\n" for line in _evidence(tuned, arm))
        write_text(folder / f"{name}.toml", head + MethodConfig(arm.method, settings).as_toml())
        write_text(folder / f"serve-{name}.toml", head + server_toml(models, arm.method))
    return chosen


def _evidence(tuned: Tuned, arm: Arm) -> list[str]:
    """What the choice rests on."""
    speed, loss = arm.over(tuned.plain), tuned.max_loss
    lines = [
        f"{named(arm.method)}: chosen by mtad tune from {len(tuned.arms)} settings",
        f"on {len(arm.texts)} prompts. Speed over plain decoding, one text at a time, decode only: "
        f"{interval(speed)}.",
    ]
    if loss is not None and not arm.method.is_lossless:
        lines.append(
            "Nats per token by which its texts are less likely under the target: "
            f"{interval(arm.loss(tuned.plain))}; {loss:.4g} were allowed."
        )
    return lines


def table(tuned: Tuned) -> list[str]:
    """One line per setting, those that were kept first, the fastest at the top."""
    plain = tuned.plain
    order = sorted(tuned.arms, key=lambda arm: (-len(arm.texts), -(arm.over(plain).value or 0.0)))
    width = max(len(named(arm.method)) for arm in order)
    has_loss = tuned.max_loss is not None
    loss_head = f"{'loss, nats per token':<22}" if has_loss else ""
    lines = [f"  {'setting':<{width}}  prompts  speed over plain    {loss_head}dropped"]
    for arm in order:
        loss = interval(arm.loss(plain)) if has_loss and not arm.method.is_lossless else ""
        loss_cell = f"{loss:<22}" if has_loss else ""
        line = (
            f"  {named(arm.method):<{width}}  {len(arm.texts):7}  {interval(arm.over(plain)):<20}"
        )
        lines.append(f"{line}{loss_cell}{arm.dropped}".rstrip())
    return lines


def as_dict(tuned: Tuned) -> dict[str, Any]:
    """All settings and both choices, for JSON."""
    found = {LOSSLESS: _chosen(tuned, tuned.lossless)}
    if tuned.max_loss is not None:
        found[WITHIN] = _chosen(tuned, tuned.within)
    settings = [_chosen(tuned, arm) for arm in tuned.arms]
    return {"max_loss_nats_per_token": tuned.max_loss, "chosen": found, "settings": settings}


def _chosen(tuned: Tuned, arm: Arm) -> dict[str, Any]:
    speed = arm.over(tuned.plain)
    loss = None if tuned.max_loss is None else arm.loss(tuned.plain)
    return describe(arm.method) | {
        "num_prompts": len(arm.texts),
        "speed_over_plain": [speed.value, speed.low, speed.high],
        "loss_nats_per_token": None if loss is None else [loss.value, loss.low, loss.high],
        "dropped": arm.dropped or None,
    }
