"""Finds inputs that a model takes: tries a candidate, learns from what failed, tries the next."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from bnlint.inputs.guess import LADDERS, Candidate, Guesser
from bnlint.inputs.repairs import Gap, Repairs, roundest
from bnlint.inputs.trial import ENOUGH, Outcome, Trials

TRIES = 60
ASPECT = 8  # of maps that are not square
PATIENCE = 20  # tries without progress


class Search:
    """Best-first: candidates made from the best run so far come first."""

    def __init__(self, model: nn.Module, mode: str, batch: int, seed: int, seconds: float = 20.0) -> None:
        self.guesser = Guesser(model, batch)
        self.repairs = Repairs(self.guesser)
        self.trials = Trials(model, mode, batch, seed, seconds)
        self.queue: list[tuple[tuple[int, ...], int, int, Candidate | tuple[Outcome, Gap]]] = []
        self.number = itertools.count()
        self.outcomes: dict[int, Outcome] = {}
        self.last_progress = 0
        self.closed: set[object] = set()

    def find(self, first: Iterator[Candidate] | None = None) -> Outcome | None:
        """The best run found; None when none could be followed."""
        for index, candidate in enumerate(first or self.guesser.first()):
            self._push((0, 1, 1, -1) if index else (0,), index, candidate)
        while self.queue and not self._enough():
            *_, item = heapq.heappop(self.queue)
            outcome = self._try(item) if isinstance(item, Candidate) else self._close(*item)
            if outcome is not None and not self._done():
                self._expand(outcome)
        return self.best

    @property
    def best(self) -> Outcome | None:
        """The run with the fewest failures; a size that only suits a layer on a spatial axis must suit all."""
        rows = [o for o in self.outcomes.values() if not o.candidate.spatial_only or o.right]
        return min(rows, key=lambda o: o.score, default=None)

    def _done(self) -> bool:
        best = self.best
        return best is not None and best.right and best.smallest_map >= ENOUGH and not best.doubtful

    @property
    def in_time(self) -> bool:
        """False when the budget is used up."""
        return time.monotonic() < self.trials.deadline and self.trials.count < TRIES

    def _enough(self) -> bool:
        return self._done() or not self.in_time or self.trials.count - self.last_progress > PATIENCE

    def _try(self, candidate: Candidate) -> Outcome | None:
        if candidate.key in self.trials.outcomes:
            return None
        outcome = self.trials.run(candidate)
        if outcome is not None:
            self.note(outcome)
        return outcome

    def note(self, outcome: Outcome) -> None:
        """Remembers a run."""
        before = self.best
        self.outcomes[id(outcome)] = outcome
        if before is None or outcome.score < before.score:
            self.last_progress = self.trials.count

    def _push(self, score: tuple[int, ...], order: int, item: Candidate | tuple[Outcome, Gap]) -> None:
        if not isinstance(item, Candidate) or item.key not in self.trials.outcomes:
            heapq.heappush(self.queue, (score, order, next(self.number), item))

    def _expand(self, outcome: Outcome) -> None:
        """Queues what the run suggests."""
        score, found = outcome.score, self.repairs.of_failures(outcome)
        for candidate in found.candidates:
            self._push(score, 0, candidate)
        for candidate in self.repairs.of_end(outcome):
            self._push(score, 3 if outcome.graph.op_count else 1, candidate)
        gaps = [gap for gap in found.gaps if not (gap.spatial_only and found.hopeless)]
        for gap in gaps:
            self._push(score, 1, (outcome, gap))
        if not outcome.failures or not outcome.finished or gaps or found.small:
            for candidate in _ladders(outcome.candidate):
                self._push((score[0], score[1] + 1, *score[2:]), 2, candidate)

    # -- sizes -----------------------------------------------------------------------------------------------------

    def _close(self, outcome: Outcome, gap: Gap) -> Outcome | None:
        """Looks for the size of the input at which an axis comes out as long as needed; it grows with the input."""
        if gap.key in self.closed:
            return None
        self.closed.add(gap.key)
        sides = _Sides(self, outcome, gap)
        return sides.square() or sides.oblong()


class _Sides:
    """Bisection for one gap: every run tells how long the axis comes out for one more size of the input."""

    def __init__(self, search: Search, outcome: Outcome, gap: Gap) -> None:
        self.search, self.gap = search, gap
        self.base = replace(outcome.candidate, spatial_only=outcome.candidate.spatial_only or gap.spatial_only)
        self.known: dict[int, tuple[int, ...]] = {}  # size of the input → sides of the map
        self.start, self.count = gap.start(self.base)
        self.known[self.start] = gap.sides

    def square(self) -> Outcome | None:
        """The run in which the whole axis is as long as needed, with equal sides of the input."""
        low, high, size = 0, self.gap.largest + 1, self.start
        observed = self.gap.observed
        for _ in range(16):
            if observed < self.gap.needed:
                low = max(low, size)
            else:
                high = min(high, size)
            if high - low < 2:
                return None
            size = self.gap.next_size(low, high, size, observed)
            outcome, observed = self._observe((size,) * self.count)
            if observed == self.gap.needed:
                return outcome
        return None

    def oblong(self) -> Outcome | None:
        """The same with a map that is not square: the side lengths whose product is needed, nearly equal first."""
        if len(self.gap.sides) != 2 or self.count != 2:
            return None
        area = math.prod(self.gap.sides)
        needed, rest = divmod(self.gap.needed * area, self.gap.observed)
        if rest or (area % max(1, self.gap.observed) and self.gap.observed % area):
            return None
        for short in range(math.isqrt(needed), 0, -1):
            if needed % short == 0 and needed // short <= ASPECT * short:
                sizes = (self._size_for(short), self._size_for(needed // short))
                if None not in sizes:
                    outcome, observed = self._observe((sizes[0] or 0, sizes[1] or 0))
                    if observed == self.gap.needed:
                        return outcome
        return None

    def _size_for(self, side: int) -> int | None:
        """The size of the input at which a side of the map has this length."""
        low, high = 0, self.gap.largest + 1
        for _ in range(12):
            for size, sides in self.known.items():
                if sides and sides[0] == side:
                    return size
                low, high = (max(low, size), high) if not sides or sides[0] < side else (low, min(high, size))
            if high - low < 2:
                return None
            near = self.known.get(low) or (1,)
            self._observe((roundest(self.gap.ladder, low, high, max(1, low) * side / near[0]),) * 2)
        return None

    def _observe(self, sizes: tuple[int, ...]) -> tuple[Outcome | None, int]:
        """The run with these sizes, and how long the axis came out; 0 when it did not come so far."""
        candidate = self.gap.apply(self.base, sizes)
        outcome = self.search.trials.run(candidate) if self.search.in_time else None
        if outcome is None:
            return None, 0
        self.search.note(outcome)
        observed, sides = self.gap.measure(outcome)
        if len(set(sizes)) == 1:
            self.known[sizes[0]] = sides
        return outcome, observed


def _ladders(candidate: Candidate) -> Iterator[Candidate]:
    """The same with every other size of the ladders."""
    for ladder in dict.fromkeys(g.ladder for g in candidate.guesses.values() if g.free):
        for size in LADDERS.get(ladder, ()):
            yield candidate.scaled(ladder, size)
