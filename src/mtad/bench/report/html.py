"""A report as one HTML page that loads nothing: styles, tables and plots are in it."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from mtad.bench.report.canvas import Plot
from mtad.bench.report.table import Table
from mtad.errors import MtadError


def page(title: str, remarks: Sequence[str], tables: Sequence[Table], plots: Sequence[Plot]) -> str:
    """The page.

    Args:
        title: of the page.
        remarks: sentences above everything else.
        tables: the sections, each with a link at the top.
        plots: shown after the first section.

    Raises:
        MtadError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader
    except ImportError as error:
        raise MtadError("reports need jinja2: pip install jinja2") from error
    pages = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    pages.filters["base64"] = lambda data: base64.b64encode(data).decode()
    template = pages.get_template("page.html.jinja")
    return template.render(title=title, remarks=remarks, tables=tables, plots=plots)
