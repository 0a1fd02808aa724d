"""Never slower than not drafting: the guard lets a controller choose what each iteration drafts.

`Guard` drives a session: it sets the method of the next iteration, lets the draft read what it
missed during plain steps, and reports the iteration's tokens and seconds to the controller.
`Guards` keeps what is known of a pair from one call to the next.

Every step is lossless if the methods are, and each begins with fresh random numbers, so their order
does not change the distribution of the text. It does change the text of a seed, and the choice
depends on the clock; so texts that are drawn from a given seed have no guard unless it is asked
for.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch

from mtad.api.controller import Controller
from mtad.api.costs import PLAIN as PLAIN
from mtad.api.costs import Costs, shapes_of
from mtad.api.experience import Experience
from mtad.api.measuring import LIMIT_S, NUM_ROUNDS, NUM_TOKENS, Clock, costs_of
from mtad.api.recordings import Recordings
from mtad.core.buckets import power_of_two
from mtad.engine.request import Request
from mtad.engine.session import Session
from mtad.engine.stats import Drafted
from mtad.engine.step import Step
from mtad.engine.workspace import Workspace
from mtad.measure.device import synchronize
from mtad.methods import find
from mtad.model.loading import Models
from mtad.runtime.programs import keep
from mtad.sampling.params import SamplingParams
from mtad.speculative.forced import ForcedTokens
from mtad.speculative.method import Method, method_key

MOST_METHODS = 64
"""Methods, with their options, of which experience is kept, the latest ones."""
SAMPLE = 4
"""Tokens of the text on which costs are measured."""
PATIENT_S, PATIENT_ROUNDS = 10.0, range(5, 41)
"""Seconds and rounds of a measurement that someone asked for."""


def wants_guard(method: Method, guard: bool | None, has_seed: bool, is_greedy: bool) -> bool:
    """Whether a guard chooses what the method drafts.

    Args:
        method: the method asked for.
        guard: what the caller said. None is yes for a lossless method whose text does not have to
            come again from its seed: without a given seed, or where nothing is drawn.
        has_seed: whether a seed was given.
        is_greedy: whether the temperature is 0.

    Raises:
        ValueError: a guard is asked for and the method has no drafts that could be left out.
    """
    if method.drafted_by == "target":
        if guard:
            raise ValueError(
                f"guard is True, and {method.name} searches with the target itself: there are no "
                "drafts to give up; leave guard out or choose a method that drafts"
            )
        return False
    if method.kept != method.entries:
        if guard:
            raise ValueError(
                f"guard is True, and {method.name} goes on from hypotheses that a plain step would "
                "leave behind; leave guard out or choose a method that keeps none"
            )
        return False
    if guard is not None:
        return guard and method != PLAIN
    return method.is_lossless and method != PLAIN and (is_greedy or not has_seed)


@dataclass(frozen=True)
class Iteration:
    """An iteration of a session, with what it took.

    Attributes:
        step: what it committed.
        decode_s: seconds of this iteration and those before, without the caller's own time.
        drafted: what it drafted.
        reason: why drafts do not pay at present, None where they do.
    """

    step: Step
    decode_s: float = 0.0
    drafted: Drafted = "method"
    reason: str | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the guard left the draft out."""
        return self.drafted == "plain"


class Guards:
    """What the calls of one pair know of its costs and of the acceptance of its drafts.

    Args:
        models: the pair.
        workspace: its caches.
    """

    def __init__(self, models: Models, workspace: Workspace) -> None:
        self._models, self._workspace = models, workspace
        self._costs: dict[str, tuple[int, Costs]] = {}
        self._known: OrderedDict[Hashable, Experience] = OrderedDict()

    def controller(self, method: Method, requests: Sequence[Request], clock: Clock) -> Controller:
        """A controller for a batch of texts; what is not known yet of the pair is measured.

        Args:
            method: of the batch; its drafts are the longest.
            requests: of the batch.
            clock: shows seconds, such as `time.perf_counter`.
        """
        shapes = shapes_of(method, self._models.vocab, has_narrower=True)
        num_tokens = len(requests) * shapes[-1].num_nodes
        ids = next((r.prompt_ids for r in requests if r.num_left > 0), requests[0].prompt_ids)
        costs = self._costs_of(method, ids, min(num_tokens, NUM_TOKENS[-1]), clock)
        key = method_key(method)
        known = self._known.get(key) or Experience(
            costs, recordings=Recordings(self._workspace.programs.CAPTURE_COST)
        )
        known.costs = costs
        keep(self._known, key, known, MOST_METHODS)
        return Controller(shapes, known)

    def costs(self, method: Method, clock: Clock) -> Costs:
        """The costs of a method's forwards, measured anew, in as many rounds as a user waits for.

        Args:
            method: of which the drafter counts.
            clock: shows seconds.
        """
        prompt, reach = [*range(min(SAMPLE, self._models.vocab))], NUM_TOKENS[-1]
        costs = self._measured(method, prompt, reach, clock, PATIENT_S, PATIENT_ROUNDS)
        self._costs[method.drafted_by] = reach, costs
        return costs

    def measure(self, clock: Clock) -> None:
        """Measure what batches of any size need, so that no text waits for that later."""
        method = PLAIN if self._models.draft is None else find("speculative_sampling")()
        prompt, reach = [*range(min(SAMPLE, self._models.vocab))], NUM_TOKENS[-1]
        costs = self._costs_of(method, prompt, reach, clock)
        self._costs[PLAIN.drafted_by] = (
            reach,
            dataclasses.replace(costs, draft=None, reads_text=False),
        )

    def _costs_of(
        self, method: Method, prompt: Sequence[int], num_tokens: int, clock: Clock
    ) -> Costs:
        """Costs for forwards of so many tokens, measured where they are not known yet."""
        reach, costs = self._costs.get(method.drafted_by, (0, None))
        if costs is None or num_tokens > max(reach, NUM_TOKENS[-2]):
            costs = self._measured(method, prompt, num_tokens, clock)
            self._costs[method.drafted_by] = num_tokens, costs
        return costs

    def _measured(
        self,
        method: Method,
        prompt: Sequence[int],
        num_tokens: int,
        clock: Clock,
        limit_s: float = LIMIT_S,
        rounds: range = NUM_ROUNDS,
    ) -> Costs:
        request = Request(prompt[:SAMPLE], SamplingParams(max_new_tokens=1))
        models = self._models
        with torch.inference_mode():
            session = Session(
                *(models.target, models.draft, method, [request], models.vocab),
                workspace=self._workspace,
            )
        try:
            return costs_of(session, num_tokens, clock, limit_s, rounds)
        finally:
            session.close()


