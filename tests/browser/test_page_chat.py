"""A chat: each answer once, copied, asked again, formatted, with a system prompt."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect
from support.mock_server import Body, MockServer, record, streamed, told
from support.steps import DONE, chat, race, run, settings, view, visit

pytestmark = pytest.mark.browser
pytest_plugins = ["support.browsing"]


def answering(*texts: str) -> Any:
    """Answers with these texts, one after the other, in pieces of three characters."""
    left = list(texts)

    def answer(body: Body) -> Any:
        text = left.pop(0)
        pieces = [text[i : i + 3] for i in range(0, len(text), 3)]
        return streamed(told(body, [record(i, [], piece) for i, piece in enumerate(pieces)]))

    return answer


def say(page: Page, text: str) -> None:
    """Send a message and wait for the answer."""
    page.locator("#prompt").fill(text)
    run(page)


def begin(page: Page, mock: MockServer, *answers: str) -> None:
    """The page in chat mode with a server that answers like this."""
    mock.answer = answering(*answers)
    visit(page, mock.url)
    chat(page)


def times_shown(page: Page, text: str) -> int:
    """How often the visible page has the text."""
    return str(page.locator("body").inner_text()).count(text)


@pytest.mark.parametrize("shown_as", ["Formatted", "Tokens"])
def test_an_answer_is_shown_once(page: Page, mock: MockServer, shown_as: str) -> None:
    begin(page, mock, "First answer.", "Second answer.")
    view(page, shown_as)
    say(page, "Question one?")
    assert [times_shown(page, text) for text in ("Question one?", "First answer.")] == [1, 1]
    say(page, "Question two?")
    for text in ("Question one?", "First answer.", "Question two?", "Second answer."):
        assert times_shown(page, text) == 1
    settings(page)
    race(page)  # the lanes are for the next question
    for text in ("First answer.", "Second answer."):
        assert times_shown(page, text) == 1


def test_messages_stand_in_their_order_and_the_field_below(page: Page, mock: MockServer) -> None:
    begin(page, mock, "First answer.", "Second answer.")
    say(page, "Question one?")
    say(page, "Question two?")
    texts = page.locator("#history .said, .lane .prose")
    expect(texts).to_have_text(
        ["Question one?", "First answer.", "Question two?", "Second answer."]
    )
    tops = [(one.bounding_box() or {})["y"] for one in texts.all()]
    assert tops == sorted(tops)
    assert (page.locator("#prompt").bounding_box() or {})["y"] > tops[-1]


@pytest.mark.parametrize("width", [1280, 1920])
def test_a_chat_has_the_wide_column(page: Page, mock: MockServer, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    begin(page, mock, "word " * 200)
    say(page, "Much, please.")
    assert (page.locator(".lane .prose").bounding_box() or {})["width"] >= 800


def test_a_long_answer_keeps_its_end_in_sight(page: Page, mock: MockServer) -> None:
    begin(page, mock, "A paragraph of some words.\n\n" * 60 + "The end.")
    say(page, "Much, please.")
    expect(page.locator(".lane .prose p").last).to_have_text("The end.")
    expect(page.locator(".lane .prose p").last).to_be_in_viewport()
    expect(page.locator("#prompt")).to_be_in_viewport()


def test_a_system_prompt_goes_first(page: Page, mock: MockServer) -> None:
    begin(page, mock, "One.", "Two.", "Three.")
    page.get_by_label("System prompt").fill("Be brief.")
    say(page, "a")
    say(page, "b")
    assert mock.bodies[-1]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "One."},
        {"role": "user", "content": "b"},
    ]
    page.get_by_label("System prompt").fill("  ")
    page.get_by_role("button", name="New chat").click()
    say(page, "c")
    assert mock.bodies[-1]["messages"] == [{"role": "user", "content": "c"}]
    page.get_by_label("Prompt", exact=True).first.check()
    expect(page.get_by_label("System prompt")).to_be_hidden()


def test_regenerate_asks_the_same_with_another_seed(page: Page, mock: MockServer) -> None:
    begin(page, mock, "One.", "Two.", "Three.", "Four.")
    say(page, "a")
    say(page, "b")
    page.locator("#prompt").fill("not sent yet")
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator(".lane .prose")).to_have_text("Three.")
    expect(page.locator(DONE)).to_be_attached()
    assert times_shown(page, "Two.") == 0
    assert mock.bodies[2]["messages"] == mock.bodies[1]["messages"]
    assert mock.bodies[2]["seed"] != mock.bodies[1]["seed"]
    expect(page.locator("#prompt")).to_have_value("not sent yet")
    say(page, "c")
    contents = [message["content"] for message in mock.bodies[3]["messages"]]
    assert contents == ["a", "One.", "b", "Three.", "c"]


def test_regenerate_with_a_kept_seed_sends_the_same(page: Page, mock: MockServer) -> None:
    begin(page, mock, "One.", "One.")
    page.locator("#seed").fill("7")
    say(page, "a")
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator(DONE)).to_be_attached()
    expect(page.locator(".lane .prose")).to_have_text("One.")
    assert mock.bodies[0] == mock.bodies[1]


def clipboard(page: Page) -> str:
    """What was copied last."""
    return str(page.evaluate("navigator.clipboard.readText()"))


def test_copy_takes_the_text_as_the_model_wrote_it(page: Page, mock: MockServer) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    first = "Some *words* and\n\n```sql\nSELECT 1;\n\n-- done\n```\n"
    begin(page, mock, first, "Second.")
    say(page, "a")
    page.locator(".lane").get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert clipboard(page) == first
    page.get_by_role("button", name="Copy code").click()
    expect(page.get_by_role("button", name="Copied")).to_have_count(2)
    assert clipboard(page) == "SELECT 1;\n\n-- done"
    say(page, "b")
    page.locator(".assistant").get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert clipboard(page) == first, "answers further up can be copied, too"


def test_copy_works_where_there_is_no_clipboard(page: Page, mock: MockServer) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    begin(page, mock, "By another way.")
    say(page, "a")
    page.evaluate(
        "() => { navigator.clipboard.writeText = () => Promise.reject(new Error('none')); }"
    )
    page.locator(".lane").get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert clipboard(page) == "By another way."


def test_a_prompts_text_can_be_copied_without_the_sign_of_its_end(
    page: Page, mock: MockServer
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    mock.answer = answering(" a text")
    visit(page, mock.url)
    run(page)
    expect(page.get_by_role("button", name="Regenerate")).to_have_count(0)
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert clipboard(page) == " a text"


def test_enter_sends_and_shift_enter_breaks_the_line(page: Page, mock: MockServer) -> None:
    begin(page, mock, "One.")
    prompt = page.locator("#prompt")
    prompt.press_sequentially("a")
    prompt.press("Shift+Enter")
    prompt.press_sequentially("b")
    expect(prompt).to_have_value("a\nb")
    prompt.press("Enter")
    expect(page.locator(".lane .prose")).to_have_text("One.")
    assert mock.bodies[0]["messages"] == [{"role": "user", "content": "a\nb"}]


def test_enter_in_a_prompt_is_a_line(page: Page, mock: MockServer) -> None:
    visit(page, mock.url)
    page.locator("#prompt").fill("a")
    page.locator("#prompt").press("Enter")
    expect(page.locator("#prompt")).to_have_value("a\n")
    assert mock.bodies == []
