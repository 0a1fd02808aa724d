"""The Python code in a model's answer to a prompt that is the head of a function.

The first that there is:

1. of the fenced blocks, the last that defines the function: a module, which takes the place of the
   prompt's function. Blocks of another language count only where none is Python or nameless;
2. without fences, the lines of the text that define the function;
3. of the fenced blocks, the first that continues the prompt; without fences, the text itself.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from dataclasses import dataclass
from typing import Final

from mtad.tasks.answers import blocks, without_reasoning

_LANGUAGES: Final = ("", "python", "python3", "py", "py3", "pycon")
_HEAD: Final = re.compile(r"(?:from|import|def|async def|class)\s|@\w|\w+\s*=(?!=)")
_MAX_HEADS: Final = 50


@dataclass(frozen=True)
class Code:
    """The code of an answer.

    Attributes:
        text: the code; that of a module without its imports from `__future__`.
        future: these imports, for the first lines of a program.
        is_module: whether it defines the function itself; if not, it continues the prompt.
    """

    text: str
    future: str = ""
    is_module: bool = False

    def after(self) -> str:
        """What follows the prompt in a program of both."""
        return f"\n{self.text}" if self.is_module else self.text

    def program(self, prompt: str, entry_point: str) -> str:
        """The prompt with the code; a module takes the place of the prompt's function."""
        if not self.is_module:
            return prompt + self.text
        before = _definition(entry_point).split(prompt)[0]
        return f"{self.future}{before}\n{self.text}"


def find_code(answer: str, prompt: str, entry_point: str) -> Code:
    """The code in an answer; see the order above."""
    text = without_reasoning(answer)
    fenced = blocks(text)
    own = [block.text for block in fenced if block.language in _LANGUAGES]
    texts = own or [block.text for block in fenced]
    for block in reversed(texts or [_definition_in(text, entry_point)]):
        if _defines(block, entry_point):
            return _module(block)
    bodies = [_body(block) for block in texts or [text]]
    fitting = (body for body in bodies if _tree(prompt + body))
    return Code(next(fitting, bodies[0]))


def _module(text: str) -> Code:
    """A module; its imports from `__future__` stand apart, as they have to come first."""
    if not (tree := _tree(text)):
        return Code(text, is_module=True)
    future = [node for node in tree.body if _is_future(node)]
    if not future:
        return Code(text, is_module=True)
    tree.body = [node for node in tree.body if not _is_future(node)]
    lines = "".join(f"{ast.unparse(node)}\n" for node in future)
    return Code(ast.unparse(tree) + "\n", lines, is_module=True)


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _defines(text: str, entry_point: str) -> bool:
    """Whether the text defines the name at its top level, also where it cannot be parsed."""
    if not (tree := _tree(text)):
        return bool(_definition(entry_point).search(text))
    return any(entry_point in _names(node) for node in tree.body)


def _names(node: ast.stmt) -> list[str]:
    """The names that a statement gives to something."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _definition(entry_point: str) -> re.Pattern[str]:
    return re.compile(rf"^(?:async )?def {re.escape(entry_point)}\b", re.MULTILINE)


def _definition_in(text: str, entry_point: str) -> str:
    """The lines of a text without fences that are code and define the name, or ""."""
    lines = re.sub(r"`{3,}(?:python3?|py)?", "\n", text).splitlines(keepends=True)
    heads = [number for number, line in enumerate(lines) if _HEAD.match(line)][:_MAX_HEADS]
    codes = (_code_at(lines[number:]) for number in heads)
    return next((code for code in codes if _defines(code, entry_point)), "")


def _code_at(lines: list[str]) -> str:
    """The first lines, as many as can be parsed; what follows is prose."""
    while lines:
        try:
            _parsed("".join(lines))
        except SyntaxError as error:
            lines = lines[: min((error.lineno or 1) - 1, len(lines) - 1)]
        except (ValueError, RecursionError, MemoryError):
            return ""
        else:
            break
    return "".join(lines)


def _body(text: str) -> str:
    """The text as the lines of a function; those of a text that is not indented are."""
    body = text.strip("\n")
    return "\n" + (body if body.startswith((" ", "\t")) else textwrap.indent(body, "    "))


def _tree(text: str) -> ast.Module | None:
    """The parsed code, or None where it cannot be parsed."""
    try:
        return _parsed(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _parsed(text: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that a model wrote
        return ast.parse(text)