class Guard:
    """Drives a session whose iterations a controller chooses.

    Args:
        session: its `method` is what the controller chooses; at first the longest one.
        controller: of the batch.
        clock: shows seconds.
    """

    def __init__(self, session: Session, controller: Controller, clock: Clock) -> None:
        self.session, self.controller, self._clock = session, controller, clock
        self._num_missed = 0

    def take(self, step: Callable[[], Step]) -> Iteration:
        """The next iteration.

        Args:
            step: makes the session's next step.
        """
        if count := self._num_forced:
            return self._take_forced(step, count)
        session, controller, num_rows = self.session, self.controller, len(self.session.rows)
        may_record = session.observe is None and num_rows <= session.most_captured
        shape = controller.choose(num_rows, self._num_missed, may_record)
        session.may_capture = not controller.is_trial
        self._prepare(shape.method)
        began = self._clock()
        done = step()
        seconds = self._clock() - began
        going = [block for block in done.blocks if block.finish_reason is None]
        tokens = [len(block.token_ids) for block in going]
        firsts = [block.num_first for block in going]
        controller.add(tokens, seconds, session.graphs.last_mode, firsts)
        drafted: Drafted = "method" if shape.length else "plain"
        return Iteration(done, drafted=drafted, reason=controller.reason)

    def take_own(self, step: Callable[[], Step]) -> Iteration:
        """The next iteration, as the method has it, of which the controller learns nothing."""
        self.session.may_capture = True
        self._prepare(self.session.largest)
        return Iteration(step())

    @property
    def _num_forced(self) -> int:
        """Tokens that the grammars of all texts force now; those of the largest number."""
        if self.session.prefix.grammars is None:
            return 0
        texts = [self.session.requests[index].grammar for index in self.session.rows]
        counts = [len(grammar.forced()) if grammar else 0 for grammar in texts]
        return max(counts) if all(counts) else 0

    def _take_forced(self, step: Callable[[], Step], count: int) -> Iteration:
        """The next iteration, of forced tokens, which cost no draft."""
        session = self.session
        most = session.largest.num_nodes(session.vocab, session.prefix.horizon) - 1
        session.may_capture = True
        self._prepare(ForcedTokens(min(power_of_two(count), most)))
        return Iteration(step(), drafted="forced")

    @torch.inference_mode()
    def _prepare(self, method: Method) -> None:
        """Give the session its method, and let the draft rest or read what it has missed."""
        session = self.session
        session.method = method
        if session.drafter is None:
            return
        if method.drafted_by == "none":
            session.drafter.rest()
            self._num_missed += method.num_nodes(session.vocab, 1)
        elif self._num_missed:
            missed = session.prefix.before_last(power_of_two(self._num_missed + 1))
            session.drafter.catch_up(missed)
            synchronize(session.drafter.device)  # so that the iteration is timed alone
            self._num_missed = 0


def iterations(
    session: Session, controller: Controller | None, clock: Clock
) -> Iterator[Iteration]:
    """The iterations of a session until every request is finished.

    Args:
        session: decodes; its `method` is what the controller chooses.
        controller: None to leave the session its method.
        clock: shows seconds, such as `time.perf_counter`.
    """
    steps, decode_s = session.run(), 0.0
    guard = None if controller is None else Guard(session, controller, clock)
    while session.rows:
        began = clock()
        iteration = Iteration(next(steps)) if guard is None else guard.take(lambda: next(steps))
        decode_s += clock() - began
        yield dataclasses.replace(iteration, decode_s=decode_s)
