"""What two tokenizers have in common, and a text of one in the tokens of the other."""

from __future__ import annotations

import random

import pytest
from support.two_tokenizers import (
    across_words,
    byte_level,
    characters,
    metaspace,
    prefixing,
    toy_tokenizers,
)
from transformers import PreTrainedTokenizerFast

from mtad.errors import VocabularyMismatchError
from mtad.model import pieces
from mtad.model.translation import Translation


def between(target: PreTrainedTokenizerFast, draft: PreTrainedTokenizerFast) -> Translation:
    return Translation.between(target, draft, len(target), len(draft))


def test_tokens_are_compared_by_what_they_stand_for() -> None:
    target, draft = byte_level(), metaspace()
    found = between(target, draft)
    ours, theirs = target.convert_ids_to_tokens, draft.convert_ids_to_tokens
    same = {ours(i): theirs(j) for i, j in found.pairs}
    assert same["Ġcat"] == "▁cat" and same["Ċ"] in ("\n", "<0x0A>") and same["ÃĦ"] == "Ä"
    assert same["ĥ"] == "<0x83>"  # a byte alone, which is no text
    assert same["<eos>"] == "</s>" and "<user>" not in same
    assert found.num_common == len(found.pairs) == len(dict(found.pairs))
    assert found.share_of_target == found.num_common / len(target)
    assert found.share_of_draft == found.num_common / len(draft)


def test_ids_beyond_the_models_do_not_count() -> None:
    target, draft = byte_level(), metaspace()
    few = Translation.between(target, draft, 280, 310)
    assert few.num_common < between(target, draft).num_common
    assert max(i for i, _ in few.pairs) < 280 and max(j for _, j in few.pairs) < 310


@pytest.mark.parametrize("text", ["the cat sat", " on the mat; 猫 🙂", "x = x + 1\n\n  y"])
def test_a_text_says_the_same_in_both(text: str) -> None:
    for one, other in ((byte_level(), metaspace()), (metaspace(), byte_level())):
        ids = one(text, add_special_tokens=False)["input_ids"]
        assert other.decode(list(between(one, other).encode(ids))) == text


def test_special_tokens_are_mapped_or_left_out() -> None:
    target, draft = byte_level(), metaspace()
    eos, user = target.convert_tokens_to_ids(["<eos>", "<user>"])
    cat = target("cat", add_special_tokens=False)["input_ids"]
    found = between(target, draft)
    wanted = draft("cat", add_special_tokens=False)["input_ids"]
    assert list(found.encode([user, *cat, eos, *cat])) == [*wanted, draft.eos_token_id, *wanted]
    assert found.encode([user]) == (draft.bos_token_id,)


def test_what_the_draft_puts_before_every_text() -> None:
    from tokenizers import processors

    draft = PreTrainedTokenizerFast(
        tokenizer_object=metaspace().backend_tokenizer, bos_token="<s>", eos_token="</s>"
    )
    draft.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", draft.bos_token_id)]
    )
    cat = byte_level()("cat", add_special_tokens=False)["input_ids"]
    wanted = draft("cat", add_special_tokens=False)["input_ids"]
    assert list(between(byte_level(), draft).encode(cat)) == [draft.bos_token_id, *wanted]
    draft.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")


def test_the_toys() -> None:
    found = between(*toy_tokenizers())
    assert found.pairs == ((0, 3), (2, 0), (3, 1))
    assert found.encode([3, 2, 0, 0, 1, 0]) == (1, 4, 3, 2, 3)
    assert "3 tokens that both have, 75% of the target's and 50% of the draft's" in str(found)


def test_next_to_nothing_in_common() -> None:
    ours, theirs = characters({"a": 0, "b": 1}), characters({"b": 0, "x": 1, "y": 2})
    with pytest.raises(VocabularyMismatchError, match=r"of the 2 .* the 3 of the draft 1 are the"):
        between(ours, theirs)


# --- a growing text is encoded in pieces ----------------------------------------------------------

NASTY = (
    "the cat sat on the mat and the cat x sat a mat",
    "der Bär aß süße Äpfel; 猫がマットに座った the cat 猫 sat on 座った a mat",
    "e\u0301 the\u0301 cat\u0301 sat \u0301on a\u0308\u0323 mat o\u200d x y z",
    "🙂🙃👍🏽 the 👩\u200d👩\u200d👧 cat sat 🙂on the mat",
    "the      cat sat\t\ton  the          mat and   sat on  a mat   ",
    "x = x + 1\n\n    the cat\n  sat on\r\n\n\n the mat\u00a0and a\u3000mat sat on",
    "the cat's mat isn't a cat, it'll sat (on the) mat-on a_mat <s> x </s> <0x0A> ▁ Ġ x y",
)
PAIRS = [
    pytest.param(byte_level, metaspace, True, id="byte_level-metaspace"),
    pytest.param(metaspace, byte_level, True, id="metaspace-byte_level"),
    pytest.param(byte_level, prefixing, True, id="byte_level-prefixing"),
    pytest.param(prefixing, byte_level, True, id="prefixing-byte_level"),
    pytest.param(byte_level, across_words, False, id="byte_level-across_words"),
]


def nasty_ids(target: PreTrainedTokenizerFast) -> list[list[int]]:
    """Texts, one with special tokens in it, and tokens at random, which are no whole characters."""
    texts = [target(text, add_special_tokens=False)["input_ids"] for text in NASTY]
    special = [*texts[0][:9], target.eos_token_id, *texts[0], target.eos_token_id, *texts[1]]
    draw, words = random.Random(0), texts[0]
    mixed = [draw.choice([draw.randrange(len(target)), *draw.sample(words, 3)]) for _ in range(300)]
    return [*texts, special, mixed]


@pytest.mark.parametrize(("target", "draft", "is_cut"), PAIRS)
def test_pieces_are_encoded_as_the_whole_text_is(
    target, draft, is_cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every text that ends early, too, as texts do that grow."""
    found, count = between(target(), draft()), 0
    for ids in nasty_ids(target()):
        for length in range(1, len(ids) + 1):
            monkeypatch.setattr(pieces, "LEAST", 10**9)
            whole = found.encode(ids[:length])
            monkeypatch.setattr(pieces, "LEAST", 2)
            assert found.encode(ids[:length]) == whole, target().decode(ids[:length])
        count += (
            sum(
                1
                for run in found._runs(ids)
                if isinstance(run, list)
                for _ in found._cuts.pieces(run)
            )
            - 1
        )
    assert (count > 20) is is_cut


def test_of_a_growing_text_the_last_piece_alone_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    found, lengths = between(byte_level(), metaspace()), []
    ids = byte_level()("the cat sat on a mat and " * 60, add_special_tokens=False)["input_ids"]
    encoded = Translation._encoded

    def noted(self: Translation, text: str) -> list[int]:
        lengths.append(len(text))
        return encoded(self, text)

    found.encode(ids[:-5])
    monkeypatch.setattr(Translation, "_encoded", noted)
    for end in range(-4, 0):
        found.encode(ids[:end])
    assert len(ids) > 400 and len(lengths) == 4 and max(lengths) < 400
