"""Tiny models of many architectures, deterministic texts, and decoding a batch to the end."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import transformers

from mtad import methods
from mtad.core.tree import TokenTree
from mtad.engine.decode import decode
from mtad.engine.session import Block, Request
from mtad.model.lm import LM, Model
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method
from mtad.testing import markov_model

VOCAB = 61
PROMPTS = [[3, 5, 7, 3, 5, 9, 11], [8], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2]]
"""Three prompts of different lengths; two hold repeated n-grams."""


@dataclass(frozen=True)
class Text:
    """A completed request: its blocks joined."""

    blocks: tuple[Block, ...]

    @property
    def token_ids(self) -> list[int]:
        return [token for block in self.blocks for token in block.token_ids]

    @property
    def finish_reason(self) -> str | None:
        return self.blocks[-1].finish_reason

    @property
    def num_accepted(self) -> list[int]:
        return [block.num_accepted for block in self.blocks]


def complete(
    target: Model,
    draft: Model | None,
    method: Method,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams | Sequence[SamplingParams],
    vocab: int = VOCAB,
    stops: Sequence[Callable[[int], bool] | None] | None = None,
) -> list[Text]:
    """The completed texts of a batch, in the order of the prompts; settings as `suited`."""
    settings = [params] * len(prompts) if isinstance(params, SamplingParams) else params
    settings = [suited(method, one) for one in settings]
    triples = zip(prompts, settings, stops or [None] * len(prompts), strict=True)
    requests = [Request(p, s, stop) for p, s, stop in triples]
    blocks: list[list[Block]] = [[] for _ in requests]
    for step in decode(target, draft, method, requests, vocab):
        for block in step.blocks:
            blocks[block.request].append(block)
    return [Text(tuple(row)) for row in blocks]


def token_ids(*args, **kwargs) -> list[list[int]]:
    """The texts of `complete` as token ids."""
    return [text.token_ids for text in complete(*args, **kwargs)]


OPTIONS = {
    "beam_search": [{"num_beams": 3}],
    "bild": [{"num_draft_tokens": 3, "fallback_threshold": 0.0, "rollback_threshold": 1.0}],
    "block_verification": [{"num_draft_tokens": 3}],
    "cactus": [{"num_draft_tokens": 3}, {"num_draft_tokens": 3, "step": "exact"}],
    "cascade": [
        {"num_draft_tokens": 3, "rule": "js"},
        {"num_draft_tokens": 3, "rule": "token", "bonus": "target"},
        {"num_draft_tokens": 3, "rule": "ensemble", "threshold": 0.0},
    ],
    "fly": [{"num_draft_tokens": 4, "window": 2, "entropy_threshold": 0.1}],
    "gbv": [
        {"num_paths": 3, "num_draft_tokens": 3},
        {"num_paths": 2, "num_draft_tokens": 2, "adaptive_paths": False},
    ],
    "joint_greedy": [{"num_draft_tokens": 3, "beam_width": 3}],
    "margin": [{"num_draft_tokens": 3, "max_gap": 1.0, "regret_budget": 3.0}],
    "mcss": [{"k_config": (3, 2)}]
    + [{"k_config": (2, 2), "replacement": kind} for kind in ("with", "naive")],
    "mmtad": [
        {"num_draft_tokens": 3, "beam_width": 3, "rule": rule} for rule in ("star", "own", "max")
    ],
    "mtad": [
        {"num_draft_tokens": 3, "beam_width": 3},
        {"num_draft_tokens": 3, "beam_width": 3, "beam": "search", "ratio_on": "raw"},
        {"num_draft_tokens": 2, "beam_width": 4, "beam": "sample_with_replacement"},
    ],
    "mtjd": [
        {"num_block_tokens": 3, "beam_width": 3},
        {"num_block_tokens": 2, "joint": "none"},
        {"num_block_tokens": 2, "joint": "argmax"},
    ],
    "prompt_lookup": [{"num_draft_tokens": 4}],
    "specinfer": [{"k_config": (3, 1, 2)}],
    "spectr": [{"num_drafts": 3, "num_draft_tokens": 3}],
    "speculative_beam": [
        {"num_draft_tokens": 3, "beam_width": 3},
        {"num_beams": 1, "num_draft_tokens": 3, "beam_width": 2},
        {"num_beams": 2, "num_draft_tokens": 3, "beam_width": 3, "pinned": True},
    ],
    "speculative_sampling": [{"num_draft_tokens": 3}],
    "suffix": [
        {"num_draft_tokens": 4},
        {"num_draft_tokens": 3, "fallback": "draft"},
        {"num_draft_tokens": 3, "num_draft_nodes": 5, "max_places": 4},
    ],
    "typical_acceptance": [{"num_draft_tokens": 3}],
}
"""Small settings of the methods; a method that is not named here runs with its defaults."""


def variants() -> list[Method]:
    """Every method of the registry in each of its settings above."""
    settings = [(name, o) for name in methods.names() for o in OPTIONS.get(name, [{}])]
    return [methods.find(name)(**options) for name, options in settings]


def honours(method: Method, **sampling: Any) -> bool:
    """Whether the method can keep these sampling settings."""
    try:
        method.check(SamplingParams(**sampling))
    except ValueError:
        return False
    return True


def suited(method: Method, params: SamplingParams) -> SamplingParams:
    """The settings, at temperature 0 and without truncation for a method that knows no other."""
    if honours(method, temperature=1.0):
        return params
    return replace(params, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0)


def heat_of(name: str) -> float:
    """A temperature for the method: 1, or 0 where it knows no other."""
    return suited(methods.find(name)(), SamplingParams()).temperature


def is_greedy(method: Method) -> bool:
    """Whether temperature 0 is the target's argmax at every token."""
    searches = {"beam_search", "joint_greedy", "speculative_beam"}
    others = {"bild", "cascade", "fly", "margin", "mtjd"} | searches
    return method.is_lossless or method.name not in others


