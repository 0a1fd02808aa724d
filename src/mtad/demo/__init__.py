"""The embedded pair: two small Llama models, one tokenizer, and the test sets they never saw.

Knows where the files are and reads the test sets; `mtad.model.loading` loads the models.
"""

import json
from pathlib import Path
from typing import Any, Final

_FOLDER: Final = Path(__file__).parent

TARGET_PATH: Final = _FOLDER / "target"
DRAFT_PATH: Final = _FOLDER / "draft"
HELDOUT_NAMES: Final = ("sql", "sql_unseen_words", "python", "chat")

__all__ = ["DRAFT_PATH", "HELDOUT_NAMES", "TARGET_PATH", "heldout"]


def heldout(name: str) -> list[dict[str, Any]]:
    """The items of a test set, each with `task_id`, `task`, `prompt` or `messages`, `reference`.

    Raises:
        ValueError: if there is no such test set.
    """
    if name not in HELDOUT_NAMES:
        raise ValueError(f"no test set {name!r}; there are {', '.join(HELDOUT_NAMES)}")
    text = (_FOLDER / "heldout" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.rstrip("\n").split("\n")]
