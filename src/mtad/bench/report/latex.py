"""Tables as LaTeX, for the package booktabs."""

from __future__ import annotations

from collections.abc import Sequence

from mtad.bench.report.table import Table

_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "#": r"\#",
        "%": r"\%",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        # after \\ a bracket would be read as an argument
        "[": "{[}",
        "–": "--",
        "−": "$-$",
        "×": r"$\times$",
        "±": r"$\pm$",
        "Σ": r"$\Sigma$",
        "τ": r"$\tau$",
        "α": r"$\alpha$",
        "γ": r"$\gamma$",
        "…": r"\ldots{}",
        "†": r"\textdagger{}",
    }
)


def latex(table: Table) -> str:
    """A floating table with its title as the caption and the note below it."""
    columns = "l" * table.num_labels + "r" * (len(table.headers) - table.num_labels)
    body = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(table.title)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _line(table.headers),
        r"\midrule",
        *map(_line, table.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if table.note:
        body.append(rf"\par\smallskip\footnotesize {escaped(table.note)}")
    return "\n".join([*body, r"\end{table}"]) + "\n"


def escaped(text: str) -> str:
    """The text with every character that LaTeX would act on escaped."""
    return " ".join(text.split()).translate(_ESCAPES)


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"
