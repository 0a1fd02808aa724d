"""Two models that can be decoded together, and the checks that they can.

Loads whatever `AutoModelForCausalLM` loads, from a folder, a hub name or a GGUF file. Knows no
method and no loop; only here and in other modules of `mtad.model` is transformers imported.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import huggingface_hub
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from mtad.core.names import require_one_of
from mtad.errors import CheckpointError, UnsupportedModelError, first_line
from mtad.grammar.matcher import TokenGrammars
from mtad.model import parallel
from mtad.model.drafter import Draft
from mtad.model.folder import require_all_weights
from mtad.model.gguf import find_gguf, gguf_notes
from mtad.model.head_drafter import attach
from mtad.model.head_files import is_head, load_head, refuse_options
from mtad.model.lm import Model
from mtad.model.memory import memory_of, require_memory
from mtad.model.pairing import paired
from mtad.model.parallel import (
    num_launched,
    part_device,
    placement,
    require_whole_heads,
    usable_device,
)
from mtad.model.presence import require_checkpoint
from mtad.model.recurrent_head import RecurrentHead
from mtad.model.settings import Dtype, Weights
from mtad.model.tokenizer_files import HUB_OPTIONS, load_tokenizer
from mtad.model.translation import Translation
from mtad.model.tree_support import SUPPORTED, embedding_rows, require_tree_support
from mtad.model.trimmed_folder import token_ids_in, trimmed_as_stored
from mtad.model.vocabulary import Tokenizer as Tokenizer
from mtad.model.vocabulary import (
    eos_token_ids,
    vocabulary_size,
)
from mtad.model.weights import notes_of, require_weights, take_form

logger = logging.getLogger(__name__)

DTYPES = get_args(Dtype)

_TARGETS_OWN = {"revision", "subfolder", "quantization_config"}


@dataclass(frozen=True)
class Models:
    """A target, perhaps a draft, and the tokenizer they share.

    Attributes:
        target: the large model.
        draft: the small model, or a head that reads the target's hidden state; None is fine for
            methods that need none.
        tokenizer: None where only token ids are given and wanted.
        vocab: number of token ids in use; rows of the embeddings beyond are padding.
        eos_token_ids: token ids that end a text, from the generation config.
        tokenizer_error: why the tokenizer could not be loaded, if that was tried.
        translation: what target and draft have in common, where their tokenizers differ.
        target_weights, draft_weights: form of their linear weights: plain, bf16 or int8.
        notes: what a user should know of how they were loaded.
    """

    target: Model
    draft: Draft | None
    tokenizer: Tokenizer | None
    vocab: int
    eos_token_ids: tuple[int, ...]
    tokenizer_error: str = ""
    translation: Translation | None = None
    target_weights: str = "plain"
    draft_weights: str = "plain"
    notes: tuple[str, ...] = ()

    @property
    def num_parts(self) -> int:
        """How many processes hold a part of the target each, see `mtad.model.parallel`."""
        return parallel.num_parts(self.target)

    @property
    def grammars(self) -> TokenGrammars:
        """Grammars over its tokens; the first time takes about a second.

        Raises:
            GrammarError: the tokenizer does not say what its tokens are.
        """
        return TokenGrammars.of(self.tokenizer, self.vocab, self.eos_token_ids)


def load_models(
    target: str | Path,
    draft: str | Path | None = None,
    *,
    dtype: str | torch.dtype = "auto",
    draft_dtype: str | torch.dtype | None = None,
    device: str | torch.device = "auto",
    draft_device: str | torch.device | None = None,
    device_map: Any = None,
    tp_plan: Any = None,
    trust_vocabulary: bool = False,
    target_weights: Weights = "auto",
    draft_weights: Weights = "auto",
    draft_options: dict[str, Any] | None = None,
    **options: Any,
) -> Models:
    """Target and draft from folders, hub names or GGUF files.

    Args:
        target, draft: what `from_pretrained` takes, or a GGUF file; the draft may be a head's
            folder.
        dtype: "auto" (that of the checkpoint) or a name such as "bfloat16".
        draft_dtype: the draft's, if another.
        device: "auto" (a GPU if there is one), "cpu", "cuda:1", …
        draft_device: the draft's, if another.
        device_map: spreads the target over devices, as in transformers; needs accelerate.
        tp_plan: spreads the target over the processes of torchrun, each of which gets a draft of
            its own: "auto", or rules of transformers' tensor parallelism; needs accelerate.
        trust_vocabulary: skip the comparison of the tokenizers.
        target_weights, draft_weights: the form of their linear weights. "bf16" lays them out for
            the CPU, with the same logits; "auto" does so for bfloat16 models on a CPU, "plain"
            never. "int8" quantises them, which makes the target another model; lossless methods
            are lossless of that one. Models in these forms decode, but can't be saved, trained or
            moved.
        draft_options: `options` of the draft; without them it gets the target's, except for
            revision, subfolder and quantization_config.
        options: passed on to `from_pretrained` (revision, token, quantization_config, …).

    Raises:
        ValueError: no such device here, no such dtype, or a plan without processes to spread over.
        CheckpointError, UnsupportedModelError, VocabularyMismatchError: see `mtad.errors`.
    """
    if tp_plan is not None:
        form = target_weights if target_weights in ("bf16", "int8") else None
        device = part_device(tp_plan, device=device, device_map=device_map, target_weights=form)
    device = usable_device(device)
    if has_head := draft is not None and is_head(draft):
        own = {"draft_dtype": draft_dtype, "draft_device": draft_device}
        refuse_options(**own, draft_options=draft_options, tp_plan=tp_plan)
    draft_device = device if draft_device is None else usable_device(draft_device)
    for name in (dtype, draft_dtype):
        _require_dtype(name)
    require_weights("target_weights", target_weights)
    require_weights("draft_weights", draft_weights, draft is not None)
    if draft_options is None:
        draft_options = {k: v for k, v in options.items() if k not in _TARGETS_OWN}
    require_checkpoint(target, "target", options)
    if draft is not None and not has_head:
        require_checkpoint(draft, "draft", draft_options)
    parts = 1 if tp_plan is None else num_launched()
    plan = {"distributed_config": {"tp_plan": tp_plan}} if parts > 1 else {}
    size = 0 if device_map else _needed_bytes(target, dtype, options) // parts
    where = device_map or device
    big = None if size else load_model(target, "target", dtype, where, **options | plan)
    draft_size = _needed_bytes(None if has_head else draft, draft_dtype or dtype, draft_options)
    require_memory({"target": (device, size), "draft": (draft_device, draft_size)})
    big = big or load_model(target, "target", dtype, where, **options | plan)
    require_whole_heads(big)
    tokenizer, reason = load_tokenizer(target, "target", options)
    small: Draft | None = None
    draft_tokenizer = None
    if has_head and draft is not None:
        small = load_head(draft, big, trust_vocabulary=trust_vocabulary)
    elif draft is not None:
        small = load_model(draft, "draft", draft_dtype or dtype, draft_device, **draft_options)
        draft_tokenizer, _ = load_tokenizer(draft, "draft", draft_options)
    models = join(big, small, tokenizer, draft_tokenizer, trust_vocabulary=trust_vocabulary)
    notes = gguf_notes((target, big), (draft, small))
    models = replace(models, tokenizer_error=reason, notes=notes)
    return in_form(models, target_weights, draft_weights)


def in_form(
    models: Models, target_weights: Weights = "auto", draft_weights: Weights = "auto"
) -> Models:
    """The models with their linear weights in these forms, which is done in place."""
    asked = {"target": target_weights, "draft": draft_weights}
    forms, notes = dict[str, Any](), models.notes
    for name, model in (("target", models.target), ("draft", models.draft)):
        if model is not None:
            done = take_form(model, name, asked[name], models.tokenizer)
            forms[f"{name}_weights"] = done.format.name
            notes += notes_of(done, name)
    return replace(models, **forms, notes=notes)


def _require_dtype(dtype: str | torch.dtype | None) -> None:
    if isinstance(dtype, str):
        require_one_of("dtype", dtype, DTYPES)


def join(
    target: Model,
    draft: Draft | None,
    tokenizer: Tokenizer | None,
    draft_tokenizer: Tokenizer | None = None,
    *,
    trust_vocabulary: bool = False,
) -> Models:
    """Two loaded models as `Models`, once it is proven that they can be decoded together.

    Both are put into evaluation mode.

    Raises:
        UnsupportedModelError, VocabularyMismatchError: see `mtad.errors`.
    """
    require_tree_support(target.eval(), "target")
    vocab = embedding_rows(target)
    vocab = vocab if tokenizer is None else min(vocab, vocabulary_size(tokenizer))
    translation = None
    if isinstance(draft, RecurrentHead):
        attach(draft.eval(), target)
    elif draft is not None:
        require_tree_support(draft.eval(), "draft")
        draft, translation = paired(
            target, draft, vocab, tokenizer, draft_tokenizer, trust_vocabulary
        )
    eos = tuple(t for t in eos_token_ids(target, tokenizer) if 0 <= t < vocab)
    return Models(target, draft, tokenizer, vocab, eos, translation=translation)


def load_model(path: str | Path, name: str, dtype: Any, device_map: Any, **options: Any) -> Model:
    """One causal language model in evaluation mode.

    Raises:
        CheckpointError: nothing there, or not whole.
    """
    is_spread = "distributed_config" in options
    placed = {} if is_spread else placement(device_map)
    token_ids = token_ids_in(path, options) if name == "draft" else None
    source = find_gguf(path)
    read = source.load_model if source else AutoModelForCausalLM.from_pretrained
    try:
        loaded: Any = read(
            str(path),
            dtype=dtype,
            attn_implementation="sdpa",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the info
            **placed,
            **options,
        )
    except Exception as error:
        raise _load_error(error, path, name) from error
    model, info = loaded
    if token_ids is not None:
        model = trimmed_as_stored(model, token_ids, info, path, options)
    require_all_weights(info, path, name)
    if not placed and not is_spread:
        model = model.to(device_map)
    ready: Model = model.eval()
    return ready


def _needed_bytes(path: str | Path | None, dtype: Any, options: dict[str, Any]) -> int:
    """Bytes of a model and a cache of one token, before it is loaded; 0 if unknown."""
    if path is None or options.keys() - HUB_OPTIONS or options.get("trust_remote_code"):
        return 0
    try:
        source = find_gguf(path)
        read: Any = source.load_config if source else AutoConfig.from_pretrained
        config = read(str(path), **options | {"trust_remote_code": False})
        dtype = (source or config).dtype if dtype == "auto" else dtype
        if dtype is None or getattr(config, "quantization_config", None) is not None:
            return 0
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        return memory_of([model.eval()], 1, 1).total_bytes
    except Exception as error:  # loading it will fail with the whole cause
        logger.info("the size of %s is unknown before it is loaded: %s", path, first_line(error))
        return 0


def _load_error(error: Exception, path: str | Path, name: str) -> Exception:
    first = first_line(error)
    if "scaled_dot_product_attention" in str(error) or "does not support an attention" in str(
        error
    ):
        return UnsupportedModelError(
            f"the {name} model {str(path)!r} has no SDPA attention, which a token tree needs: "
            f"{first}; architectures that work: {', '.join(sorted(SUPPORTED))}"
        )
    if "_plan`" in first:
        return UnsupportedModelError(
            f"the {name} model {str(path)!r} cannot be spread over processes: {first}"
        )
    return CheckpointError(
        f"cannot load the {name} model from {str(path)!r}: {first}; it must be a folder "
        "with config.json and *.safetensors, a GGUF file, or a hub name"
    )


def quiet() -> None:
    """Switch off transformers' progress bars, and all but errors of it and of the hub."""
    huggingface_hub.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
