"""Which items of a task options are chosen by, and which are reported."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence

from mtad.tasks import Item

DEV, TEST = "dev", "test"


def split(items: Sequence[Item], num_dev: int, num_test: int) -> dict[str, list[Item]]:
    """The dev and the test items, by a hash of the item's group and id.

    A group (a database) is never on both sides, so the last group of the dev side may make it
    larger than `num_dev`. More items for the test keep those that were in it before.

    Args:
        items: the data set.
        num_dev: the least number of dev items; 0 is none.
        num_test: the largest number of test items; 0 is all that are left.

    Raises:
        ValueError: no items are left for the test.
    """
    ordered = sorted(items, key=lambda item: (_hash(item.group or item.id), _hash(item.id)))
    dev: list[Item] = []
    rest = ordered
    for _, group in itertools.groupby(ordered, key=lambda item: item.group or item.id):
        if len(dev) >= num_dev:
            break
        dev += group
        rest = ordered[len(dev) :]
    if not rest:
        raise ValueError(
            f"num_dev is {num_dev} and the task has {len(items)} items; none are left to report"
        )
    return {DEV: dev, TEST: sorted(rest, key=lambda i: _hash(i.id))[: num_test or None]}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
