"""What ends a text before its budget: stop strings, special tokens and the end of the model's own.

Knows no session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mtad.api.options import sampling_params
from mtad.core.prompt import require_characters
from mtad.errors import PromptError
from mtad.model.loading import Models
from mtad.model.tokenizer import special_tokens, stop_ids
from mtad.sampling.params import SamplingParams


def ends_of(options: Mapping[str, Any], models: Models) -> tuple[list[str], SamplingParams]:
    """The stop strings, and the other options; a special token stops as an EOS does.

    Args:
        options: `stop`, `ignore_eos` and sampling settings, as `ModelPair.generate` takes them.
        models: whose tokenizer and EOS tokens they are.

    Raises:
        ValueError: an unknown or impossible option, or two that contradict each other.
        PromptError: stop strings without a tokenizer.
    """
    options = dict(options)
    stop, ignore_eos = options.pop("stop", None) or [], options.pop("ignore_eos", False)
    stops = [stop] if isinstance(stop, str) else list(stop)
    require_characters(stops, "stop")
    if stops and models.tokenizer is None:
        raise PromptError("stop strings need a tokenizer, and the models came without one")
    if ignore_eos and options.get("eos_token_ids"):
        raise ValueError("ignore_eos=True and eos_token_ids contradict each other; give one")
    options.setdefault("eos_token_ids", () if ignore_eos else models.eos_token_ids)
    params = sampling_params(options)
    special = special_tokens(models.tokenizer) if stops else {}
    ends = stop_ids(stops, special, models.vocab)
    return stops, replace(params, eos_token_ids=(*params.eos_token_ids, *ends))
