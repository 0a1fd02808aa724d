"""Markdown of models as elements, and that nothing in it is ever run, loaded or followed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from support.mock_server import MockServer, record, serve, streamed, told
from support.steps import chat, run, visit

pytestmark = pytest.mark.browser
pytest_plugins = ["support.browsing"]


@pytest.fixture(scope="module")
def tab(chromium: Browser) -> Iterator[Page]:
    """One tab for all tests of the renderer alone; it loads nothing from elsewhere."""
    running = serve(MockServer().app())
    url = next(running)
    context = chromium.new_context()
    strange: list[str] = []
    context.on("request", lambda one: one.url.startswith(url) or strange.append(one.url))
    page = context.new_page()
    page.on("pageerror", lambda error: strange.append(str(error)))
    visit(page, url)
    yield page
    context.close()
    next(running, None)
    assert not strange


SHOW = """async ([text, ways]) => {
    const { showMarkdown } = await import("/page/markdown.js");
    const box = document.createElement("div");
    for (const end of ways) showMarkdown(box, text.slice(0, end));
    showMarkdown(box, text);
    for (const head of box.querySelectorAll(".code-head")) head.remove();
    return box.innerHTML;
}"""


def shown(page: Page, text: str, ways: tuple[int, ...] = ()) -> str:
    """The HTML of a text, after its beginnings of these lengths have been shown in the same box."""
    return str(page.evaluate(SHOW, [text, list(ways)]))


PLAIN = [
    ("One\n\nTwo", "<p>One</p><p>Two</p>"),
    ("a\nb", "<p>a<br>b</p>"),
    ("**b** *i* `c` ~~g~~", "<p><strong>b</strong> <em>i</em> <code>c</code> <del>g</del></p>"),
    ("__b__ and _i_", "<p><strong>b</strong> and <em>i</em></p>"),
    ("__a b__ _c d_ x_y_z", "<p><strong>a b</strong> <em>c d</em> x_y_z</p>"),
    ("***both***", "<p><strong><em>both</em></strong></p>"),
    ("**b *i* b**", "<p><strong>b <em>i</em> b</strong></p>"),
    ("a_long_name 2 * 3 * 4 **", "<p>a_long_name 2 * 3 * 4 **</p>"),
    ("\\*no\\* and `**no**`", "<p>*no* and <code>**no**</code></p>"),
    ("`` a`b ``", "<p><code>a`b</code></p>"),
    ("# A\n## B\ntext", "<h3>A</h3><h4>B</h4><p>text</p>"),
    ("- a\n- b", "<ul><li>a</li><li>b</li></ul>"),
    ("* a\n\n* b", "<ul><li>a</li><li>b</li></ul>"),
    ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
    ("1. a\n   - x\n   - y\n2. b", "<ol><li>a<ul><li>x</li><li>y</li></ul></li><li>b</li></ol>"),
    ("- a\n    - x", "<ul><li>a<ul><li>x</li></ul></li></ul>"),
    ("> q\n> r", "<blockquote><p>q<br>r</p></blockquote>"),
    ("a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"),
    ("5 - 3\n2 > 1", "<p>5 - 3<br>2 &gt; 1</p>"),
    ("text:\n- a", "<p>text:</p><ul><li>a</li></ul>"),
    ("", ""),
    ("   \n\n", ""),
]


@pytest.mark.parametrize(("text", "html"), PLAIN)
def test_markdown_becomes_elements(tab: Page, text: str, html: str) -> None:
    assert shown(tab, text) == html
    assert shown(tab, text.replace("\n", "\r\n")) == html


def test_a_table(tab: Page) -> None:
    html = shown(tab, "| a | b |\n|---|:-:|\n| 1 | **2** |\n\nafter")
    assert "<th>a</th><th>b</th>" in html
    assert "<td>1</td><td><strong>2</strong></td>" in html
    assert html.endswith("</div><p>after</p>")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```py\nx = '*a*'\n\n# not a heading\n```\nafter", "x = '*a*'\n\n# not a heading"),
        ("~~~\n```\n~~~", "```"),
        ("````\n```\n````", "```"),
        ("```sql\nSELECT 1", "SELECT 1"),  # while it comes
        ("- a\n\n  ```py\n  if x:\n      y\n  ```", "if x:\n    y"),
        ("> ```\n> quoted\n> ```", "quoted"),
        ("```\n<b>&amp;</b>\n```", "<b>&amp;</b>"),
    ],
)
def test_code_stays_as_it_is(tab: Page, text: str, code: str) -> None:
    read = "h => new DOMParser().parseFromString(h, 'text/html').querySelector('pre').textContent"
    found = tab.evaluate(read, shown(tab, text))
    assert found == code


COLOURS = """async ([text, language]) => {
    const { codeElement } = await import("/page/code.js");
    const code = codeElement(text, language);
    const spans = [...code.querySelectorAll("span")];
    return [code.textContent, spans.map((one) => [one.className, one.textContent])];
}"""


@pytest.mark.parametrize(
    ("language", "code", "known"),
    [
        ("python", "def f(x):  # one\n    return 'a'", ["code-keyword", "code-comment"]),
        ("py", "x = 12", ["code-number"]),
        ("sql", "SELECT 1;", ["code-keyword"]),
        ("html", "<b>x</b><script>let a = 1;</script>", ["code-name", "code-keyword"]),
        ("json", '{"a": [1', ["code-attr", "code-number"]),  # while it comes
        ("html", "<img src=x onerror=\"document.title='hacked'\">", ["code-attr"]),
        ("python", "def f(): x => 1 </ ?", ["code-keyword"]),  # what its grammar forbids
        ("no-such-language", "let x", []),
        ("", "let x", []),
        ("constructor", "let x", []),
    ],
)
def test_code_is_coloured_and_its_text_stays(
    tab: Page, language: str, code: str, known: list[str]
) -> None:
    for _ in range(2):  # the second is the one that was kept
        text, spans = tab.evaluate(COLOURS, [code, language])
        assert text == code
        assert set(known) <= {name for name, _ in spans}
        assert bool(spans) == bool(known)


def test_code_in_a_text_has_its_colours(tab: Page) -> None:
    assert '<span class="code-keyword">def</span>' in shown(tab, "```python\ndef f(): pass\n```")
    assert "code-" not in shown(tab, "```\ndef f(): pass\n```").replace('class="code"', "")


def test_a_long_code_stays_plain(tab: Page) -> None:
    text, spans = tab.evaluate(COLOURS, ["def f(): pass\n" * 3000, "python"])
    assert len(text) == 42_000
    assert spans == []


ATTACKS = [
    "<script>document.title='hacked'</script>",
    "<img src=x onerror=\"document.title='hacked'\">",
    "**<svg onload=\"document.title='hacked'\">**",
    "[click](javascript:document.title='hacked')",
    "[click](JaVaScRiPt:document.title='hacked')",
    "[click](java\tscript:document.title='hacked')",
    "[click](&#106;avascript:document.title='hacked')",
    "[click](data:text/html,<script>1</script>)",
    "[click](vbscript:x)",
    "[click](file:///etc/passwd)",
    "[click](//evil.example)",
    "[click](/v1/models)",
    "![x](http://evil.example/pixel.png)",
    '[x](http://evil.example/" onmouseover="document.title=1)',
    "[x](http://a.example 'x' onclick=y)",
    "`<img src=x onerror=1>`",
    "```<img src=x>\n<img src=x onerror=\"document.title='hacked'\">\n```",
    "```html\n<img src=x onerror=\"document.title='hacked'\"><script>x</script>\n```",
    "| <img src=x> |\n|---|\n| <script>1</script> |",
    "- <iframe src=http://evil.example></iframe>",
    "> <style>*{display:none}</style>",
    "# <a href=javascript:1>x</a>",
    "<http://evil.example>",
    "[a](http://[)",
]

ELEMENTS = """async (text) => {
    const { showMarkdown } = await import("/page/markdown.js");
    const box = document.createElement("div");
    document.querySelector("main").append(box);
    showMarkdown(box, text);
    const all = [...box.querySelectorAll("*")];
    return {
        names: all.map((e) => e.localName),
        attributes: all.flatMap((e) => [...e.attributes].map((a) => a.name)),
        links: all.filter((e) => e.localName === "a").map((e) => e.href),
        rels: all.filter((e) => e.localName === "a").map((e) => e.rel),
        text: box.textContent,
    };
}"""
NAMES = {
    *("p", "br", "strong", "em", "del", "code", "a", "pre", "div", "span", "button", "ul", "ol"),
    *("li", "blockquote", "hr", "table", "thead", "tbody", "tr", "th", "td"),
    *("h3", "h4", "h5", "h6"),
}


@pytest.mark.parametrize("text", ATTACKS)
def test_attacks_are_text(tab: Page, text: str) -> None:
    made: dict[str, Any] = tab.evaluate(ELEMENTS, text)
    assert set(made["names"]) <= NAMES
    assert set(made["attributes"]) <= {
        "class",
        "tabindex",
        "type",
        "href",
        "target",
        "rel",
        "start",
    }
    assert all(link.startswith(("http://", "https://")) for link in made["links"])
    assert all("noopener" in rel for rel in made["rels"])
    assert tab.title() == "mtad playground"


def test_links_to_the_web_are_links(tab: Page) -> None:
    text = "[a](https://a.example/x_(y)) and http://b.example/c, or [d](HTTPS://d.example 'no')."
    made: dict[str, Any] = tab.evaluate(ELEMENTS, text)
    assert made["links"] == ["https://a.example/x_(y)", "http://b.example/c"]
    assert made["text"].startswith("a and http://b.example/c, or [d]")


def test_an_attack_in_a_chat_stays_text(page: Page, mock: MockServer) -> None:
    text = "\n\n".join(ATTACKS)
    pieces = [text[i : i + 7] for i in range(0, len(text), 7)]
    rows = [record(i, [], piece) for i, piece in enumerate(pieces)]
    mock.answer = lambda body: streamed(told(body, rows))
    visit(page, mock.url)
    chat(page)
    page.locator("#prompt").fill(text)
    run(page)
    page.locator("#prompt").fill("go on")
    run(page)
    expect(page.locator("#history .prose")).to_contain_text("document.title='hacked'")
    assert page.locator("main :is(img, script, svg:not(.chart, .tree), iframe, style)").count() == 0
    assert page.title() == "mtad playground"


def test_a_text_that_grows_ends_as_one_that_came_whole(tab: Page) -> None:
    text = "# A\n\n**b** `c`\n\n1. x\n2. y\n\n```py\nz\n```\n\n> q\n\n| a |\n|---|\n| 1 |\n\nend"
    assert shown(tab, text, tuple(range(len(text)))) == shown(tab, text)


def test_blocks_that_are_there_are_not_drawn_again(tab: Page) -> None:
    assert tab.evaluate(
        """async () => {
            const { showMarkdown } = await import("/page/markdown.js");
            const box = document.createElement("div");
            showMarkdown(box, "One.\\n\\n```\\ntwo\\n```\\n\\nThr");
            const before = [...box.childNodes];
            showMarkdown(box, "One.\\n\\n```\\ntwo\\n```\\n\\nThree.");
            return [...box.childNodes].map((node, i) => node === before[i]);
        }"""
    ) == [True, True, False]


@pytest.mark.parametrize(
    "text",
    [
        *("*" * 20_000, "`" * 20_000, "[" * 20_000, "**a " * 5_000, "_a_" * 5_000, ">" * 5_000),
        *("- " * 5_000, "![](" * 5_000, "`a ``b " * 3_000, "http://" * 3_000, "|" * 20_000),
        *("```python\n" + "'" * 19_000, "```html\n" + "<a " * 6_000, "```js\n" + "/*`${" * 3_800),
        *("|-" * 5_000 + "\n" + "|-" * 5_000, "\n".join(" " * i + "- a" for i in range(300))),
    ],
    ids=lambda text: text[:6],
)
def test_odd_texts_take_no_long_time(tab: Page, text: str) -> None:
    took = tab.evaluate(
        """async (text) => {
            const { showMarkdown } = await import("/page/markdown.js");
            const began = performance.now();
            showMarkdown(document.createElement("div"), text);
            return performance.now() - began;
        }""",
        text,
    )
    assert took < 3000
