"""The page on the real server with the embedded pair."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from support.steps import DONE, chat, race, run, settings, sideways, view, visit
from support.tiny import heat_of, honours

from mtad import demo, methods
from mtad.api.pair import ModelPair

pytestmark = pytest.mark.browser
pytest_plugins = ["support.browsing"]

PROMPT = demo.heldout("sql")[0]["prompt"]
QUESTION = demo.heldout("chat")[1]["messages"][0]["content"]
SAMPLING = {"temperature": 1.0, "top_k": 10, "top_p": 0.9, "max_new_tokens": 24}


def set_up(page: Page, url: str, seed: int = 3) -> None:
    """The page with the settings of these tests."""
    visit(page, url)
    set_up_here(page, seed)


def set_up_here(page: Page, seed: int = 3) -> None:
    """The settings of these tests on a page that is open."""
    page.locator("#prompt").fill(PROMPT)
    settings(page)
    page.locator("#max_tokens").fill(str(SAMPLING["max_new_tokens"]))
    page.locator("#seed").fill(str(seed))


def shown(page: Page, lane: int = 0) -> str:
    """The text of a lane."""
    return page.locator(".lane .text").nth(lane).text_content() or ""


def test_a_prompt_streams_with_colours_and_a_tree(
    page: Page, live_url: str, demo_pair: ModelPair
) -> None:
    set_up(page, live_url)
    run(page)
    expected = demo_pair.generate(PROMPT, "mtad", seed=3, **SAMPLING)[0]
    assert shown(page) == expected.text
    accepted = page.locator(".text .token.draft")
    assert accepted.count() == expected.stats.num_accepted_draft_tokens
    expect(page.locator(".text .token")).to_have_count(len(expected.token_ids))
    expect(page.locator(".mean")).to_have_text(f"{expected.stats.mean_acceptance_length:.2f}")
    expect(page.locator(".badge")).to_have_text("lossy · threshold 0.5")
    expect(page.locator(".energy")).to_have_text("not metered")
    expect(page.locator(".rule")).not_to_be_empty()
    accepted.first.click()
    expect(page.locator("#tip dd").nth(1)).to_have_text(re.compile(r"^[<>]?[\d.]+ %$"))
    drawing = page.locator("#inspector svg.tree")
    first = expected.blocks[0]
    expect(drawing.locator(".node.accepted")).to_have_count(first.num_accepted)
    expect(drawing.locator(".node.not-proposed").first).to_be_visible()
    expect(drawing.locator(".node.endpoint")).to_have_count(1)


@pytest.mark.parametrize("name", methods.names())
def test_every_method_can_be_watched(
    page: Page, live_url: str, demo_pair: ModelPair, name: str
) -> None:
    set_up(page, live_url)
    page.locator("#method-A").select_option(name)
    sampling = dict(SAMPLING)
    if not honours(methods.find(name)(), temperature=0.0, top_k=10, top_p=0.9):
        sampling |= {"top_k": 0, "top_p": 1.0}
        page.locator("#top_k").fill("0")
        page.locator("#top_p").fill("1")
    if not heat_of(name):
        sampling["temperature"] = 0.0
        page.locator("#temperature").fill("0")
    run(page)
    expect(page.locator(".lane").get_by_role("alert")).to_be_hidden()
    expected = demo_pair.generate(PROMPT, name, seed=3, guard=False, **sampling)[0]
    assert shown(page) == expected.text
    expect(page.locator("#inspector h2")).to_contain_text(f"of {len(expected.blocks)}")
    for number in range(len(expected.blocks), 0, -1):
        expect(page.locator("#inspector h2")).to_contain_text(f"Iteration {number} of")
        drawing = page.locator("#inspector svg.tree")
        names = drawing.locator(".node:is(.accepted, .endpoint, .target) .name")
        block = page.locator(f'.text [data-iteration="{number - 1}"]')
        assert names.count() == block.count(), "the path of the tree is the block"
        page.locator("#inspector .canvas").first.press("ArrowLeft")


def test_two_methods_race(page: Page, live_url: str, demo_pair: ModelPair) -> None:
    set_up(page, live_url)
    race(page)
    run(page)
    for lane, name in enumerate(["mtad", "speculative_sampling"]):
        expected = demo_pair.generate(PROMPT, name, seed=3, guard=False, **SAMPLING)[0]
        assert shown(page, lane) == expected.text
    marks = page.locator(".mark").all_text_contents()
    assert sorted(mark.split()[0].strip("0123456789.") for mark in marks) == ["+", "first"]
    expect(page.locator(".badge").nth(1)).to_have_text("lossless")


def test_a_chat_of_two_turns(page: Page, live_url: str, demo_pair: ModelPair) -> None:
    set_up(page, live_url)
    chat(page)
    said: list[dict[str, str]] = []
    for text in (QUESTION, "Now put it in the future tense."):
        said.append({"role": "user", "content": text})
        page.locator("#prompt").fill(text)
        run(page)
        answer = demo_pair.generate([said], "mtad", seed=3, guard=False, **SAMPLING)[0].text
        assert shown(page) == answer
        said.append({"role": "assistant", "content": answer})
    assert page.locator("#history .said").all_text_contents() == [m["content"] for m in said[:-1]]


def test_an_error_of_the_server_is_shown(page: Page, live_url: str) -> None:
    set_up(page, live_url)
    page.locator("#max_tokens").fill("100000")
    run(page)
    alert = page.locator(".lane").get_by_role("alert")
    expect(alert).to_contain_text("100000")
    expect(alert).to_contain_text("(400)")
    page.locator("#max_tokens").fill("8")
    page.get_by_text("Options", exact=True).click()
    page.locator("#A-beam_width").fill("0")
    run(page)
    expect(alert).to_contain_text("beam_width is 0")


def test_html_in_a_prompt_is_never_run(page: Page, live_url: str) -> None:
    nasty = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='h'</script>"
    set_up(page, live_url)
    chat(page)
    page.locator("#prompt").fill(nasty)
    run(page)
    expect(page.locator("#history .user .said")).to_have_text(nasty)
    assert page.locator("main img, main script").count() == 0
    assert page.title() == "mtad playground"


def bodies(page: Page) -> list[dict[str, Any]]:
    """The requests for texts from now on, as they are sent."""
    sent: list[dict[str, Any]] = []
    page.on("request", lambda one: sent.append(json.loads(one.post_data or "{}")))
    return sent


def shown_json(page: Page, place: str) -> Any:
    """What a block of code shows, read as JSON."""
    return json.loads(page.locator(f"{place} pre").text_content() or "")


def test_a_tool_is_called_and_its_result_told(page: Page, live_url: str) -> None:
    visit(page, live_url, "chat")
    page.get_by_role("button", name="Example: Tools").click()
    page.get_by_label("Calls of tools").select_option("required")
    page.locator("#seed").fill("3")
    page.locator("#prompt").fill("What is the weather in Paris?")
    sent = bodies(page)
    run(page)
    expect(page.locator(".lane .call")).to_contain_text("Calls get_weather")
    called = shown_json(page, ".lane .call")
    assert list(called) == ["city"] and isinstance(called["city"], str)
    page.get_by_label("Calls of tools").select_option("none")
    page.locator("#max_tokens").fill("8")
    page.get_by_label("Result of get_weather").fill('{"celsius": 18,\n"sky": "clear"}')
    page.get_by_role("button", name="Send results").click()
    expect(page.locator("#history .tool .said")).to_have_text('{"celsius": 18,\n"sky": "clear"}')
    expect(page.locator(DONE)).to_be_attached(timeout=60_000)
    expect(page.locator(".lane").get_by_role("alert")).to_be_hidden()
    expect(page.locator(".lane .prose")).not_to_be_empty()
    first, second = [body for body in sent if "messages" in body]
    assert (first["tool_choice"], second["tool_choice"]) == ("required", "none")
    _, call, result = second["messages"]
    assert result["tool_call_id"] == call["tool_calls"][0]["id"]
    expect(page.locator("#history .call")).to_have_count(1)


def test_a_call_waits_for_its_result_over_a_reload(page: Page, live_url: str) -> None:
    visit(page, live_url, "chat")
    page.get_by_role("button", name="Example: Tools").click()
    page.get_by_label("Calls of tools").select_option("required")
    page.locator("#prompt").fill("What is the weather in Paris?")
    run(page)
    called = shown_json(page, ".lane .call")
    page.reload()
    expect(page.locator("html[data-ready]")).to_be_attached()
    assert shown_json(page, "#history .call") == called
    page.locator("#max_tokens").fill("8")
    page.get_by_label("Result of get_weather").fill("rain")
    page.keyboard.press("Enter")
    expect(page.locator(".lane .prose")).not_to_be_empty()
    expect(page.locator(".lane").get_by_role("alert")).to_be_hidden()


def test_an_answer_is_held_to_a_schema(page: Page, live_url: str) -> None:
    visit(page, live_url, "chat")
    page.get_by_role("button", name="Example: JSON schema").click()
    page.locator("#seed").fill("3")
    page.locator("#prompt").fill("Tell me of Paris.")
    run(page)
    expect(page.locator(".lane").get_by_role("alert")).to_be_hidden()
    answer = shown_json(page, ".lane .prose")
    assert isinstance(answer["city"], str) and isinstance(answer["population"], int)
    assert len(answer) == 2
    view(page, "Tokens")
    assert json.loads(shown(page)) == answer


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(page: Page, live_url: str, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": 360, "height": 740})
    visit(page, live_url)
    set_up_here(page)
    race(page)
    run(page)
    assert sideways(page) <= 0
    expect(page.locator(".lane").first).to_be_in_viewport()
