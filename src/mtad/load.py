"""Two models that can be decoded together, and the checks that they can.

Loads whatever `AutoModelForCausalLM` loads, from a folder or a hub name. Knows no method and no
loop; with `lm` and `cache` the only place that imports transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from mtad.errors import CheckpointError, UnsupportedModelError, VocabularyMismatchError
from mtad.lm import LM, Model
from mtad.tree import TokenTree

SUPPORTED = frozenset(
    "llama mistral qwen2 qwen3 opt gpt2 gpt_neox phi phi3 gemma3_text olmo2 falcon stablelm "
    "starcoder2 granite cohere".split()
)
"""Architectures (`config.model_type`) proven by the tests; others are tried on a tree first."""

DTYPES = ("auto", "bfloat16", "float16", "float32", "float64")
Tokenizer = PreTrainedTokenizerBase

_HUB_OPTIONS = {"revision", "token", "cache_dir", "local_files_only", "trust_remote_code"}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True)
class Models:
    """A target, perhaps a draft, and the tokenizer they share.

    Attributes:
        target: the large model.
        draft: the small model; None is fine for methods that need none.
        tokenizer: None where only token ids are given and wanted.
        vocab: number of token ids in use; rows of the embeddings beyond are padding.
        eos_token_ids: token ids that end a text, from the generation config.
    """

    target: Model
    draft: Model | None
    tokenizer: Tokenizer | None
    vocab: int
    eos_token_ids: tuple[int, ...]


def load_models(
    target: str | Path,
    draft: str | Path | None = None,
    *,
    dtype: str | torch.dtype = "auto",
    draft_dtype: str | torch.dtype | None = None,
    device: str = "auto",
    draft_device: str | None = None,
    device_map: Any = None,
    trust_vocabulary: bool = False,
    **options: Any,
) -> Models:
    """Target and draft from folders or hub names.

    Args:
        target, draft: what `from_pretrained` takes.
        dtype: "auto" (that of the checkpoint) or a name such as "bfloat16".
        draft_dtype: the draft's, if another.
        device: "auto" (a GPU if there is one), "cpu", "cuda:1", …
        draft_device: the draft's, if another.
        device_map: spreads the target over devices, as in transformers; needs accelerate.
        trust_vocabulary: skip the comparison of the tokenizers.
        options: passed on to `from_pretrained` (revision, token, quantization_config, …).

    Raises:
        ValueError: there is no such device here, or no such dtype.
        CheckpointError, UnsupportedModelError, VocabularyMismatchError: see `mtad.errors`.
    """
    device = _usable(device)
    draft_device = device if draft_device is None else _usable(draft_device)
    for name in (dtype, draft_dtype):
        _require_dtype(name)
    big = load_model(target, "target", dtype, device_map or device, **options)
    tokenizer = _load_tokenizer(target, "target", options)
    small = None
    if draft is not None:
        small_dtype = dtype if draft_dtype is None else draft_dtype
        small = load_model(draft, "draft", small_dtype, draft_device, **options)
    return join(
        big,
        small,
        tokenizer,
        None if draft is None else _load_tokenizer(draft, "draft", options),
        trust_vocabulary=trust_vocabulary,
    )


def _require_dtype(dtype: str | torch.dtype | None) -> None:
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")


def join(
    target: Model,
    draft: Model | None,
    tokenizer: Tokenizer | None,
    draft_tokenizer: Tokenizer | None = None,
    *,
    trust_vocabulary: bool = False,
) -> Models:
    """Two loaded models as `Models`, once it is proven that they can be decoded together.

    Raises:
        UnsupportedModelError, VocabularyMismatchError: see `mtad.errors`.
    """
    for name, model in (("target", target), ("draft", draft)):
        if model is not None:
            require_tree_support(model, name)
    rows = [embedding_rows(m) for m in (target, draft) if m is not None]
    if draft is not None and not trust_vocabulary:
        require_same_vocabulary(tokenizer, draft_tokenizer, rows)
    vocab = min(rows) if tokenizer is None else min(*rows, len(tokenizer))
    return Models(target, draft, tokenizer, vocab, _eos_token_ids(target, tokenizer))


def load_model(path: str | Path, name: str, dtype: Any, device_map: Any, **options: Any) -> Model:
    """One causal language model in evaluation mode.

    Raises:
        CheckpointError: nothing there, or not whole.
    """
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(path),
            dtype=dtype,
            attn_implementation="sdpa",
            output_loading_info=True,
            **_placement(device_map),
            **options,
        )
    except Exception as error:
        raise _load_error(error, path, name) from error
    model, info = loaded
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise CheckpointError(
            f"the {name} checkpoint {str(path)!r} lacks {len(missing)} weights, such as "
            f"{missing[0]!r}; it is incomplete or of another architecture than its config says"
        )
    if "device_map" not in _placement(device_map):
        model = model.to(device_map)
    ready: Model = model.eval()
    return ready


def embedding_rows(model: Model) -> int:
    """Number of token ids that the model can read."""
    embeddings: Any = model.get_input_embeddings()
    return int(embeddings.num_embeddings)


def _usable(device: str) -> str:
    """The device, once it is known to be there; "auto" is a GPU if there is one."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"device {device!r} cannot be used here ({reason}); give auto, cpu, cuda or cuda:1"
        ) from error
    return device