def methods_that(accept: Callable[[Method], bool] = lambda method: True) -> list[Any]:
    """The accepted variants as parameters; all but the first of each method are slow tests."""
    found: list[Any] = []
    seen: set[str] = set()
    for method in filter(accept, variants()):
        marks = pytest.mark.slow if method.name in seen else ()
        found.append(pytest.param(method, id=label(method), marks=marks))
        seen.add(method.name)
    return found


FAST = ("autoregressive", "mcss", "mmtad", "mtad", "speculative_sampling")
"""Methods whose first settings stand for the others where time is short."""


def some_variants(but: Collection[str] = (), fast: Collection[str] = FAST) -> list[Any]:
    """All variants as parameters; the first settings of some methods stand for the slow rest.

    Args:
        but: names of methods that are left out.
        fast: names of the methods that are no slow tests.
    """
    found: list[Any] = []
    seen: set[str] = set()
    for method in (m for m in variants() if m.name not in but):
        stands = method.name in fast and method.name not in seen
        seen.add(method.name)
        found.append(
            pytest.param(method, id=label(method), marks=() if stands else pytest.mark.slow)
        )
    return found


def drafting_variants(fast: Collection[str] = FAST) -> list[Any]:
    """Those of `some_variants` in which a draft model takes part."""
    return [given for given in some_variants(fast=fast) if given.values[0].drafted_by == "draft"]


def each_once(fast: Collection[str] = FAST) -> list[Any]:
    """The first settings of every method as parameters; those of `fast` are no slow tests."""
    first = {method.name: method for method in reversed(variants())}
    return [
        pytest.param(
            first[name], id=label(first[name]), marks=() if name in fast else pytest.mark.slow
        )
        for name in methods.names()
    ]


def some_names(accept: Callable[[Method], bool] = lambda method: True) -> list[Any]:
    """Names of the methods with an accepted variant; those that are not `FAST` are slow tests."""
    found = dict.fromkeys(method.name for method in filter(accept, variants()))
    return [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in sorted(found)
    ]


