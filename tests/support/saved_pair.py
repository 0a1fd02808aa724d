"""A tiny pair on disk with a trained tokenizer, a chat template and padded embedding rows."""

from __future__ import annotations

import atexit
import functools
import tempfile
from pathlib import Path

from support.tiny import similar
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mtad.api.pair import ModelPair, load_pair
from mtad.testing import random_llama

EOS = "<eos>"
PADDED_ROWS = 320
TEXT = "the cat sat on the mat; der Bär aß süße Äpfel; 猫がマットに座った; 🙂🙃👍🏽 x = x + 1\n" * 4
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 300 tokens or a few less."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = [EOS, "<system>", "<user>", "<assistant>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    raw.train_from_iterator([TEXT], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=EOS)
    fast.chat_template = TEMPLATE
    return fast


@functools.cache
def folder() -> Path:
    """`target` and `draft`, which differ a little; the target has more, unused embedding rows."""
    place = tempfile.TemporaryDirectory(prefix="mtad-tests-")
    atexit.register(place.cleanup)
    target = random_llama(vocab=len(tokenizer()), context=1024)
    target.generation_config.eos_token_id = tokenizer().eos_token_id
    draft = similar(target, 0.02)
    target.resize_token_embeddings(PADDED_ROWS, mean_resizing=False)
    for name, model in (("target", target), ("draft", draft)):
        model.save_pretrained(Path(place.name) / name)
        tokenizer().save_pretrained(Path(place.name) / name)
    return Path(place.name)


@functools.cache
def pair() -> ModelPair:
    """The pair, loaded once."""
    return load_pair(target=folder() / "target", draft=folder() / "draft")
