"""A grammar over the tokens of a tokenizer, and how far a text of it has come.

llguidance parses the grammars and says which tokens may follow. It has a token's bytes, so that a
token may end within a string or span several symbols. Knows no model and no tree.
"""

from __future__ import annotations

import itertools
import json
from collections import OrderedDict
from collections.abc import Collection, Sequence
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer, grammar_from
from llguidance.hf import from_tokenizer

from mtad.core.prefix import NO_GRAMMAR
from mtad.errors import GrammarError, first_line
from mtad.grammar.grammar import Grammar
from mtad.grammar.json_schema import as_read

MOST_KEPT = 128
"""Compiled grammars that are kept, the least recently used leaving first."""
WHITESPACE = r"\x20|\x0A(\x20{1,32}|\x09{1,8})?"
"""Between the symbols of JSON: a blank, or a new line and its indentation. A model that is unsure
would go on with blanks for ever."""

_numbers = itertools.count(NO_GRAMMAR + 1)
_states: WeakValueDictionary[int, GrammarState] = WeakValueDictionary()
_grammars: WeakKeyDictionary[Any, dict[tuple[int, ...], TokenGrammars]] = WeakKeyDictionary()
"""By tokenizer, and then by the size of the vocabulary and the tokens that end texts."""
_lock = Lock()


class GrammarState:
    """How far a text has come in its grammar, and what may follow in drafts of it.

    Args:
        matcher: at the beginning of the text.
        vocab: V.
        ends: tokens that end the text, and may stand where it satisfies the grammar.
        never: tokens that may stand nowhere.

    Attributes:
        number: stands for it in tensors, see `Prefix.grammars`.
        is_finished: whether nothing can follow but an end.
    """

    def __init__(
        self, matcher: LLMatcher, vocab: int, ends: Collection[int], never: Collection[int]
    ) -> None:
        self._begin, self._vocab, self._ends, self._never = matcher, vocab, [*ends], [*never]
        self._nodes: dict[tuple[int, ...], tuple[LLMatcher, npt.NDArray[np.bool_]] | None] = {}
        self._matcher = matcher.deep_copy()
        self._forced: list[int] | None = None
        self.number = next(_numbers)
        self.is_finished = False
        _states[self.number] = self

    def restarted(self) -> GrammarState:
        """The same grammar at the beginning of a text."""
        return GrammarState(self._begin, self._vocab, self._ends, self._never)

    def push(self, token: int) -> bool:
        """Take a token of the text; true if the text is complete with it.

        Raises:
            GrammarError: the token may not stand there.
        """
        if not self._matcher.consume_token(token):
            raise GrammarError(f"token {token} cannot follow here: {_why(self._matcher)}")
        self._nodes.clear()
        self._forced = None
        self.is_finished = self._matcher.is_accepting() and self._matcher.is_stopped()
        return self.is_finished

    def forced(self) -> list[int]:
        """Tokens of the only text that can follow, as far as it is certain how it is tokenized."""
        if self._forced is None:
            self._forced = [] if self.is_finished else list(self._matcher.compute_ff_tokens())
        return self._forced

    def excluded(self, path: tuple[int, ...]) -> npt.NDArray[np.bool_] | None:
        """Which tokens may not follow after some more, (V,); None where these may not either."""
        node = self._at(path)
        return None if node is None else node[1]

    def _at(self, path: tuple[int, ...]) -> tuple[LLMatcher, npt.NDArray[np.bool_]] | None:
        """The state after some more tokens; each is made once, from that of its parent."""
        if path not in self._nodes:
            self._nodes[path] = self._made(path)
        return self._nodes[path]

    def _made(self, path: tuple[int, ...]) -> tuple[LLMatcher, npt.NDArray[np.bool_]] | None:
        matcher: LLMatcher = self._matcher
        if path:
            above = self._at(path[:-1])
            if above is None or above[1][path[-1]]:
                return None
            matcher = above[0].deep_copy()
            if matcher.try_consume_tokens([path[-1]]) == 0:  # an end of the text
                return None
        bits = ~np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        excluded = np.unpackbits(bits, count=self._vocab, bitorder="little").view(np.bool_)
        if matcher.is_error():
            raise GrammarError(f"the grammar cannot be followed further: {_why(matcher)}")
        excluded[self._never] = True
        excluded[self._ends] = not matcher.is_accepting()
        return matcher, excluded