def in_turn(fast: Collection[str], settings: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """Variants with settings as parameters: of the first in `fast` all, of the others one each.

    Args:
        fast: names of the methods that are no slow tests.
        settings: of the sampling, by name; what is no sampling setting is `budget`.
    """
    found: list[Any] = []
    seen: set[str] = set()
    for index, method in enumerate(variants()):
        fits = [name for name, given in settings.items() if _fits(method, given)]
        stands = method.name in fast and method.name not in seen
        seen.add(method.name)
        for name in fits if stands else [fits[index % len(fits)]]:
            marks = () if stands else pytest.mark.slow
            found.append(pytest.param(method, name, id=f"{label(method)}-{name}", marks=marks))
    return found


def _fits(method: Method, settings: Mapping[str, Any]) -> bool:
    return honours(method, **{name: v for name, v in settings.items() if name != "budget"})


def label(method: Method) -> str:
    """A short test id: the method's name and its words among the options."""
    words = [value for value in vars(method).values() if isinstance(value, str)]
    return "-".join([method.name, *words])


def block_length(method: Method) -> int:
    """γ, most draft tokens of one iteration; 1 for methods that have no such option."""
    if hasattr(method, "k_config"):
        return len(method.k_config)
    return getattr(method, "num_draft_tokens", getattr(method, "num_block_tokens", 1))


def similar(model: Model, scale: float = 0.05) -> Model:
    """A copy with disturbed weights: a draft that is right now and then."""
    generator = torch.Generator().manual_seed(5)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight += scale * torch.randn(weight.shape, generator=generator)
    return other


def opposite(model: Model) -> Model:
    """A copy with negated logits: a draft whose favourite is the target's last choice."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_output_embeddings().weight.neg_()
    return other


def counting_model(vocab: int, step: int = 1) -> Model:
    """A model that says i + step after i, with certainty."""
    table = [[float(j == (i + step) % vocab) for j in range(vocab)] for i in range(vocab)]
    return markov_model(table)


_TINY = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
_GPT2 = {"n_positions": 256, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 64}
_OPT = {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.2}
_SLIDING = ["sliding_attention", "full_attention"]

ARCHITECTURES: dict[str, dict] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": None},
    "mistral_sliding": {"model_type": "mistral", "sliding_window": 6},
    "opt": _OPT,
    "gpt2": _GPT2,
    "gpt_neox": {},
    "gemma3_text": {"layer_types": _SLIDING, "sliding_window": 6, "query_pre_attn_scalar": 8},
    "phi": {},
    "phi3": {},
    "olmo2": {},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "stablelm": {},
    "starcoder2": {},
    "granite": {},
    "cohere": {"logit_scale": 1.0},
}
"""Options beyond the tiny sizes, by architecture."""


def tiny_model(name: str, seed: int = 0) -> Model:
    """A small random model of an architecture of transformers, float32."""
    options = {**_TINY, **ARCHITECTURES[name]}
    model_type = options.pop("model_type", name)
    if model_type in ("gpt2", "falcon"):  # their head size follows from the hidden size
        del options["head_dim"]
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(model_type, **options)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def reference_text(model: Model, prompt: list[int], num_new: int, **options: Any) -> list[int]:
    """The new tokens that transformers' own greedy loop, or the search of `options`, gives."""
    ids = torch.tensor([prompt])
    options = {"do_sample": False, "max_new_tokens": num_new, "pad_token_id": 0, **options}
    output = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return output[0, len(prompt) :].tolist()


def random_tree(texts: Sequence[Sequence[int]], widths: Sequence[int], seed: int) -> TokenTree:
    """A tree below the last tokens of `texts` with random tokens and random parents."""
    generator = torch.Generator().manual_seed(seed)
    rows = len(texts)
    previous = torch.tensor([text[max(0, len(text) - 2)] for text in texts])
    tree = TokenTree.root(torch.tensor([text[-1] for text in texts]), previous)
    for width in widths:
        tokens = torch.randint(VOCAB, (rows, width), generator=generator)
        parents = torch.randint(tree.widths[-1], (rows, width), generator=generator)
        zeros = torch.zeros(rows, width)
        tree = tree.grow(tokens, parents + tree.last_level.start, zeros == 0, zeros)
    return tree


def path_logits(model: Model, texts: Sequence[Sequence[int]], tree: TokenTree) -> torch.Tensor:
    """What the model says after every node when each path is read on its own, (B, N, V)."""
    paths = []
    for row, text in enumerate(texts):
        for node in range(tree.num_nodes):
            line = tree.ancestors[row, node].nonzero()[1:, 0]
            paths.append([*text, *tree.tokens[row, line].tolist()])
    longest = max(map(len, paths))
    padded = torch.tensor([[*path, *[0] * (longest - len(path))] for path in paths])
    with torch.inference_mode():
        logits = model(input_ids=padded, use_cache=False).logits
    last = torch.tensor([len(path) - 1 for path in paths])
    return logits[torch.arange(len(paths)), last].view(len(texts), tree.num_nodes, -1)


def prefilled(model: Model, texts: Sequence[Sequence[int]], room: int = 32) -> LM:
    """A cache that has read all but the last token of every text."""
    lm = LM(model, "target", VOCAB, len(texts), max(map(len, texts)) + room)
    with torch.inference_mode():
        lm.prefill(texts)
    return lm
