"""The form of an answer beside calls, in the grammar of both.

The first characters decide whether a text is an answer or a call, in the grammar and for the reader
of the text; so an answer must not begin as calls do. Knows no request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from mtad.errors import GrammarError
from mtad.grammar.grammar import Grammar
from mtad.grammar.json_schema import as_read
from mtad.grammar.matcher import WHITESPACE, TokenGrammars
from mtad.server.api.tool_parsers.families import Family
from mtad.server.api.tool_parsers.thinking import BEGIN

_BLANKS = (" ", "\t", "\n", "\r")
_ESCAPES = {"/": r"\/", "\n": r"\n", "\r": r"\r"}
_MOST_COMMON = 1
"""Characters that a text of a user's grammar may share with a mark: from two on, whichever symbol
is longer hides the other."""


def begins_of(family: Family, *, thinks: bool, opened: bool) -> list[str]:
    """What an answer that is not JSON cannot begin with, besides blanks.

    Args:
        family: how calls are written.
        thinks: whether thinking may come first, after which blanks belong to nothing.
        opened: whether the prompt ends within the thinking.
    """
    bare = ["{", "["][: 1 if family.in_list == "never" else 2] if family.is_bare else []
    thinking = [*_BLANKS, *([] if opened else [BEGIN])] if thinks else []
    return [*family.begins, *bare, *thinking]


def json_of(schema: Any, blanks: str) -> str:
    """JSON of a schema, in a rule.

    Raises:
        GrammarError: the schema has something that no text would be held to.
    """
    return f"%json {json.dumps(as_read(schema, blanks))}"


def answer_lines(form: Grammar, begins: Sequence[str]) -> Iterator[str]:
    """The rules of an answer; a grammar of the user's has names of its own.

    Raises:
        GrammarError: a schema has something that no text would be held to.
    """
    if form.kind == "json_schema":
        yield f"answer: {json_of(json.loads(form.source), WHITESPACE)}"
    elif form.kind == "regex":
        yield f"answer: ANSWER\n{_narrowed(form, begins)}"
    elif form.kind == "choice":
        yield "answer: " + " | ".join(map(json.dumps, json.loads(form.source)))
    else:
        yield "answer: @answer"


def refuse_alike(
    form: Grammar,
    begins: Sequence[str],
    grammars: TokenGrammars,
    eos: Collection[int],
    effort: int | None = None,
) -> None:
    """Refuse the form of an answer that begins as calls do.

    Args:
        form: of the answer.
        begins: what it cannot begin with.
        grammars: of the tokenizer.
        eos, effort: see `TokenGrammars.begin`.

    Raises:
        GrammarError: it begins like a call, or cannot be honoured at all.
    """
    grammars.begin(form, eos, effort)
    found: str | None = None
    if form.kind == "regex":
        rest = Grammar.lark(f"start: ANSWER\n{_narrowed(form, begins)}")
        found = None if _has_texts(rest, grammars, eos, effort) else form.source
    elif form.kind == "choice":
        found = next((t for t in json.loads(form.source) if _begun(t, begins)), None)
    elif form.kind == "grammar":
        texts = [f"{blank}{one[: _MOST_COMMON + 1]}" for one in begins for blank in ("", " ", "\n")]
        found = next((text for text in texts if grammars.allows(form, text, effort)), None)
    if found is not None:
        raise GrammarError(
            f"beside tools that may be called an answer cannot begin as calls do, here {found!r}, "
            'since it would be read as a call: give another form, or tool_choice "none"'
        )


def _has_texts(
    grammar: Grammar, grammars: TokenGrammars, eos: Collection[int], effort: int | None
) -> bool:
    """Whether anything satisfies a grammar."""
    try:
        excluded = grammars.begin(grammar, eos, effort).excluded(())
    except GrammarError:  # which is what llguidance says where nothing does
        return False
    return excluded is not None and not excluded.all()


def _begun(text: str, begins: Sequence[str]) -> bool:
    """Whether a text begins as calls do, blanks aside."""
    return any(text.startswith(one) or text.lstrip().startswith(one) for one in begins)


def _narrowed(form: Grammar, begins: Sequence[str]) -> str:
    """A regular expression without the texts that begin as calls do, as a symbol."""
    own = re.sub(r"(?s)\\.|[/\n\r]", lambda found: _ESCAPES.get(found[0], found[0]), form.source)
    alike = "|".join(re.escape(one) if one.strip() else r"\s" for one in begins)
    return rf"ANSWER: /{own}/ & ~/\s*({alike})(.|\n)*/"
