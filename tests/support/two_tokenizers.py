"""Two tokenizers that differ, and drafts that speak the other one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache

from support.saved_pair import EOS, TEXT
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TOY_VOCAB = {"a": 0, "b": 1, "c": 2, "s": 3}
"""The toy target's tokens; `TOY_START` is s."""
TOY_DRAFT_VOCAB = {"c": 0, "s": 1, "x": 2, "a": 3, "ca": 4, "aa": 5}
"""The draft's: it lacks b, which it reads as x, and writes ca and aa with one token each."""


def characters(
    vocab: Mapping[str, int], merges: Sequence[tuple[str, str]] = (), unknown: str | None = None
) -> PreTrainedTokenizerFast:
    """A tokenizer of single characters, and of what is merged of them."""
    raw = Tokenizer(models.BPE(vocab=dict(vocab), merges=list(merges), unk_token=unknown))
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=raw)


@cache
def toy_tokenizers() -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
    """Those of the toy target and of its draft."""
    merges = [("c", "a"), ("a", "a")]
    return characters(TOY_VOCAB), characters(TOY_DRAFT_VOCAB, merges, "x")


@cache
def byte_level() -> PreTrainedTokenizerFast:
    """A byte-level BPE, whose tokens say a space as Ġ."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[EOS, "<user>"], initial_alphabet=alphabet
    )
    raw.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=EOS)


@cache
def metaspace() -> PreTrainedTokenizerFast:
    """A BPE with byte fallback, whose tokens say a space as ▁, with ids and merges of its own."""
    raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁?[^▁]+"), "isolated")
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=special)
    raw.train_from_iterator([("the mat; on a cat " * 3 + TEXT).replace(" ", "▁")], trainer)
    form = json.loads(raw.to_str())
    form["added_tokens"] = form["added_tokens"][:3]  # bytes are tokens like others
    raw = Tokenizer.from_str(json.dumps(form))
    raw.normalizer = normalizers.Replace(" ", "▁")
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@cache
def prefixing() -> PreTrainedTokenizerFast:
    """A BPE that puts a space before every text, and whose decoder drops the first one."""
    form = json.loads(metaspace().backend_tokenizer.to_str())
    raw = Tokenizer.from_str(json.dumps(form))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@cache
def across_words() -> PreTrainedTokenizerFast:
    """A byte-level BPE whose tokens reach across words."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=[EOS], initial_alphabet=alphabet)
    raw.train_from_iterator(["x y z\nmat x y\n"] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=EOS)
