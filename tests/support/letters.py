"""Grammars over tokens that are short strings of letters, and the laws that they leave of a toy."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from llguidance import LLTokenizer, TokenizerWrapper

from mtad.engine.session import Request
from mtad.grammar.matcher import GrammarState, TokenGrammars
from mtad.sampling.params import SamplingParams

Text = tuple[int, ...]


class _Letters:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokens: Sequence[str], eos: int) -> None:
        self.tokens = [token.encode() for token in tokens]
        self.eos_token_id, self.special_token_ids = eos, [eos]

    def __call__(self, text: bytes) -> list[int]:
        ids = []
        while text:
            best = max((t for t in self.tokens if text.startswith(t)), key=len, default=b"")
            ids += [self.tokens.index(best)] if best else []
            text = text[len(best) or 1 :]  # a letter that no token has
        return ids


def grammars_of(tokens: Sequence[str]) -> TokenGrammars:
    """Grammars over these tokens, of which the last ends a text."""
    wrapper = TokenizerWrapper(_Letters(tokens, len(tokens) - 1))
    return TokenGrammars(LLTokenizer(wrapper, n_vocab=len(tokens)))


def guided(prompt: Sequence[int], params: SamplingParams, state: GrammarState | None) -> Request:
    """A request whose text has a grammar."""
    return Request(prompt, params, stop=state and state.push, grammar=state)


def texts_of(
    tokens: Sequence[str], language: Collection[str], table: Sequence[Sequence[float]], start: int
) -> Iterator[tuple[Text, float]]:
    """All texts that spell a word of a language, with their probabilities, token by token.

    Args:
        tokens: the last one ends a text.
        language: its words.
        table: the distribution after each token.
        start: the token before the text.
    """
    eos = len(tokens) - 1

    def below(text: Text, word: str, last: int) -> Iterator[tuple[Text, float]]:
        longer = [other for other in language if other != word and other.startswith(word)]
        if not longer:
            yield text, 1.0
            return
        may = [
            t for t in range(eos) if any(other.startswith(word + tokens[t]) for other in language)
        ] + ([eos] if word in language else [])
        total = sum(table[last][t] for t in may)
        for token in may:
            chance = table[last][token] / total
            if token == eos:
                yield (*text, eos), chance
                continue
            for end, rest in below((*text, token), word + tokens[token], token):
                yield end, chance * rest

    yield from below((), "", start)
