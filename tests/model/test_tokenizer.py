"""Prompts become ids, ids become text as they come, and stop strings cut it."""

from __future__ import annotations

import copy
import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from support.metaspace import metaspace
from support.saved_pair import EOS, tokenizer
from support.saved_pair import pair as byte_pair

from mtad.errors import PromptError
from mtad.model.tokenizer import TextStream, encode, prompt_list, special_tokens

TEXTS = [
    "the cat sat",
    "süße Äpfel",
    "猫がマットに座った",
    "🙂 👍🏽 👨‍👩‍👧",
    "tab\tand\nnewline\n",
    "",
    "\ufffd is a character too",
    "  leading and trailing  ",
]
CHAT = [{"role": "user", "content": "hi"}]


def pieces(ids: list[int], stops: tuple[str, ...] = ()) -> tuple[list[str], TextStream, int]:
    """What is taken after every token, the stream, and how many tokens it wanted."""
    stream, taken = TextStream(tokenizer(), stops), []
    for count, token in enumerate(ids, 1):
        stopped = stream.push(token)
        taken.append(stream.take(last=stopped or count == len(ids)))
        if stopped:
            return taken, stream, count
    return taken, stream, len(ids)


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_are_the_text(text: str) -> None:
    taken, stream, _ = pieces(tokenizer()(text).input_ids)
    assert "".join(taken) == stream.text == text


@pytest.mark.parametrize("text", [TEXTS[1], TEXTS[2], TEXTS[3]])
def test_no_piece_holds_half_a_character(text: str) -> None:
    byte_ids = [tokenizer().convert_tokens_to_ids(_byte_token(b)) for b in text.encode()]
    taken, _, _ = pieces(byte_ids)
    assert "".join(taken) == text
    assert not any("\ufffd" in piece for piece in taken)
    assert sum(map(bool, taken)) == len(text)


def _byte_token(byte: int) -> str:
    """The character that a byte-level BPE writes for a byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in printable:
        return chr(byte)
    return chr(256 + [b for b in range(256) if b not in printable].index(byte))


def test_any_ids_give_the_text_of_all_of_them_at_once() -> None:
    rng = random.Random(0)
    for _ in range(50):
        ids = [rng.randrange(len(tokenizer())) for _ in range(30)]
        taken, stream, _ = pieces(ids)
        assert "".join(taken) == stream.text
        assert stream.text == tokenizer().decode(ids, skip_special_tokens=True)


def test_an_incomplete_character_at_the_end_is_shown_at_last() -> None:
    ids = [tokenizer().convert_tokens_to_ids(_byte_token(b)) for b in "🙂".encode()[:2]]
    taken, stream, _ = pieces(ids)
    assert taken[0] == ""
    assert stream.text == "".join(taken) == "\ufffd"


class Counting:
    """A tokenizer that counts the tokens it decodes."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.num_decoded = inner, 0

    def decode(self, ids: list[int], **options: Any) -> str:
        self.num_decoded += len(ids)
        return str(self.inner.decode(ids, **options))


@pytest.mark.parametrize("text", ["\ufffd" * 400, "\ufffd\ufffd猫" * 130, "🙂" * 300])
def test_tokens_that_are_no_characters_cost_no_more_than_others(text: str) -> None:
    counting = Counting(tokenizer())
    stray, stream = text.encode().replace("\ufffd".encode(), b"\xff"), TextStream(counting)
    ids = [tokenizer().convert_tokens_to_ids(_byte_token(byte)) for byte in stray]
    pieces = []
    for token in ids:
        stream.push(token)
        pieces.append(stream.take())
    pieces.append(stream.take(last=True))
    assert "".join(pieces) == stream.text == text == tokenizer().decode(ids)
    assert counting.num_decoded < 100 * len(ids)


@pytest.mark.parametrize("size", [1, 3, 40])
def test_a_block_of_tokens_gives_the_text_of_single_ones(size: int) -> None:
    ids = tokenizer()("".join(TEXTS)).input_ids + [300, 301] * 30
    stream, taken = TextStream(tokenizer()), ""
    for start in range(0, len(ids), size):
        stream.extend(ids[start : start + size])
        taken += stream.take()
    assert taken + stream.take(last=True) == stream.text == pieces(ids)[1].text


