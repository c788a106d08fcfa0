"""A search as plain ask and tell around any algorithm: no Ray, no files, no clock. It keeps the book of candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Generic

from lts_ray.errors import LtsRayError
from lts_ray.measurement.measurement import Failed
from lts_ray.pareto import Objectives, front_of
from lts_ray.search.algorithms.algorithm import Algorithm, Observation
from lts_ray.spaces.search_space import Candidate

Result = Mapping[str, Objectives] | Failed
"""What a candidate's evaluation gave: objectives on each target, all minimised, or why there are none."""


class AskTell(Generic[Candidate]):
    """`ask` until it has nothing, `tell` results, until `is_finished`."""

    def __init__(
        self,
        algorithm: Algorithm[Candidate],
        *,
        targets: Sequence[str],
        evaluations: int,
        admits: Callable[[Candidate, str, Objectives], bool] = lambda *_: True,
        resolve: Callable[[Candidate, AbstractSet[Candidate]], Candidate] = lambda candidate, _: candidate,
    ) -> None:
        """admits: whether a candidate and its objectives on a target keep the limits; what does not is on no front.

        resolve: the candidate that is taken for a proposed one, given those already taken; it must be none of them.
        """
        self.algorithm, self._targets, self._evaluations = algorithm, tuple(targets), evaluations
        self._admits, self._resolve = admits, resolve
        self._asked: dict[Candidate, None] = {}  # an ordered set, in the order of proposals
        self._to_hand_out: list[Candidate] = []
        self._to_observe: list[Candidate] = []
        self._results: dict[Candidate, Result] = {}
        self._exhausted = False

    def ask(self) -> Candidate | None:
        """A new candidate; None when there is none now: either `is_finished`, or results are outstanding."""
        if not self._to_hand_out:
            self._propose()
        return self._to_hand_out.pop(0) if self._to_hand_out else None

    def tell(self, candidate: Candidate, result: Result) -> None:
        """Record a result. A second one for the same candidate is ignored, one that was not asked for an error."""
        if candidate in self._results:
            return
        if candidate not in self._asked:
            raise LtsRayError(f"a result for {candidate}, which the search did not ask for")
        if not isinstance(result, Failed) and set(result) != set(self._targets):
            raise LtsRayError(f"a result needs objectives for {', '.join(self._targets)}; got {', '.join(result)}")
        self._results[candidate] = result

    @property
    def is_finished(self) -> bool:
        """All evaluations are used, or the space has nothing new; and every result is in."""
        if not self._to_hand_out:
            self._propose()
        return not self._to_hand_out and len(self._results) == len(self._asked)

    @property
    def is_exhausted(self) -> bool:
        """The space ran out of new candidates before the evaluations were used."""
        return self._exhausted

    @property
    def results(self) -> Mapping[Candidate, Result]:
        """All results so far, in the order of arrival."""
        return self._results

    def admitted(
        self, target: str, results: Mapping[Candidate, Result] | None = None
    ) -> Mapping[Candidate, Objectives]:
        """What keeps the limits on `target`, in the order of arrival. results: other values for those told."""
        taken = self._results if results is None else results
        vectors = {candidate: result[target] for candidate, result in taken.items() if not isinstance(result, Failed)}
        return {candidate: vector for candidate, vector in vectors.items() if self._admits(candidate, target, vector)}

    def front(self, target: str, results: Mapping[Candidate, Result] | None = None) -> Mapping[Candidate, Objectives]:
        """The non-dominated candidates on `target` among all results so far that keep its limits."""
        return front_of(self.admitted(target, results))

    def joint_front(self, results: Mapping[Candidate, Result] | None = None) -> Mapping[Candidate, Objectives]:
        """The non-dominated candidates when the objectives of all targets count, of those that all targets admit.

        The first objective, quality, is the same on every target and counts once.
        """
        return front_of(
            {
                candidate: joint(result, self._targets)
                for candidate, result in (self._results if results is None else results).items()
                if not isinstance(result, Failed) and all(self._admits(candidate, *item) for item in result.items())
            }
        )

    def _propose(self) -> None:
        """Let the algorithm go on if what it waits for is in."""
        left = self._evaluations - len(self._asked)
        if self._exhausted or left == 0:
            self._observe(but=0)  # nothing is chosen any more, but what was expected of the last can be compared
            return
        if not self._observe(but=self.algorithm.lag):
            return
        proposals = self.algorithm.propose(left, self._asked.keys())
        self._exhausted = not proposals
        for proposal in proposals:
            candidate = self._resolve(proposal, self._asked.keys())
            if candidate in self._asked:
                raise LtsRayError(f"the search proposed {candidate} twice")
            self._asked[candidate] = None
            self._to_hand_out.append(candidate)
            self._to_observe.append(candidate)

    def _observe(self, *, but: int) -> bool:
        """Tell the algorithm all results but the last ones, in order; whether they were there."""
        while len(self._to_observe) > but:
            candidate = self._to_observe[0]
            if candidate not in self._results:
                return False
            self.algorithm.observe(self._observation(candidate))
            self._to_observe.pop(0)
        return True

    def _observation(self, candidate: Candidate) -> Observation[Candidate]:
        result = self._results[candidate]
        vectors = {} if isinstance(result, Failed) else result
        feasible = frozenset(target for target, vector in vectors.items() if self._admits(candidate, target, vector))
        return Observation(candidate=candidate, objectives=vectors, feasible=feasible)


def joint(objectives: Mapping[str, Objectives], targets: Sequence[str]) -> Objectives:
    """One vector for all targets: the quality they share, then each one's costs."""
    return (objectives[targets[0]][0], *(cost for target in targets for cost in objectives[target][1:]))
