"""A grammar over the tokens of a tokenizer, and how far a text of it has come.

llguidance parses the grammars and says which tokens may follow. It has a token's bytes, so that a
token may end within a string or span several symbols. Knows no model and no tree.
"""

from __future__ import annotations

import itertools
import json
from collections import OrderedDict
from collections.abc import Collection, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, grammar_from
from llguidance.hf import from_tokenizer

from mtad.core.prefix import NO_GRAMMAR
from mtad.errors import GrammarError, first_line
from mtad.grammar.grammar import Grammar, JointGrammar
from mtad.grammar.json_schema import as_read

MOST_KEPT = 128
"""Compiled grammars that are kept, the least recently used leaving first."""
MOST_KEPT_CHARS = 2**20
"""Characters of all of them together; compiled, each may take some hundred bytes."""
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
        self._unmasked: dict[tuple[int, ...], GrammarError] = {}
        self._forced: list[int] | None = None
        self.number = next(_numbers)
        self.is_finished = False
        _states[self.number] = self

    def restarted(self) -> GrammarState:
        """The same grammar at the beginning of a text."""
        return GrammarState(self._begin, self._vocab, self._ends, self._never)

    def check(self) -> None:
        """Refuse a grammar of which it cannot be said what may follow here.

        Raises:
            GrammarError: nothing may, or it takes too much work.
        """
        self.excluded(())
        if error := self._unmasked.get(()):
            raise error

    def push(self, token: int) -> bool:
        """Take a token of the text; true if the text is complete with it.

        Raises:
            GrammarError: the token may not stand there, or it was not certain what may.
        """
        if error := self._unmasked.get(()):
            raise error
        if not self._matcher.consume_token(token):
            raise GrammarError(f"token {token} cannot follow here: {_why(self._matcher)}")
        self._unmasked = {p[1:]: e for p, e in self._unmasked.items() if p[:1] == (token,)}
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
        """Which tokens may not follow after some more, (V,); None where these may not either.

        None, too, where llguidance cannot say it; the text fails when it has come there.
        """
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
            message = f"the grammar cannot be followed further: {_why(matcher)}"
            self._unmasked[path] = GrammarError(message)
            return None
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
        self._compiled: OrderedDict[tuple[Grammar, int | None], LLMatcher] = OrderedDict()
        self._lock, self._compiling = Lock(), Lock()

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

    def begin(
        self, grammar: Grammar, eos: Collection[int], effort: int | None = None
    ) -> GrammarState:
        """The state before the first token of a text.

        Args:
            grammar: what the text must be.
            eos: tokens that end it; those that are text stand for themselves besides.
            effort: steps of llguidance's lexer that a mask may take; None for its own limit.

        Raises:
            GrammarError: it is no grammar, one that llguidance has no code for, or one of which
                it takes too much effort to say how a text begins.
        """
        kept = self._kept((grammar, effort))
        if kept is not None:
            with suppress(GrammarError):  # a text has failed, and left the lexer of all unusable
                return self._begun(kept, eos)
        with self._compiling:  # one at a time: it takes a processor, and others may want it
            found = self._kept((grammar, effort))
            if found is None or found is kept:
                found = self._compile(grammar, effort)
            state = self._begun(found, eos)
            self._keep((grammar, effort), found)
        return state

    def _begun(self, matcher: LLMatcher, eos: Collection[int]) -> GrammarState:
        own = {*self._tokenizer.eos_tokens}
        ends = [t for t in eos if t in own or self._tokenizer.is_special_token(t)]
        vocab = self._tokenizer.vocab_size
        state = GrammarState(matcher, vocab, ends, own.difference(ends))
        state.check()
        return state

    def allows(self, grammar: Grammar, begin: str, effort: int | None = None) -> bool:
        """Whether a text of the grammar may begin so.

        Raises:
            GrammarError: as `begin`.
        """
        path = tuple(self._tokenizer.tokenize_str(begin))
        return self.begin(grammar, (), effort).excluded(path) is not None

    def _kept(self, key: tuple[Grammar, int | None]) -> LLMatcher | None:
        with self._lock:
            if key in self._compiled:
                self._compiled.move_to_end(key)
            return self._compiled.get(key)

    def _keep(self, key: tuple[Grammar, int | None], matcher: LLMatcher) -> None:
        with self._lock:
            self._compiled[key] = matcher
            chars = sum(grammar.num_chars for grammar, _ in self._compiled)
            while len(self._compiled) > MOST_KEPT or (
                chars > MOST_KEPT_CHARS and len(self._compiled) > 1
            ):
                (grammar, _), _ = self._compiled.popitem(last=False)
                chars -= grammar.num_chars

    def _compile(self, grammar: Grammar, effort: int | None) -> LLMatcher:
        name = grammar.kind.replace("_", " ").replace("json", "JSON")
        limits = None if effort is None else LLParserLimits(step_lexer_fuel=effort)
        try:
            definition = _definition(grammar)
            matcher = LLMatcher(self._tokenizer, definition, log_level=0, limits=limits)
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
    if not isinstance(grammar, JointGrammar):
        return text
    named = [{"name": name, "lark_grammar": _definition(one)} for name, one in grammar.named]
    return json.dumps({"grammars": [{"lark_grammar": text}, *named]})


def _why(matcher: LLMatcher) -> str:
    """What is wrong, in one line."""
    first, *others = str(matcher.get_error()).strip().split("\n")
    text = " ".join([first, *(line for line in others if line.startswith("error:"))])
    if "recursion limit" in text:
        return "it is nested too deeply"
    return "nothing can follow" if text.startswith("NoExtension") else text