def test_eos_is_not_text() -> None:
    ids = [*tokenizer()("cat").input_ids, tokenizer().eos_token_id]
    assert pieces(ids)[1].text == "cat"


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("the cat sat on", ("sat",), "the cat "),
        ("the cat sat on", ("at s",), "the c"),
        ("the cat sat on", ("on", "cat"), "the "),
        ("the cat sat on", ("cat", "the cat"), ""),
        ("the cat sat on", ("dog",), "the cat sat on"),
        ("the cat sat on", ("sat on a",), "the cat sat on"),
        ("der Bär aß", ("är",), "der B"),
        ("猫が座", ("座",), "猫が"),
        ("x = 🙂!", ("🙂",), "x = "),
        ("aaab", ("aab",), "a"),
        ("a\n\nb", ("\n\n",), "a"),
        ("cat", ("",), "cat"),
    ],
)
def test_stop_strings(text: str, stops: tuple[str, ...], expected: str) -> None:
    taken, stream, _ = pieces(tokenizer()(text).input_ids, stops)
    assert "".join(taken) == stream.text == expected
    assert stream.stopped == (expected != text)


def test_a_stop_string_stops_at_the_token_that_completes_it() -> None:
    ids = tokenizer()("the cat sat on the mat").input_ids
    _, _, used = pieces(ids, ("cat",))
    decoded = [tokenizer().decode(ids[:n]) for n in range(len(ids) + 1)]
    assert "cat" in decoded[used]
    assert "cat" not in decoded[used - 1]


def test_text_that_may_become_a_stop_string_is_held_back() -> None:
    ids = [tokenizer().convert_tokens_to_ids(c) for c in "ENx"]
    taken, _, _ = pieces(ids, ("END",))
    assert taken == ["", "", "ENx"]


def after(prompt: list[str], new: list[str], stops: tuple[str, ...] = ()) -> tuple[str, bool]:
    """The text of new pieces after those of a prompt, and whether a stop string cut it."""
    words, taken = metaspace(), ""
    stream = TextStream(words, stops, words.convert_tokens_to_ids(prompt))
    for count, token in enumerate(words.convert_tokens_to_ids(new), 1):
        stopped = stream.push(token)
        taken += stream.take(last=stopped or count == len(new))
        if stopped:
            break
    assert taken == stream.text
    return taken, stream.stopped


def test_the_space_of_the_first_piece_is_kept() -> None:
    assert after(["▁hello"], ["▁world"]) == (" world", False)
    assert after(["▁hello"] * 20, ["▁▁▁▁", "x"]) == ("    x", False)
    assert after(["▁hello"], ["▁world", "x"], (" world",)) == ("", True)
    assert after([], ["▁hello", "▁world"]) == ("hello world", False)


def test_a_context_that_begins_in_a_character_spoils_nothing() -> None:
    cat = [f"<0x{byte:02X}>" for byte in "猫".encode()]
    assert after(cat * 3, cat) == ("猫", False)
    assert after(["▁hello", *cat[:2]], [cat[2], "x"])[0].endswith("x")


def test_spaces_before_punctuation_are_not_cleaned_up() -> None:
    tidy = copy.deepcopy(tokenizer())
    tidy.clean_up_tokenization_spaces = True
    stream = TextStream(tidy)
    for token in tidy("x , y . isn 't").input_ids:
        stream.push(token)
    assert stream.take(last=True) == "x , y . isn 't"


def test_special_tokens() -> None:
    assert special_tokens(tokenizer())[EOS] == tokenizer().eos_token_id
    assert "the" not in special_tokens(tokenizer())


def test_arrays_are_prompts() -> None:
    assert prompt_list(torch.tensor([1, 2])) == [[1, 2]]
    assert prompt_list(np.array([[1, 2], [3, 4]])) == [[1, 2], [3, 4]]
    assert prompt_list([torch.tensor([1]), np.array([2, 3]), "a"]) == [[1], [2, 3], "a"]
    assert prompt_list(list(np.array([1, 2]))) == [[1, 2]]
    assert encode(None, np.array([3, 4])) == [3, 4]


