"""Reasoning tags that are special tokens stay in the answers that are scored."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from support.saved_pair import tokenizer as plain_tokenizer

from mtad.api.completion import Completion
from mtad.bench.reasoning import text_with_tags
from mtad.engine.stats import Stats
from mtad.tasks.answers import without_reasoning


@pytest.fixture
def tokenizer() -> Any:
    """With Mistral's tags, which are special tokens there."""
    made = copy.deepcopy(plain_tokenizer())
    made.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    return made


def completion(tokenizer: Any, text: str) -> Completion:
    ids = tokenizer.encode(text, add_special_tokens=False)
    return Completion(tokenizer.decode(ids, skip_special_tokens=True), ids, "stop", Stats(), 0, [])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("[THINK]the cat[/THINK]the mat<eos>", "the mat"),
        ("the cat[/THINK]the mat", "the mat"),
        ("[THINK]the cat", ""),
        ("[THINK]a[/THINK]\n[THINK]b[/THINK]süße Äpfel", "süße Äpfel"),
        ("the mat<eos>", "the mat"),
        ("", ""),
    ],
)
def test_special_tags_stay_and_are_taken_out(tokenizer: Any, text: str, answer: str) -> None:
    done = completion(tokenizer, text)
    assert "[" not in done.text
    tagged = text_with_tags(done, tokenizer, stops=())
    assert tagged == text.replace("<eos>", "")
    assert without_reasoning(tagged).strip() == answer


def test_a_text_that_a_stop_may_have_cut_stays(tokenizer: Any) -> None:
    done = completion(tokenizer, "[THINK]the cat[/THINK]the mat")
    assert text_with_tags(done, tokenizer, stops=(";",)) == done.text


def test_tokenizers_without_such_tokens_change_nothing() -> None:
    done = completion(plain_tokenizer(), "[THINK]the cat[/THINK]the mat")
    assert text_with_tags(done, plain_tokenizer(), stops=()) == done.text