def state_of(number: int) -> GrammarState:
    """The state with that number, which somebody must have."""
    return _states[number]


class TokenGrammars:
    """Grammars over the tokens of one tokenizer.

    Args:
        tokenizer: one of llguidance's.
    """

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self._tokenizer = tokenizer
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._lock = Lock()

    @classmethod
    def of(cls, tokenizer: Any, vocab: int, eos: Sequence[int]) -> TokenGrammars:
        """Those of a tokenizer of transformers; made once, which takes about a second.

        Args:
            tokenizer: a fast one.
            vocab: number of token ids in use.
            eos: the tokens that end the model's texts.

        Raises:
            GrammarError: there is no tokenizer, or one whose tokens llguidance cannot know.
        """
        with _lock:
            known = {} if tokenizer is None else _grammars.setdefault(tokenizer, {})
            key = (vocab, *eos)
            if key not in known:
                known[key] = cls(_wrapped(tokenizer, vocab, eos))
            return known[key]

    def begin(self, grammar: Grammar, eos: Collection[int]) -> GrammarState:
        """The state before the first token of a text.

        Args:
            grammar: what the text must be.
            eos: tokens that end it; those that are text stand for themselves besides.

        Raises:
            GrammarError: it is no grammar, or one that llguidance has no code for.
        """
        with self._lock:
            matcher = self._compiled.pop(grammar, None) or self._compile(grammar)
            self._compiled[grammar] = matcher
            while len(self._compiled) > MOST_KEPT:
                self._compiled.popitem(last=False)
        own = {*self._tokenizer.eos_tokens}
        ends = [t for t in eos if t in own or self._tokenizer.is_special_token(t)]
        vocab = self._tokenizer.vocab_size
        return GrammarState(matcher, vocab, ends, own.difference(ends))

    def allows(self, grammar: Grammar, begin: str) -> bool:
        """Whether a text of the grammar may begin so.

        Raises:
            GrammarError: as `begin`.
        """
        path = tuple(self._tokenizer.tokenize_str(begin))
        return self.begin(grammar, ()).excluded(path) is not None

    def _compile(self, grammar: Grammar) -> LLMatcher:
        name = grammar.kind.replace("_", " ").replace("json", "JSON")
        try:
            matcher = LLMatcher(self._tokenizer, _definition(grammar), log_level=0)
        except GrammarError:
            raise
        except ValueError as error:
            raise GrammarError(f"the {name} cannot be read: {first_line(error)}") from error
        if matcher.is_error():
            raise GrammarError(f"the {name} cannot be honoured: {_why(matcher)}")
        return matcher


def _wrapped(tokenizer: Any, vocab: int, eos: Sequence[int]) -> LLTokenizer:
    """Llguidance's form of a tokenizer."""
    if tokenizer is None:
        raise GrammarError("a grammar needs a tokenizer, and the models came without one")
    try:
        return from_tokenizer(tokenizer, n_vocab=vocab, eos_token=[*eos] or None)
    except Exception as error:  # whatever a tokenizer of another kind makes of it
        raise GrammarError(
            f"a grammar needs to know the bytes of each token, and {type(tokenizer).__name__} does "
            f"not say them: {first_line(error)}"
        ) from error


def _definition(grammar: Grammar) -> str:
    """A grammar as llguidance defines it."""
    if grammar.kind == "json_schema":
        schema = as_read(json.loads(grammar.source), WHITESPACE)
        return str(LLMatcher.grammar_from_json_schema(json.dumps(schema)))
    text = str(grammar_from(grammar.kind, grammar.source))
    if not grammar.named:
        return text
    named = [{"name": name, "lark_grammar": _definition(one)} for name, one in grammar.named]
    return json.dumps({"grammars": [{"lark_grammar": text}, *named]})


def _why(matcher: LLMatcher) -> str:
    """What is wrong, in one line."""
    first, *others = str(matcher.get_error()).strip().split("\n")
    return " ".join([first, *(line for line in others if line.startswith("error:"))])
