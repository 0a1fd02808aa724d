"""Which models can score a token tree: each one is tried on a small tree before it is used.

Knows models and the cache; no checkpoint, no tokenizer, no method.
"""

from __future__ import annotations

import logging

import torch

from mtad.core.tree import TokenTree
from mtad.errors import CacheMemoryError, UnsupportedModelError, first_line
from mtad.model.attention import NAME, use_grouped_attention
from mtad.model.context import embedding_rows as embedding_rows
from mtad.model.lm import LM, Model

logger = logging.getLogger(__name__)

SUPPORTED = frozenset(
    "llama mistral qwen2 qwen3 opt gpt2 gpt_neox phi phi3 gemma3_text olmo2 falcon stablelm "
    "starcoder2 granite cohere".split()
)
"""Architectures (`config.model_type`) proven by the tests; for messages only."""

_LAYER_TYPES = {"full_attention", "sliding_attention"}


def require_tree_support(model: Model, name: str) -> None:
    """Refuse a model that cannot score a token tree; the model should be in evaluation mode.

    Raises:
        UnsupportedModelError: naming the architecture, the reason and the ones that work; or only
            the reason, where the model fails without a tree, too.
    """
    kind = model.config.get_text_config().model_type
    try:
        why = _obstacle(model)
    except _ModelFailure as failure:
        raise UnsupportedModelError(
            f"the {name} model ({kind}, {str(model.dtype).removeprefix('torch.')} on "
            f"{model.device}) fails on a text of five tokens, without a token tree: {failure}"
        ) from failure.__cause__
    if why:
        raise UnsupportedModelError(
            f"the {name} model is of architecture {kind!r}, which cannot be decoded with a token "
            f"tree: {why}; architectures that work: {', '.join(sorted(SUPPORTED))}"
        )


def _obstacle(model: Model) -> str | None:
    """What keeps the model from scoring trees, None if nothing does."""
    config = model.config.get_text_config()
    odd = sorted(set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES)
    if odd:
        return f"it has layers of type {odd[0]!r}; full and sliding attention work"
    if getattr(config, "alibi", False):
        return "its positions are ALiBi biases, which the siblings of a tree cannot share"
    try:
        if model.config._attn_implementation not in ("sdpa", NAME):
            model.set_attn_implementation("sdpa")
    except Exception as error:
        return f"its attention is not SDPA and cannot be switched to it ({first_line(error)})"
    if _scores_trees_grouped(model):
        return None
    try:
        fits = _scores_trees(model)
    except Exception as error:
        _require_plain_forward(model, error)
        return f"it failed on a small tree ({first_line(error)})"
    if fits:
        return None
    dtype = str(model.dtype).removeprefix("torch.")
    return f"its logits on a tree differ from those on the tree's paths, in {dtype}"


class _ModelFailure(Exception):
    """A model cannot even read a short text; the reason."""


@torch.inference_mode()
def _require_plain_forward(model: Model, error: Exception) -> None:
    """Raise `_ModelFailure` unless it is the tree that the model failed on with `error`."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError | CacheMemoryError):
        raise _ModelFailure(first_line(error)) from error
    text = [[t % embedding_rows(model) for t in (5, 7, 11, 13, 17)]]
    try:
        model(torch.tensor(text, dtype=torch.int64, device=model.device), use_cache=False)
    except Exception as plain:
        raise _ModelFailure(first_line(plain)) from plain


def _scores_trees_grouped(model: Model) -> bool:
    """Whether the model scores trees with the attention for grouped heads; else it has SDPA's."""
    try:
        if use_grouped_attention(model) and _scores_trees(model):
            return True
    except Exception as error:  # whether SDPA does no better is seen next
        kind = model.config.get_text_config().model_type
        logger.info("%s: SDPA in place of grouped attention (%s)", kind, first_line(error))
    if model.config._attn_implementation == NAME:
        model.set_attn_implementation("sdpa")
    return False


@torch.inference_mode()
def _scores_trees(model: Model) -> bool:
    """Whether a tree of two siblings gets the logits of its two paths, read without a cache.

    Logits that are not finite are left for the engine to report.
    """
    vocab = embedding_rows(model)
    prompt, siblings = [t % vocab for t in (5, 7, 11, 13)], [t % vocab for t in (17, 19)]
    lm = LM(model, "probe", vocab, 1, 16, own_ids=True)
    lm.prefill([prompt])
    root = torch.tensor([prompt[-1]], dtype=torch.int64, device=lm.device)
    level = torch.tensor([siblings], dtype=torch.int64, device=lm.device)
    alive, zeros = torch.ones_like(level, dtype=torch.bool), torch.zeros_like(level).float()
    tree = TokenTree.root(root, root).grow(level, torch.zeros_like(level), alive, zeros)
    scored = lm.forward(tree)[0, 1:]
    texts = [[*prompt, t] for t in siblings]
    paths = torch.tensor(texts, dtype=torch.int64, device=lm.device)
    wanted = model(paths, use_cache=False).logits[:, -1].to(scored.device).float()
    scale = wanted.abs().max().clamp(min=1.0)
    close = (scored - wanted).abs().max() / scale < 0.05
    return bool(close | ~wanted.isfinite().all())
