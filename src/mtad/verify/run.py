"""All checks of a method on a pair, one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mtad.api.ends import ends_of
from mtad.api.pair import ModelPair
from mtad.core.prompt import Prompt
from mtad.methods import require_draft
from mtad.model.tokenizer import encode
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method
from mtad.verify.greedy import check_greedy
from mtad.verify.places import open_places
from mtad.verify.result import Check, Verification
from mtad.verify.sampling import Show, Wanted, check_laws

GREEDY = "temperature 0: the sampled law is the greedy text"


def verify(
    pair: ModelPair,
    method: Method,
    prompts: Sequence[Prompt],
    wanted: Wanted | None = None,
    num_places: int = 4,
    other_form: Callable[[], ModelPair | str] | None = None,
    show: Show = lambda text, done, total: None,
    **sampling: object,
) -> Verification:
    """Whether a method is lossless on a pair.

    Args:
        pair: the models.
        method: with its options.
        prompts: greedy texts are compared on all of them, laws after one place of each of the
            first `num_places`.
        wanted: what the tests of laws are to find.
        num_places: at most so many.
        other_form: loads the pair with the target's weights in another form, or says why not.
        show: called with what is done, how much of it, and of how much.
        sampling: as `ModelPair.generate` takes it.

    Raises:
        ValueError: a setting that the method can't honour, or a bias that no test finds.
        MtadError: see `mtad.errors`.
    """
    wanted, models = wanted or Wanted(), pair.models
    _, params = ends_of(sampling, models)
    method.check(params)
    require_draft(method, models.draft is not None, "load the pair with draft=…")
    ids = [encode(pair.tokenizer, prompt, models.tokenizer_error) for prompt in prompts]
    other = other_form() if other_form else "the pair was given as it is"
    checks = check_greedy(pair, method, ids, params, other, show)
    checks += _sampled(pair, method, ids[:num_places], params, wanted, show)
    return Verification(method, checks, _notes(method, wanted, models.target_weights))


def _sampled(
    pair: ModelPair,
    method: Method,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    wanted: Wanted,
    show: Show,
) -> list[Check]:
    """The checks of laws, where there is something to sample."""
    if params.temperature == 0:
        return [Check("laws of next tokens", "left out", GREEDY)]
    requests = open_places(pair, prompts, params, wanted.seed)
    if not requests:
        return [Check("laws of next tokens", "left out", "these settings leave nothing to chance")]
    return check_laws(pair, method, requests, wanted, show)


def _notes(method: Method, wanted: Wanted, weights: str) -> list[str]:
    """What must be known to read the checks."""
    notes = [
        "A sound method fails one of the tests of laws with a chance of at most "
        f"{100 * wanted.level:.3g} % (seed {wanted.seed}). The chances to find a bias are for one "
        "that moves so much of the mass in all contexts of a position, in the way that is hardest "
        "to see."
    ]
    if weights == "int8":
        notes.append("The target is in int8, which is another target than that of its files.")
    return notes