def test_one_prompt_or_many() -> None:
    assert prompt_list("a") == ["a"]
    assert prompt_list(["a", "b"]) == ["a", "b"]
    assert prompt_list([1, 2]) == [[1, 2]]
    assert prompt_list([[1, 2], "a", CHAT]) == [[1, 2], "a", CHAT]
    assert prompt_list(CHAT) == [CHAT]
    assert prompt_list([]) == []


def test_encode() -> None:
    assert encode(tokenizer(), "cat") == tokenizer()("cat").input_ids
    assert encode(None, [3, 4]) == [3, 4]
    chat = encode(tokenizer(), CHAT)
    assert chat == tokenizer()("<user>hi<assistant>").input_ids
    assert EOS not in tokenizer().decode(chat)


def test_prompts_that_cannot_be_encoded() -> None:
    with pytest.raises(PromptError, match="without a tokenizer"):
        encode(None, "text")
    with pytest.raises(PromptError, match=r"without a tokenizer \(no such file\)"):
        encode(None, "text", "no such file")
    with pytest.raises(PromptError, match="without a tokenizer"):
        encode(None, CHAT)
    other = copy.deepcopy(tokenizer())
    other.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(PromptError, match="refuses these messages: roles must alternate"):
        encode(other, CHAT)
    other.chat_template = None
    with pytest.raises(PromptError, match="no chat template"):
        encode(other, CHAT)


# ---------------------------------------------------------------- what failed, and where

SURROGATES = [
    ("a\ud83db", "the prompt has a lone surrogate at index 1, '\\ud83d'"),
    ("\udfff", "the prompt has a lone surrogate at index 0, '\\udfff'"),
    ("caf\udce9", "the prompt has a lone surrogate at index 3, '\\udce9'"),
    ("both \ud83d\ude00", "the prompt has a lone surrogate at index 5, '\\ud83d'"),
    ([{"role": "user", "content": "a\ud83db"}], "messages[0].content has a lone surrogate at ind"),
    (
        [*CHAT, {"role": "\ud83d", "content": ""}],
        "messages[1].role has a lone surrogate",
    ),
    (
        [{"role": "user", "content": [{"type": "text", "text": "\ude00"}]}],
        "messages[0].content[0].text has a lone surrogate",
    ),
    ([{"role": "user", "content": "", "x\ud83d": 1}], "a key of messages[0] has a lone surrogate"),
]


@pytest.mark.parametrize(("prompt", "message"), SURROGATES)
def test_half_a_character_is_named_with_its_place(prompt: Any, message: str) -> None:
    with pytest.raises(PromptError, match=re.escape(message)):
        encode(tokenizer(), prompt)
    with pytest.raises(PromptError, match=re.escape(message)):
        byte_pair().generate([prompt], max_new_tokens=2)


def test_a_stop_string_with_half_a_character() -> None:
    with pytest.raises(PromptError, match=r"stop\[1\] has a lone surrogate at index 0"):
        byte_pair().generate("a", stop=["b", "\ud83d"], max_new_tokens=2)


def test_whole_characters_beyond_16_bits_are_read() -> None:
    assert tokenizer().decode(encode(tokenizer(), "\U0001f600")) == "\U0001f600"


def failing(where: str) -> Any:
    """A tokenizer that fails at one of its tasks."""
    other = copy.deepcopy(tokenizer())

    def fail(*args: Any, **options: Any) -> Any:
        raise KeyError(where)

    if where == "tokenizer":
        other._encode_plus = fail
    return other


@pytest.mark.parametrize("prompt", ["hi", CHAT])
def test_a_tokenizer_that_fails_is_not_blamed_on_the_template(prompt: Any) -> None:
    with pytest.raises(PromptError, match="the tokenizer cannot read the prompt: KeyError"):
        encode(failing("tokenizer"), prompt)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "refuses these messages: roles must"),
        ("{{ messages[0].content + 1 }}", "refuses these messages: can only concatenate str"),
        ("{{ messages[7].content.x }}", "refuses these messages: .*has no element 7"),
        ("{% for m in messages %}", "the chat template is broken: Unexpected end of template"),
        ("{{ ", "the chat template is broken: unexpected 'end of template'"),
    ],
)
def test_a_template_that_fails(template: str, message: str) -> None:
    other = copy.deepcopy(tokenizer())
    other.chat_template = template
    with pytest.raises(PromptError, match=message):
        encode(other, CHAT)


