"""Chats that stay: over a reload, in a list, beside other tabs, in broken and full storage."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from support.mock_server import Body, MockServer, record, story, streamed, told
from support.steps import race, run, sideways, view, visit

pytestmark = pytest.mark.browser
pytest_plugins = ["support.browsing"]

KEY = "sk-very-secret"


def numbered(body: Body) -> Any:
    """An answer that says how many messages it was asked with."""
    return streamed(told(body, [record(0, [" after"], f" {len(body['messages'])}")]))


@pytest.fixture(autouse=True)
def _answers(mock: MockServer) -> None:
    mock.answer = numbered


def say(page: Page, text: str) -> None:
    """Send a message and wait for the answer."""
    page.locator("#prompt").fill(text)
    run(page)


def open_chats(page: Page) -> None:
    """Open the list."""
    if page.locator("#chats").is_hidden():
        page.get_by_role("button", name="Chats", exact=True).click()


def again(page: Page) -> None:
    """Load the page anew."""
    page.reload()
    expect(page.locator("html[data-ready]")).to_be_attached()


def titles(page: Page) -> list[str]:
    """The names in the list."""
    open_chats(page)
    return page.locator("#chat-list .open").all_text_contents()


def stored(page: Page) -> dict[str, str]:
    """What the browser keeps of chats."""
    found: dict[str, str] = page.evaluate("({...localStorage})")
    return {name: text for name, text in found.items() if name.startswith("mtad-chat-")}


def contents(mock: MockServer) -> list[str]:
    """What the last request said."""
    return [message["content"] for message in mock.bodies[-1]["messages"]]


def begin_another(page: Page) -> None:
    """Begin a chat from the list."""
    open_chats(page)
    page.locator("#begin-chat").click()


def test_a_chat_goes_on_after_a_reload(page: Page, mock: MockServer) -> None:
    visit(page, mock.url, "chat")
    page.get_by_label("System prompt").fill("Be brief.")
    say(page, "one")
    view(page, "Tokens")
    again(page)
    expect(page.locator("#history .said")).to_have_text(["one", "after 2"])
    expect(page.get_by_label("System prompt")).to_have_value("Be brief.")
    expect(page.locator("#empty")).to_be_hidden()
    view(page, "Tokens")  # they are not kept, the text is
    expect(page.locator("#history .assistant .text")).to_have_text("after 2")
    say(page, "two")
    assert contents(mock) == ["Be brief.", "one", " after 2", "two"]
    assert titles(page) == ["one"]


def test_an_answer_that_was_read_from_storage_is_asked_again(page: Page, mock: MockServer) -> None:
    visit(page, mock.url, "chat")
    say(page, "one")
    again(page)
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator(".lane .prose")).to_have_text("after 1")
    expect(page.locator("#history .said")).to_have_text(["one"])
    assert mock.bodies[0]["messages"] == mock.bodies[1]["messages"]


def test_a_question_that_nothing_answered_goes_back_into_its_field(
    page: Page, mock: MockServer
) -> None:
    visit(page, mock.url, "chat")
    say(page, "one")
    mock.answer = lambda body: streamed(told(body, story(400), pause=0.05))
    page.locator("#prompt").fill("two")
    page.locator("#run").click()
    expect(page.locator(".lane .prose")).not_to_be_empty()
    for _ in range(2):
        again(page)
        expect(page.locator("#history .said")).to_have_text(["one", "after 1"])
        expect(page.locator("#prompt")).to_have_value("two")


def test_another_tab_begins_with_a_new_chat_and_lists_the_others(
    page: Page, mock: MockServer
) -> None:
    visit(page, mock.url, "chat")
    say(page, "one")
    other = page.context.new_page()
    visit(other, mock.url, "chat")
    expect(other.locator("#empty")).to_be_visible()
    assert titles(other) == ["one"]
    say(page, "two")
    other.locator("#chat-list .open").click()
    expect(other.locator("#history .said")).to_have_text(["one", "after 1", "two", "after 3"])


def test_chats_are_opened_named_and_deleted(page: Page, mock: MockServer) -> None:
    visit(page, mock.url, "chat")
    words = "Which of all the many cats that live in this house is the oldest one, and why?"
    say(page, words)
    begin_another(page)
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#prompt")).to_be_focused()
    say(page, "second")
    first = "Which of all the many cats that live in this house is the …"
    assert titles(page) == ["second", first]
    expect(page.locator("#chat-list [aria-current]")).to_have_text("second")
    page.get_by_role("button", name=first).click()
    expect(page.locator("#history .said").first).to_have_text(words)
    page.get_by_role("button", name="Rename").click()
    page.keyboard.press("Escape")
    assert titles(page)[1] == first
    page.get_by_role("button", name="Rename").click()
    page.keyboard.type("Cats <b>")
    page.keyboard.press("Enter")
    assert titles(page) == ["second", "Cats <b>"]
    expect(page.get_by_role("button", name="Cats <b>")).to_be_focused()
    say(page, "go on")
    assert titles(page) == ["Cats <b>", "second"]
    again(page)
    assert titles(page) == ["Cats <b>", "second"]
    page.get_by_role("button", name="Delete", exact=True).click()
    assert titles(page) == ["Cats <b>", "second"], "it asks first"
    page.get_by_role("button", name="Delete it?").click()
    assert titles(page) == ["second"]
    expect(page.locator("#empty")).to_be_visible()


def test_delete_all_leaves_nothing(page: Page, mock: MockServer) -> None:
    visit(page, mock.url, "chat")
    say(page, "one")
    begin_another(page)
    page.evaluate("localStorage.setItem('mtad-chat-broken', '{')")
    mock.answer = lambda body: streamed(told(body, story(400), pause=0.05))
    page.locator("#prompt").fill("two")
    page.locator("#run").click()
    expect(page.locator(".lane .prose")).not_to_be_empty()
    assert len(stored(page)) == 3
    page.get_by_role("button", name="Delete all").click()
    page.get_by_role("button", name="Delete all?").click()
    expect(page.locator("#no-chats")).to_be_visible()
    expect(page.locator("#empty")).to_be_visible()
    assert stored(page) == {}
    assert titles(page) == []


def test_arrow_keys_walk_over_the_list(page: Page, mock: MockServer) -> None:
    visit(page, mock.url, "chat")
    for name in ("one", "two", "three"):
        begin_another(page)
        say(page, name)
    page.locator("#begin-chat").focus()
    page.keyboard.press("Tab")
    seen = []
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp"):
        seen.append(page.evaluate("document.activeElement.textContent"))
        page.keyboard.press(key)
    assert seen == ["three", "two", "one", "one"]
    page.keyboard.press("Enter")
    expect(page.locator("#history .said").first).to_have_text("two")


def test_the_list_is_a_drawer_on_a_phone(page: Page, mock: MockServer) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    visit(page, mock.url, "chat")
    say(page, "one")
    begin_another(page)
    expect(page.locator("#chats")).to_be_hidden()
    open_chats(page)
    expect(page.locator("#close-chats")).to_be_focused()
    assert sideways(page) <= 0
    page.locator("#chat-list .open").click()
    expect(page.locator("#chats")).to_be_hidden()
    expect(page.locator("#history .said").first).to_be_in_viewport()
    open_chats(page)
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Chats", exact=True)).to_be_focused()


def test_one_panel_at_a_time_but_both_where_there_is_room(page: Page, mock: MockServer) -> None:
    visit(page, mock.url, "chat")
    expect(page.locator("#request")).to_be_visible()
    open_chats(page)
    expect(page.locator("#request")).to_be_hidden()
    page.set_viewport_size({"width": 1680, "height": 1000})
    for panel in ("#chats", "#request"):
        expect(page.locator(panel)).to_be_visible()
    page.set_viewport_size({"width": 390, "height": 844})
    for panel in ("#chats", "#request"):
        expect(page.locator(panel)).to_be_hidden()


def test_two_tabs_do_not_overwrite_each_other(page: Page, mock: MockServer) -> None:
    visit(page, mock.url, "chat")
    say(page, "one")
    other = page.context.new_page()
    visit(other, mock.url, "chat")
    open_chats(other)
    other.locator("#chat-list .open").click()
    say(page, "here")
    say(other, "there")
    found = [json.loads(text)["messages"] for text in stored(page).values()]
    said = sorted([one["content"] for one in messages] for messages in found)
    assert said == [
        ["one", " after 1", "here", " after 3"],
        ["one", " after 1", "there", " after 3"],
    ]
    assert titles(page) == titles(other) == ["one", "one"]
    say(other, "still there")
    assert len(stored(page)) == 2, "it goes on under its own name"


def test_what_is_kept_has_no_key_and_no_traces(page: Page, mock: MockServer) -> None:
    mock.key = KEY
    visit(page, mock.url, "chat")
    page.locator("#key").fill(KEY)
    page.keyboard.press("Tab")
    expect(page.locator("#method-A")).to_be_visible()
    page.keyboard.press("Escape")
    race(page)
    say(page, "one")
    assert KEY not in json.dumps(page.evaluate("({...localStorage})"))
    (text,) = stored(page).values()
    chat = json.loads(text)
    assert set(chat) == {"form", "id", "name", "system", "changed", "messages"}
    assert [set(one) for one in chat["messages"]] == [
        {"role", "content"},
        {"role", "content", "isJson"},
    ]


BROKEN = [
    "",
    "{",
    "null",
    "[]",
    '"text"',
    '{"form": 1}',
    '{"form": 1, "name": "", "system": "", "changed": 1, "messages": []}',
    '{"form": 1, "name": "", "system": "", "changed": 1, "messages": [null]}',
    '{"form": 1, "name": "", "system": "", "changed": 1, "messages": [{"role": "user"}]}',
    '{"form": 1, "name": "", "system": "", "changed": 1, "messages":'
    ' [{"role": "assistant", "content": "", "tool_calls": [{}]}]}',
    '{"form": 1, "name": "", "system": "", "changed": 1, "messages":'
    ' [{"role": "wizard", "content": ""}]}',
    '{"form": 1, "name": 3, "system": "", "changed": 1, "messages":'
    ' [{"role": "user", "content": "a"}]}',
    '{"form": 2, "name": "", "system": "", "changed": 1, "messages":'
    ' [{"role": "user", "content": "from another version"}]}',
]


def test_storage_that_is_broken_or_of_another_version_breaks_nothing(
    page: Page, mock: MockServer
) -> None:
    visit(page, mock.url, "chat")
    for number, text in enumerate(BROKEN):
        page.evaluate("([k, t]) => localStorage.setItem(k, t)", [f"mtad-chat-{number}", text])
    page.evaluate("sessionStorage.setItem('mtad-open', '3')")
    again(page)
    assert titles(page) == []
    say(page, "one")
    assert titles(page) == ["one"]
    assert len(stored(page)) == len(BROKEN) + 1, "what it does not know it leaves alone"


FILL = """() => {
    for (let size = 1 << 23; size >= 1; size /= 2) {
        try { localStorage.setItem("other", (localStorage.other ?? "") + "x".repeat(size)); }
        catch {}
    }
}"""


def test_a_full_storage_keeps_what_it_has_and_says_so(page: Page, mock: MockServer) -> None:
    visit(page, mock.url, "chat")
    say(page, "one")
    open_chats(page)
    page.evaluate(FILL)
    say(page, "two")
    expect(page.locator("#chat-trouble")).to_be_visible()
    button = page.get_by_role("button", name="Chats", exact=True)
    expect(button).to_have_accessible_description("This chat is not kept.")
    expect(page.locator(".lane .prose")).to_have_text("after 3")
    (text,) = stored(page).values()
    assert len(json.loads(text)["messages"]) == 2
    page.evaluate("localStorage.removeItem('other')")
    say(page, "three")
    expect(page.locator("#chat-trouble")).to_be_hidden()
    expect(button).to_have_accessible_description("")
    (text,) = stored(page).values()
    assert len(json.loads(text)["messages"]) == 6


def test_the_oldest_make_room(page: Page, mock: MockServer) -> None:
    visit(page, mock.url, "chat")
    page.evaluate(
        """() => {
            for (let i = 0; i < 120; i += 1) {
                const messages = [{ role: "user", content: `chat ${i}` }];
                const chat = { form: 1, name: "", system: "", changed: i, messages };
                localStorage.setItem(`mtad-chat-${i}`, JSON.stringify(chat));
            }
        }"""
    )
    say(page, "one")
    assert titles(page) == ["one", *(f"chat {i}" for i in range(119, 20, -1))]
    again(page)
    page.evaluate("localStorage.setItem('mtad-chat-1', localStorage['mtad-chat-119'])")
    long = "w" * 1_999_000
    page.evaluate(
        """(content) => {
            const chat = JSON.parse(localStorage["mtad-chat-119"]);
            chat.messages = [{ role: "user", content }];
            localStorage["mtad-chat-119"] = JSON.stringify(chat);
        }""",
        long,
    )
    say(page, "two")
    assert len(titles(page)) < 15, "the long one leaves little room for older ones"


def test_without_storage_chats_last_as_long_as_the_page(
    chromium: Browser, mock: MockServer
) -> None:
    context = chromium.new_context()
    context.add_init_script(
        "for (const name of ['localStorage', 'sessionStorage'])"
        " Object.defineProperty(window, name, {get() { throw new Error('blocked'); }});"
    )
    page = context.new_page()
    visit(page, mock.url, "chat")
    say(page, "one")
    begin_another(page)
    say(page, "two")
    assert titles(page) == ["two", "one"]
    again(page)
    assert titles(page) == []
    context.close()
