"""Finds inputs that a model takes: tries a candidate, learns from what failed, tries the next."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator

from torch import nn

from bnlint.inputs.gaps import Closing, Gap
from bnlint.inputs.guess import LADDERS, Candidate
from bnlint.inputs.guesser import Guesser
from bnlint.inputs.messages import from_message
from bnlint.inputs.outcome import ENOUGH, Outcome
from bnlint.inputs.repairs import Repairs
from bnlint.inputs.trial import Trials
from bnlint.inputs.values import unwrapped

MANY = 3  # failures from which on another start is likelier to help than repairs
PATIENCE = 24  # tries without progress
Item = Candidate | tuple[Outcome, Gap]


class Search:
    """Best-first: what the best run so far suggests comes first."""

    def __init__(self, model: nn.Module, mode: str, batch: int, seed: int) -> None:
        model = unwrapped(model)
        self.guesser = Guesser(model, batch)
        self.repairs = Repairs(self.guesser)
        self.trials = Trials(model, mode, batch, seed)
        self.queue: list[tuple[tuple[int, ...], int, int, Item]] = []
        self.number = itertools.count()
        self.outcomes: list[Outcome] = []
        self.progress = 0  # number of the try that was the last to improve
        self.closed: set[object] = set()

    def find(self, first: Iterable[Candidate]) -> Outcome | None:
        """The best run found; None when none could be followed."""
        for index, candidate in enumerate(first):
            later = (0, MANY) if self.guesser.required else (2,)
            self._push((0,) if candidate.told or not index else later, index, candidate)
        while self.queue and not self._enough():
            *_, item = heapq.heappop(self.queue)
            outcome = self._try(item) if isinstance(item, Candidate) else self._close(*item)
            if outcome is not None:
                self._expand(outcome)
        return self.best

    @property
    def best(self) -> Outcome | None:
        """The run with the fewest failures; a size that only suits a layer on a spatial axis must suit all."""
        rows = [o for o in self.outcomes if not o.candidate.spatial_only or o.right]
        return min(rows, key=lambda o: o.score, default=None)

    def _enough(self) -> bool:
        best, tries = self.best, self.trials.count
        perfect = best is not None and best.right and best.smallest_map >= ENOUGH and not best.doubtful
        return perfect or self.trials.exhausted or tries - self.progress > PATIENCE

    def _try(self, candidate: Candidate) -> Outcome | None:
        """Runs a candidate, once."""
        if candidate.key in self.trials.outcomes or self._enough():
            return self.trials.outcomes.get(candidate.key)
        before, outcome = self.best, self.trials.run(candidate)
        if outcome is not None:
            self.outcomes.append(outcome)
            if before is None or outcome.score < before.score:
                self.progress = self.trials.count
        return outcome

    def _close(self, outcome: Outcome, gap: Gap) -> Outcome | None:
        """The run with the size that closes a gap, if there is one."""
        if gap.key in self.closed:
            return None
        self.closed.add(gap.key)
        return Closing(gap, outcome, self._try).close()

    def _push(self, score: tuple[int, ...], order: int, item: Item) -> None:
        if not isinstance(item, Candidate) or item.key not in self.trials.outcomes:
            heapq.heappush(self.queue, (score, order, next(self.number), item))

    def _expand(self, outcome: Outcome) -> None:
        """Queues what the run suggests: repairs, then usual sizes, then what a message hints at."""
        score, found = outcome.score, self.repairs.of_failures(outcome)
        for proposal in found.proposals:
            if isinstance(proposal, Candidate):
                self._push(score, 0, proposal)
            else:  # a video is no cube: usual sizes first
                self._push(score, 3 if proposal.ladder == "volume" else 0, (outcome, proposal))
        if outcome.swapped_layout:
            self._push(score, 1, outcome.candidate.sequence_first())
        for candidate in from_message(outcome, self.guesser):
            self._push(score, 3 if outcome.graph.op_count else 1, candidate)
        later = (score[0], score[1] + outcome.finished, *score[2:])  # after the repairs of equally good runs
        if found.sized or not outcome.failures or not outcome.finished:
            times = outcome.growth if outcome.right else found.small
            for candidate in _ladders(outcome.candidate, times, maps_only=outcome.finished and not found.sized):
                self._push(later, 2, candidate)


def _ladders(candidate: Candidate, times: float, *, maps_only: bool) -> Iterator[Candidate]:
    """The same with every other usual size; when it must be so many times larger, from there upwards."""
    ladders = dict.fromkeys(g.ladder for g in candidate.guesses.values() if g.free)
    for ladder in ladders if not maps_only else [name for name in ladders if name != "sequence"]:
        sizes = LADDERS.get(ladder, ())
        if times:
            present = max(g.shape[a] for g in candidate.guesses.values() if g.ladder == ladder for a in g.free)
            larger = (size for size in sizes if _longest(size) > present)
            sizes = tuple(sorted(larger, key=lambda size: (_longest(size) < present * times, _longest(size))))
        for size in sizes:
            yield candidate.scaled(ladder, size)


def _longest(size: int | tuple[int, ...]) -> int:
    return max(size) if isinstance(size, tuple) else size