def test_a_template_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: Any, **options: Any) -> Any:
        raise ImportError("apply_chat_template requires jinja2 to be installed.")

    other = copy.deepcopy(tokenizer())
    monkeypatch.setattr(type(other), "apply_chat_template", missing)
    with pytest.raises(PromptError, match=r"chats cannot be rendered here: .* requires jinja2"):
        encode(other, CHAT)


@pytest.mark.parametrize(
    ("least", "text", "stopped"),
    [(0, "a", True), (2, "a", True), (3, "abca", True), (5, "abca", True), (6, "abcabc", False)],
)
def test_a_stop_string_counts_after_min_tokens(least: int, text: str, stopped: bool) -> None:
    stream, ends = TextStream(Letters(), ["bc"], min_tokens=least), []
    for letter in "abcabc":
        ends.append(stream.push(ord(letter)))
        if ends[-1]:
            break
    stream.take(last=True)
    assert (stream.text, stream.stopped) == (text, stopped), least
    assert len(ends) > least or not stopped


class Letters:
    """A tokenizer with a token per character; those below 10 are special."""

    def decode(self, ids: list[int], skip_special_tokens: bool, **options: object) -> str:
        shown = [i for i in ids if i >= 10 or not skip_special_tokens]
        return "".join(chr(i) if i >= 10 else f"<{i}>" for i in shown)


def test_a_stop_string_may_begin_within_min_tokens_and_end_after_them() -> None:
    stream = TextStream(Letters(), ["bcd", "a"], min_tokens=3)
    assert [stream.push(ord(letter)) for letter in "abcd"] == [False, False, False, True]
    assert stream.text == "a"


def test_a_stop_string_may_stay_in_the_text() -> None:
    stream = TextStream(Letters(), ["bc", "cd"], keeps_stop=True)
    assert [stream.push(ord(letter)) for letter in "abc"] == [False, False, True]
    assert (stream.take(last=True), stream.take_places(last=True)) == ("abc", [])


def test_special_tokens_may_have_text() -> None:
    for skips, text, places in ((True, "ab", [0, 1, 1]), (False, "a<5>b", [0, 1, 4])):
        stream = TextStream(Letters(), skips_special=skips, locates=True)
        stream.extend([ord("a"), 5, ord("b")])
        assert stream.take() == text
        assert stream.take_places() == places


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("text", ["süß 猫 🙂!", "🙂🙂", "plain", "é", "\ufffd?"])
def test_places_are_those_of_the_characters(text: str, size: int) -> None:
    raw, stream, places = text.encode(), TextStream(tokenizer(), locates=True), list[int]()
    ids = tokenizer()(text).input_ids
    pieces = [tokenizer().convert_ids_to_tokens(token) for token in ids]
    for start in range(0, len(ids), size):
        stream.extend(ids[start : start + size])
        stream.take()
        places += stream.take_places()
    stream.take(last=True)
    places += stream.take_places(last=True)
    begins = [sum(map(len, pieces[:index])) for index in range(len(ids))]
    assert places == [len(raw[:begin].decode(errors="ignore")) for begin in begins]


def test_bytes_that_make_no_character_have_a_place_each() -> None:
    for raw, wanted in (
        (b"\xb2\xb2\xb2", [0, 1, 2]),
        (b"\xf0\xf0a", [0, 1, 2]),
        (b"\xe2\x82", [0, 0]),
        (b"a\xe2\x82a", [0, 1, 1, 2]),
        (b"\xe2\x82\xac\xff", [0, 0, 0, 1]),
    ):
        stream = TextStream(tokenizer(), locates=True)
        for byte in raw:
            stream.push(tokenizer().convert_tokens_to_ids(_byte_token(byte)))
        stream.take(last=True)
        assert stream.text == raw.decode(errors="replace")
        assert stream.take_places(last=True) == wanted, raw


def test_places_wait_for_what_a_stop_string_may_cut_off() -> None:
    stream = TextStream(Letters(), ["bcd"], locates=True)
    given = []
    for letter in "abcd":
        stream.push(ord(letter))
        stream.take()
        given.append(stream.take_places())
    assert given == [[0], [1], [], [1, 1]]
    assert stream.text == "a"
