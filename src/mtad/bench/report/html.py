"""A report as one page that loads nothing: styles, tables and pictures are in it."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape

from mtad.bench.report.table import Table

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --line: #c8c8c8;
  --soft: #f2f2f2; --link: #0b57d0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #161616; --line: #454545; --soft: #242424; --link: #8ab4f8; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 1rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.5 system-ui, sans-serif; }
a { color: var(--link); }
nav ul { columns: 16rem; padding-left: 1.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.6rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; min-width: 5rem; }
th { background: var(--soft); }
th.label, td.label { text-align: left; }
tr > :first-child { position: sticky; left: 0; background: var(--paper); overflow-wrap: break-word;
  min-width: 8rem; max-width: 14rem; }
thead tr > :first-child { background: var(--soft); }
img { display: block; width: 100%; min-width: 40rem; height: auto; background: #ffffff;
  padding: 0.5rem; }
figure { margin: 1rem 0; overflow-x: auto; }
.warning { border-left: 0.25rem solid var(--link); padding-left: 0.75rem; }
"""


def page(
    title: str,
    warnings: Sequence[str],
    tables: Sequence[Table],
    pictures: Mapping[str, bytes],
    after: str,
) -> str:
    """The page.

    Args:
        title: of the page.
        warnings: sentences that stand above everything else.
        tables: the sections, each with a link at the top.
        pictures: SVG files by their captions.
        after: the slug of the section that the pictures follow.
    """
    links = [
        f'<li><a href="#{slug(table.slug)}">{escape(table.title)}</a></li>' for table in tables
    ]
    if pictures:
        links.insert(1, '<li><a href="#plots">Plots</a></li>')
    body = [f"<h1>{escape(title)}</h1>"]
    body += [f'<p class="warning">{escape(sentence)}</p>' for sentence in warnings]
    body += ["<nav><ul>", *links, "</ul></nav>"]
    for table in tables:
        body += _section(table)
        if table.slug == after and pictures:
            body += ['<h2 id="plots">Plots</h2>']
            body += [_picture(caption, svg) for caption, svg in pictures.items()]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            *body,
            "</body>",
            "</html>",
            "",
        ]
    )


def _section(table: Table) -> list[str]:
    note = [f"<p>{escape(table.note)}</p>"] if table.note else []
    return [
        f'<h2 id="{slug(table.slug)}">{escape(table.title)}</h2>',
        *note,
        f'<div class="scroll" role="region" aria-label="{escape(table.title)}" tabindex="0">',
        "<table>",
        "<thead>",
        _row(table.headers, table.num_labels, "th"),
        "</thead>",
        "<tbody>",
        *(_row(row, table.num_labels, "td") for row in table.rows),
        "</tbody>",
        "</table>",
        "</div>",
    ]


def _row(cells: Sequence[str], num_labels: int, tag: str) -> str:
    marked = [
        f"<{tag}{' class=label' if column < num_labels else ''}>{escape(text)}</{tag}>"
        for column, text in enumerate(cells)
    ]
    return f"<tr>{''.join(marked)}</tr>"


def _picture(caption: str, svg: bytes) -> str:
    data = base64.b64encode(svg).decode()
    source = f"data:image/svg+xml;base64,{data}"
    return (
        f'<figure><img src="{source}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def slug(text: str) -> str:
    """The text as the name of a section or file: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
