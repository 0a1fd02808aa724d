"""The kinds of draft that can be made, by their names."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from mtad.distill.head import HeadStudent
from mtad.distill.plan import Plan
from mtad.distill.standalone import StandaloneStudent
from mtad.distill.student import Student
from mtad.model.lm import Model


def student_for(plan: Plan, target: Model, d2t: Int[Tensor, " draft_vocab"]) -> Student:
    """An untrained draft of the plan's kind for a target, that can say the tokens of `d2t`.

    Raises:
        ValueError: the plan's options are not for this kind, or not for this target.
        UnsupportedModelError: no draft of this kind can be made for the target.
    """
    if plan.kind == "standalone":
        return StandaloneStudent(target, d2t, plan.num_layers)
    return HeadStudent.of(target, d2t)