def _placement(device_map: Any) -> dict[str, Any]:
    """A plain device needs no device map, and so no accelerate."""
    simple = isinstance(device_map, str) and device_map.split(":")[0] in ("cpu", "cuda", "mps")
    return {} if simple else {"device_map": device_map}


def _load_error(error: Exception, path: str | Path, name: str) -> Exception:
    first = _first_line(error)
    if "scaled_dot_product_attention" in str(error) or "does not support an attention" in str(
        error
    ):
        return UnsupportedModelError(
            f"the {name} model {str(path)!r} has no SDPA attention, which a token tree needs: "
            f"{first}; architectures that work: {', '.join(sorted(SUPPORTED))}"
        )
    hint = "" if Path(path).exists() else " (no such folder here, and no such model on the hub)"
    return CheckpointError(
        f"cannot load the {name} model from {str(path)!r}{hint}: {first}; it must be a folder "
        "with config.json and *.safetensors, or a hub name"
    )


def _load_tokenizer(path: str | Path, name: str, options: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer of a checkpoint, None if it has none.

    Raises:
        CheckpointError: its files are there but cannot be read.
    """
    shared = {key: options[key] for key in _HUB_OPTIONS & options.keys()}
    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(str(path), **shared)
    except Exception as error:
        if any((Path(path) / file).exists() for file in _TOKENIZER_FILES):
            raise CheckpointError(
                f"the tokenizer of the {name} model in {str(path)!r} cannot be read: "
                f"{_first_line(error)}; copy its files again"
            ) from error
        return None
    return tokenizer


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def require_same_vocabulary(
    tokenizer: Tokenizer | None, draft_tokenizer: Tokenizer | None, rows: Sequence[int]
) -> None:
    """Compare two tokenizers token by token; padded embedding rows are fine.

    Raises:
        VocabularyMismatchError: with the first ids that differ.
    """
    if tokenizer is None or draft_tokenizer is None:
        if len(set(rows)) == 1:
            return
        raise VocabularyMismatchError(
            f"target and draft have {rows[0]} and {rows[1]} embedding rows and not both have a "
            "tokenizer to compare; give trust_vocabulary=True if their ids mean the same"
        )
    ours, theirs = (
        {i: t for t, i in tok.get_vocab().items()} for tok in (tokenizer, draft_tokenizer)
    )
    different = [i for i in sorted(ours.keys() | theirs.keys()) if ours.get(i) != theirs.get(i)]
    if different:
        shown = "; ".join(f"{i}: {ours.get(i)!r} and {theirs.get(i)!r}" for i in different[:5])
        raise VocabularyMismatchError(
            f"{len(different)} of {len(ours)} token ids differ between target and draft: {shown}; "
            "take a draft trained with the target's tokenizer"
        )


def _eos_token_ids(target: Model, tokenizer: Tokenizer | None) -> tuple[int, ...]:
    config = getattr(target, "generation_config", None)
    eos = getattr(config, "eos_token_id", None)
    if eos is None:
        eos = getattr(tokenizer, "eos_token_id", None)
    if eos is None:
        return ()
    return tuple(eos) if isinstance(eos, list | tuple) else (int(eos),)


def require_tree_support(model: Model, name: str) -> None:
    """Refuse a model that cannot score a token tree; unknown architectures are tried out.

    Raises:
        UnsupportedModelError: naming the architecture and the ones that work.
    """
    kind = model.config.get_text_config().model_type
    why = "its attention is not SDPA and cannot be switched to it"
    try:
        if model.config._attn_implementation != "sdpa":
            model.set_attn_implementation("sdpa")
        if kind in SUPPORTED or _scores_trees(model):
            return
        why = "its logits on a tree differ from those on the tree's paths"
    except Exception as error:
        why = f"{why} ({_first_line(error)})"
    raise UnsupportedModelError(
        f"the {name} model is of architecture {kind!r}, which cannot be decoded with a token "
        f"tree: {why}; architectures that work: {', '.join(sorted(SUPPORTED))}"
    )


@torch.inference_mode()
def _scores_trees(model: Model) -> bool:
    """Whether a tree of two siblings gets the logits of its two paths, read without a cache."""
    vocab = embedding_rows(model)
    prompt, siblings = [t % vocab for t in (5, 7, 11, 13)], [t % vocab for t in (17, 19)]
    lm = LM(model, "probe", vocab, 1, 16)
    lm.prefill([prompt])
    root = torch.tensor([prompt[-1]], device=lm.device)
    level = torch.tensor([siblings], device=lm.device)
    alive, zeros = torch.ones_like(level, dtype=torch.bool), torch.zeros_like(level).float()
    tree = TokenTree.root(root, root).grow(level, torch.zeros_like(level), alive, zeros)
    scored = lm.forward(tree)[0, 1:]
    plain = [
        model(torch.tensor([[*prompt, t]], device=lm.device), use_cache=False).logits[0, -1]
        for t in siblings
    ]
    wanted = torch.stack(plain).float()
    scale = wanted.abs().max().clamp(min=1.0)
    return bool((scored - wanted).abs().max() / scale < 0.05)


def quiet() -> None:
    """Switch off transformers' progress bars and all but its errors."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
