"""Finds inputs that a model takes: tries a candidate, learns from what failed, tries the next."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Iterator

from torch import nn

from bnlint.inputs.guess import LADDERS, Candidate, Guesser
from bnlint.inputs.repairs import Gap, Repairs
from bnlint.inputs.trial import ENOUGH, Outcome, Trials

TRIES = 60
PATIENCE = 16  # tries without progress
LARGEST = {"image": 1024, "signal": 1 << 18, "volume": 128, "sequence": 4096}


class Search:
    """Best-first: candidates made from the best run so far come first."""

    def __init__(self, model: nn.Module, mode: str, batch: int, seed: int, seconds: float = 20.0) -> None:
        self.guesser = Guesser(model, batch)
        self.repairs = Repairs(self.guesser)
        self.trials = Trials(model, mode, batch, seed, seconds)
        self.queue: list[tuple[tuple[int, ...], int, int, Candidate]] = []
        self.number = itertools.count()
        self.outcomes: list[Outcome] = []
        self.last_progress = 0
        self.closed: set[Gap] = set()

    def find(self, first: Iterator[Candidate] | None = None) -> Outcome | None:
        """The best run found; None when none could be followed."""
        for candidate in first or self.guesser.first():
            self._push((2,), 0, candidate)
        while self.queue and not self._enough():
            *_, candidate = heapq.heappop(self.queue)
            outcome = self._try(candidate)
            if outcome is not None and not self._done():
                self._expand(outcome)
        return self.best

    @property
    def best(self) -> Outcome | None:
        """The run with the fewest failures; a size that only suits a layer on a spatial axis must suit all."""
        rows = [o for o in self.outcomes if not o.candidate.spatial_only or o.right]
        return min(rows, key=lambda o: o.score, default=None)

    def _done(self) -> bool:
        best = self.best
        return best is not None and best.right and best.smallest_map >= ENOUGH

    def _enough(self) -> bool:
        tries = self.trials.count
        late = time.monotonic() > self.trials.deadline
        return self._done() or late or tries >= TRIES or tries - self.last_progress > PATIENCE

    def _try(self, candidate: Candidate) -> Outcome | None:
        if candidate.key in self.trials.outcomes:
            return None
        before = self.best
        outcome = self.trials.run(candidate)
        if outcome is not None:
            self.outcomes.append(outcome)
            if before is None or outcome.score < before.score:
                self.last_progress = self.trials.count
        return outcome

    def _push(self, score: tuple[int, ...], order: int, candidate: Candidate) -> None:
        if candidate.key not in self.trials.outcomes:
            heapq.heappush(self.queue, (score, order, next(self.number), candidate))

    def _expand(self, outcome: Outcome) -> None:
        """Queues what the run suggests; closes a gap in size at once."""
        score = outcome.score
        for proposal in self.repairs.of_failures(outcome):
            if isinstance(proposal, Gap):
                self._close(outcome, proposal)
            else:
                self._push(score, 0, proposal)
        for candidate in self.repairs.of_end(outcome):
            self._push(score, 1, candidate)
        for candidate in _ladders(outcome.candidate):
            self._push(score, 2, candidate)

    # -- sizes -----------------------------------------------------------------------------------------------------

    def _close(self, outcome: Outcome, gap: Gap) -> None:
        """Looks for the size of the input at which an axis comes out as long as needed; it grows with the input."""
        return


def _ladders(candidate: Candidate) -> Iterator[Candidate]:
    """The same with every other size of the ladders."""
    for ladder in dict.fromkeys(g.ladder for g in candidate.guesses.values() if g.free):
        for size in LADDERS.get(ladder, ()):
            yield candidate.scaled(ladder, size)


math  # noqa
