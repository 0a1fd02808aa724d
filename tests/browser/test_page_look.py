"""What the page shows of a text, and that it can be used by keyboard, small and in the dark."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from support.mock_server import Body, Event, MockServer, Record, record, story, streamed, told
from support.steps import DONE, chat, race, run, settings, sideways, visit

from mtad import demo

pytestmark = pytest.mark.browser
pytest_plugins = ["support.browsing"]


def show(page: Page, mock: MockServer, records: list[Record]) -> None:
    """Run a text of these iterations."""
    mock.answer = lambda body: streamed(told(body, records))
    visit(page, mock.url)
    run(page)


def tree(spec: list[tuple[int, int, str, bool, bool]]) -> Record:
    """An iteration of a token tree: (index, parent, text, accepted, proposed) of every node."""
    one = record(4, [], " end")
    depths = {0: 0}
    for index, parent, text, accepted, proposed in spec:
        depths[index] = depths[parent] + 1
        node = {"index": index, "token": index, "text": text, "parent": parent}
        node |= {"depth": depths[index], "alive": True, "accepted": accepted, "proposed": proposed}
        known = {"draft_logprob": -1.0, "target_logprob": -2.0 if proposed else None}
        one["nodes"].append({**node, **known, "joint_log_ratio": None})
        if accepted:
            token = {"token": index, "text": text, "origin": "draft", "node": index}
            one["tokens"].insert(-1, token)
    one["num_accepted"], one["num_drafted"] = len(one["tokens"]) - 1, len(spec)
    return one


BRANCHED = tree(
    [
        (1, 0, " a", True, True),
        (2, 0, " b", False, True),
        (3, 1, " aa", True, True),
        (4, 1, " ab", False, True),
        (5, 2, " ba", False, True),
        (6, 2, " bb", False, False),
    ]
)


def test_tokens_carry_their_origin_in_more_than_colour(page: Page, mock: MockServer) -> None:
    own = record(2, [" c"], None)
    own["tokens"][0]["origin"] = "target"
    show(page, mock, [record(0, [" a"], " b"), own])
    draft, endpoint, target = (page.locator(".text .token").nth(i) for i in range(3))
    for token, kind in [(draft, "draft"), (endpoint, "endpoint"), (target, "target")]:
        assert kind in (token.get_attribute("class") or "")
    looks = [
        token.evaluate(
            "e => [getComputedStyle(e).fontWeight, getComputedStyle(e).boxShadow,"
            " getComputedStyle(e).textDecorationLine].join()"
        )
        for token in (draft, endpoint, target)
    ]
    assert len(set(looks)) == 3


def test_a_card_tells_both_probabilities(page: Page, mock: MockServer) -> None:
    show(page, mock, [record(0, [" a"], " b"), record(2, [" c", " d"], " e")])
    page.locator(".text .token").nth(3).hover()
    card = page.locator("#tip")
    assert card.locator("p").all_text_contents() == ["·d", "accepted draft"]
    assert dict(
        zip(
            card.locator("dt").all_text_contents(),
            card.locator("dd").all_text_contents(),
            strict=True,
        )
    ) == {
        "target": "77.9 %",  # exp(-0.25)
        "draft": "60.7 %",  # exp(-0.5)
        "joint ratio": "1.65",  # exp(2 · 0.25)
        "position": "4",
        "iteration": "2",
    }
    page.locator(".text .token").nth(4).hover()
    expect(card).to_contain_text("endpoint")
    expect(card.locator("dd").first).to_have_text("49.7 %")  # exp(-0.7)
    page.mouse.move(2, 2)
    expect(card).to_be_hidden()


def test_figures_follow_the_iterations(page: Page, mock: MockServer) -> None:
    records = [record(0, [" a", " b"], " c", [" x"]), record(3, [], " d", [" y", " z", " w"])]
    records.append(record(4, [" e"], " f", [" v", " u"]))
    show(page, mock, records)
    expect(page.locator(".mean")).to_have_text("2.00")  # 1 + 3 / 3
    expect(page.locator(".share").first).to_have_text("3 / 9")
    expect(page.get_by_role("img", name="Acceptance by position")).to_have_attribute(
        "aria-label",
        "Acceptance by position. position 1: 66.7 %, position 2: 33.3 %, position 3: 0 %",
    )
    assert float(page.locator(".speed").text_content() or "") > 0
    expect(page.locator(".foot")).to_contain_text("queue 1 ms · prefill 12 ms · decode 300 ms")


def test_figures_of_a_text_that_broke_off_are_its_own(page: Page, mock: MockServer) -> None:
    records = [record(0, [" a", " b"], " c", [" x"]), record(3, [], " d", [" y", " z", " w"])]
    mock.answer = lambda body: streamed([*told(body, records)][:4])
    visit(page, mock.url)
    run(page)
    expect(page.locator(".mean")).to_have_text("2.00")  # 1 + 2 / 2
    expect(page.locator(".share").first).to_have_text("2 / 6")
    expect(page.locator(".energy")).to_have_text("–")


def test_rejected_drafts_stand_at_their_places(page: Page, mock: MockServer) -> None:
    show(page, mock, [BRANCHED, record(8, [" c"], " d", [" x", " y"])])
    text = page.locator(".text")
    expect(text).to_have_text(" a aa end c d", use_inner_text=False)
    page.get_by_label("Show rejected drafts").check()
    assert text.evaluate("e => [...e.children].map(c => `${c.tagName} ${c.textContent}`)") == [
        *("S  b ba", "SPAN  a", "S  ab", "SPAN  aa", "SPAN  end"),  # " bb" was not proposed
        *("SPAN  c", "S  x y", "SPAN  d"),
    ]
    page.get_by_label("Show rejected drafts").uncheck()
    expect(text.locator("s")).to_have_count(0)


def test_a_repeated_draft_was_not_rejected(page: Page, mock: MockServer) -> None:
    twice = tree(
        [
            (1, 0, " a", True, True),
            (2, 0, " a", False, True),
            (3, 0, " b", False, True),
            (4, 0, " b", False, True),
            (5, 2, " c", False, True),
        ]
    )
    twice["nodes"][1]["token"] = 1
    show(page, mock, [twice])
    page.get_by_label("Show rejected drafts").check()
    assert page.locator(".text s").all_text_contents() == [" b"]
    expect(page.locator(".tree .node.repeated")).to_have_count(2)
    expect(page.locator(".tree .node.rejected")).to_have_count(2)


def test_what_lay_beyond_a_cut_was_not_rejected(page: Page, mock: MockServer) -> None:
    cut = record(0, [" a"], None, [" x"])
    cut["finish_reason"] = "length"
    show(page, mock, [cut])
    page.get_by_label("Show rejected drafts").check()
    expect(page.locator(".text s")).to_have_count(0)
    expect(page.locator(".tree .node.cut-off")).to_have_count(1)


def test_the_tree_of_an_iteration(page: Page, mock: MockServer) -> None:
    show(page, mock, [record(0, [" q"], " r"), BRANCHED])
    page.locator(".text .token").nth(2).click()
    drawing = page.locator("#inspector svg.tree")
    kinds = drawing.locator(".node").evaluate_all("all => all.map(n => n.classList[1])")
    texts = drawing.locator(".node .name").all_text_contents()
    assert dict(zip(texts, kinds, strict=True)) == {
        ":": "root",
        "·a": "accepted",
        "·b": "rejected",
        "·aa": "accepted",
        "·ab": "rejected",
        "·ba": "rejected",
        "·bb": "not-proposed",
        "·end": "endpoint",
    }
    tops = drawing.locator(".node rect").evaluate_all("all => all.map(r => r.getAttribute('y'))")
    rows = dict(zip(texts, tops, strict=True))
    assert rows[":"] == rows["·a"] == rows["·aa"] == rows["·end"], "the path is a straight line"
    boxes = drawing.locator(".node rect").evaluate_all(
        "all => all.map(r => `${r.getAttribute('x')} ${r.getAttribute('y')}`)"
    )
    assert len(set(boxes)) == 8, "no box lies on another"
    assert page.locator("#inspector h2").text_content() == (
        "Iteration 2 of 2: 2 of 6 drafts accepted"
    )
    page.get_by_text("As a table").click()
    table = page.locator("#inspector tbody tr")
    expect(table).to_have_count(6)
    assert table.all_text_contents()[1] == "·b:36.8 %13.5 %–rejected"


def test_steps_through_iterations(page: Page, mock: MockServer) -> None:
    show(page, mock, [record(i, [], f" t{i}") for i in range(4)])
    heading = page.locator("#inspector h2")
    expect(heading).to_contain_text("Iteration 4 of 4")
    page.get_by_role("button", name="Previous").click()
    expect(heading).to_contain_text("Iteration 3 of 4")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(heading).to_contain_text("Iteration 1 of 4")
    page.keyboard.press("ArrowRight")
    expect(heading).to_contain_text("Iteration 2 of 4")
    expect(page.locator(".text .chosen")).to_have_text(" t1", use_inner_text=False)


def test_keyboard_alone(page: Page, mock: MockServer) -> None:
    mock.answer = lambda body: streamed(told(body, story(30)))
    visit(page, mock.url)
    order: list[str] = []
    for _ in range(30):
        page.keyboard.press("Tab")
        order.append(
            page.evaluate(
                "document.activeElement.id || document.activeElement.name"
                " || document.activeElement.textContent"
            )
        )
        outline = page.evaluate(
            """() => {
                const here = document.activeElement;
                const shown = here.type === "radio" ? here.nextElementSibling : here;
                return getComputedStyle(shown).outlineStyle;
            }"""
        )
        assert outline != "none", f"no focus to be seen on {order[-1]}"
        if order[-1] == "run":
            break
    wanted = ["theme", "mode", "lanes", "method-A", "temperature", "seed", "prompt", "SQL", "run"]
    assert [name for name in order if name in wanted] == wanted
    page.keyboard.press("Enter")
    expect(page.locator(DONE)).to_be_attached()
    while page.evaluate("document.activeElement.closest('.text') === null"):
        page.keyboard.press("Tab")
    expect(page.locator("#tip")).to_be_visible()
    texts = [page.evaluate("document.activeElement.textContent")]
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        texts.append(page.evaluate("document.activeElement.textContent"))
    assert texts == page.locator(".text .token").all_text_contents()[:4]
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "tip"
    page.keyboard.press("ArrowDown")
    here = page.evaluate("Number(document.activeElement.dataset.iteration) + 1")
    expect(page.locator("#inspector h2")).to_contain_text(f"Iteration {here} of")
    assert page.locator(".text [tabindex='0']").count() == 1, "a text is one stop of the Tab key"


def test_control_enter_runs_from_the_prompt(page: Page, mock: MockServer) -> None:
    visit(page, mock.url)
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator(".text .token").first).to_be_visible()
    assert len(mock.bodies) == 1


def test_controls_have_names(page: Page, mock: MockServer) -> None:
    visit(page, mock.url)
    race(page)
    chat(page)
    page.locator("#prompt").fill("hello")
    run(page)
    expect(page.get_by_role("button", name="Regenerate")).to_have_count(2)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("input, select, textarea, button")]
            .filter((e) => !e.labels?.length && !e.textContent.trim() && !e.ariaLabel)
            .map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    doubled = page.evaluate(
        """() => {
            const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
            return ids.filter((id, i) => ids.indexOf(id) !== i);
        }"""
    )
    assert doubled == []


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_sideways_scrolling(page: Page, mock: MockServer, width: int, scheme: str) -> None:
    long = record(0, ["w" * 300], " " + "x" * 300, ["y" * 300])
    mock.answer = lambda body: streamed(told(body, [long, *story(40), BRANCHED]))
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": width, "height": 800})
    visit(page, mock.url)
    assert sideways(page) <= 0
    page.get_by_label("Show rejected drafts").check()
    settings(page)
    race(page)
    page.locator("#method-A").select_option("mmtad")
    for box in page.get_by_text("Options", exact=True).all():
        box.click()
    assert sideways(page) <= 0
    run(page)
    page.locator(".text .token").nth(4).click()
    assert sideways(page) <= 0
    page.get_by_text("API key", exact=True).first.click()
    expect(page.locator("#key")).to_be_visible()
    assert sideways(page) <= 0


def contrast(page: Page, selector: str) -> float:
    """The contrast of an element's text with what lies behind it, as WCAG has it."""
    script = """(e) => {
        const parse = (c) => c.match(/[\\d.]+/g).map(Number);
        const behind = (n) => {
            const c = parse(getComputedStyle(n).backgroundColor);
            return c.length > 3 && c[3] === 0 ? behind(n.parentElement) : c;
        };
        const light = (c) => {
            const [r, g, b] = c.slice(0, 3).map((v) => v / 255)
                .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const pair = [light(parse(getComputedStyle(e).color)), light(behind(e))];
        return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    }"""
    return float(page.locator(selector).first.evaluate(script))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_themes(page: Page, mock: MockServer, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    mock.answer = lambda body: streamed(told(body, story(40)))
    visit(page, mock.url)
    page.get_by_label("Show rejected drafts").check()
    race(page)
    run(page)
    for selector in [
        *(".text .draft", ".text .endpoint", ".legend .target", ".text s", ".badge.lossy"),
        *(".badge.lossless", ".hint", "label", "#run", ".figures dt", ".rule", ".mark"),
    ]:
        assert contrast(page, selector) >= 4.5, selector


def test_themes(page: Page, mock: MockServer) -> None:
    def paper() -> str:
        return str(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))

    page.emulate_media(color_scheme="light")
    visit(page, mock.url)
    light = paper()
    page.emulate_media(color_scheme="dark")
    dark = paper()
    assert light != dark
    page.get_by_role("button", name="Theme: system").click()
    assert paper() == light
    page.reload()
    expect(page.get_by_role("button", name="Theme: light")).to_be_visible()
    assert paper() == light
    page.emulate_media(color_scheme="light")
    page.get_by_role("button", name="Theme: light").click()
    assert paper() == dark
    page.get_by_role("button", name="Theme: dark").click()
    assert paper() == light


