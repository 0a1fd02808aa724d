"""A tokenizer like SentencePiece's, whose decoder drops the first space of a text."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def metaspace() -> PreTrainedTokenizerFast:
    """Whole words and bytes, with the decoder of SentencePiece: the first space is dropped."""
    words = ["<unk>", "▁hello", "▁world", "▁", "▁▁▁▁", "x", *(f"<0x{b:02X}>" for b in range(256))]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")
