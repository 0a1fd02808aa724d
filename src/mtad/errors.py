"""The exceptions of mtad; every message says what was given, what is allowed and what to do.

    MtadError
     ├── CheckpointError              a model folder that is missing, incomplete or unreadable
     ├── UnsupportedModelError        an architecture whose attention cannot take a token tree
     ├── VocabularyMismatchError      a target and a draft that do not share their token ids
     ├── PromptError                  an empty prompt, or ids out of range
     ├── GrammarError                 a grammar that cannot be read or followed, also an OptionError
     ├── ContextLengthError           prompt and new tokens do not fit the model's context
     ├── CacheMemoryError             the KV cache does not fit the memory that is free
     ├── NonFiniteLogitsError         a model returned NaN or infinity
     ├── DataError                    a data set or a results file that is missing or damaged
     ├── IsolationError               model-written code may not, or cannot safely, be run here
     └── JudgeError                   the judge of the answers cannot be reached

Options with impossible values raise `OptionError`, a `ValueError` with the option's name.
"""


class MtadError(Exception):
    """Base of every error whose message is meant for the user."""


class CheckpointError(MtadError):
    """A checkpoint is missing, incomplete, unreadable, or larger than the free memory."""


class UnsupportedModelError(MtadError):
    """The architecture cannot be decoded with a token tree."""


class VocabularyMismatchError(MtadError):
    """Target and draft do not agree on what a token id means."""


class PromptError(MtadError):
    """A prompt is empty or holds ids outside the vocabulary."""


class ContextLengthError(MtadError):
    """Prompt plus new tokens do not fit the model's context."""


class CacheMemoryError(MtadError):
    """The KV cache does not fit the memory that is free."""


class NonFiniteLogitsError(MtadError):
    """A model returned NaN or infinity instead of logits."""


class DataError(MtadError):
    """A data set or a file of results is missing or damaged."""


class IsolationError(MtadError):
    """Model-written code may not be run, or nothing here isolates it well enough."""


class JudgeError(MtadError):
    """The judge of the answers cannot be reached or used."""


class OptionError(ValueError):
    """An option or a sampling setting is unknown, or has a value that it can't have.

    Attributes:
        name: of the option at fault; None where there is not one alone.
    """

    def __init__(self, message: str, name: str | None = None) -> None:
        super().__init__(message)
        self.name = name


class GrammarError(MtadError, OptionError):
    """A grammar that cannot be read, that has no code here, or that a text cannot follow."""

    def __init__(self, message: str) -> None:
        OptionError.__init__(self, message, "grammar")


def first_line(error: Exception) -> str:
    """The first line of an error's message, its type if it has none."""
    return str(error).strip().split("\n")[0].rstrip() or type(error).__name__