def test_tokens_appear_while_the_stream_runs(page: Page, mock: MockServer) -> None:
    def endless(body: Body) -> Iterator[Event]:
        yield from told(body, story(1000), pause=0.05)

    mock.answer = lambda body: streamed(endless(body))
    visit(page, mock.url)
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(".text .token").nth(3)).to_be_visible()
    expect(page.locator("#inspector svg.tree")).to_be_visible()
    expect(page.locator(".mean")).not_to_have_text("–")
    assert page.locator(DONE).count() == 0
    page.keyboard.press("Escape")


def test_examples_are_held_out_prompts(page: Page, mock: MockServer) -> None:
    visit(page, mock.url)
    items = [item for name in demo.HELDOUT_NAMES for item in demo.heldout(name)]
    known = {item.get("prompt") or item["messages"][0]["content"] for item in items}
    buttons = page.locator("#examples button")
    assert buttons.count() == 4
    modes = []
    for i in range(4):
        buttons.nth(i).click()
        assert page.locator("#prompt").input_value() in known
        modes.append(page.locator("#prompt-label").text_content())
    assert modes == ["Prompt", "Prompt", "Message", "Prompt"]


def test_it_works_where_storage_is_blocked(chromium: Browser, mock: MockServer) -> None:
    context = chromium.new_context()
    context.add_init_script(
        "for (const name of ['localStorage', 'sessionStorage'])"
        " Object.defineProperty(window, name, {get() { throw new Error('blocked'); }});"
    )
    page = context.new_page()
    visit(page, mock.url)
    page.get_by_role("button", name="Theme: system").click()
    run(page)
    expect(page.locator(".text .token").first).to_be_visible()
    context.close()
