"""Sizes of the input at which an axis somewhere inside comes out as long as a layer needs it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from bnlint.graph.axes import Atom, Role
from bnlint.graph.ops import Kind, op_name
from bnlint.inputs.faults import too_small
from bnlint.inputs.guess import LADDERS, Candidate, Path
from bnlint.inputs.outcome import Outcome

LARGEST = {"image": 1024, "volume": 128, "sequence": 4096, "signal": 1 << 18, "features": 1 << 14}
ASPECT = 8  # of maps that are not square
STEPS = 16
STUCK = 3  # sizes that all give the same length


@dataclass(frozen=True)
class Gap:
    """An axis that came out `observed` long where `needed` is: a matter of the size of the input."""

    node: str
    operand: int  # which input of the node
    axis: int | None  # None: everything but the batch
    needed: int
    observed: int
    sides: tuple[int, ...]  # of the map that the axis is made of
    ladder: str = "features"
    spatial_only: bool = False
    only: tuple[Path, int] | None = None  # the axis of one input to change, instead of all free axes of the ladder

    @property
    def key(self) -> Any:
        """Equal for gaps that the same size would close."""
        return self.node, self.operand, self.axis, self.needed, self.ladder, self.only

    def start(self, candidate: Candidate) -> tuple[int, int]:
        """The size in a candidate, and how many axes have it."""
        if self.only is not None:
            return candidate.guesses[self.only[0]].shape[self.only[1]], 1
        guess = next(g for g in candidate.guesses.values() if g.free and g.ladder == self.ladder)
        return guess.shape[guess.free[-1]], len(guess.free)

    def apply(self, candidate: Candidate, sizes: tuple[int, ...]) -> Candidate:
        """The candidate with these sizes."""
        if self.only is None:
            return candidate.scaled(self.ladder, sizes)
        path, dim = self.only
        return candidate.having(path, candidate.guesses[path].with_size(dim, sizes[0]))

    def measure(self, outcome: Outcome) -> tuple[int, tuple[int, ...]]:
        """What is observed in another run, and the sides; 0 when it did not come so far."""
        node = next((n for n in outcome.graph.nodes if n.name == self.node), None)
        if node is None or self.operand >= len(node.all_input_nodes):
            return 0, ()
        return observed(outcome, node.all_input_nodes[self.operand], self.axis)


def observed(outcome: Outcome, operand: fx.Node, axis: int | None) -> tuple[int, tuple[int, ...]]:
    """The length of an axis (of all but the batch, for None) and the sides of the map in it."""
    shape, axes = outcome.graph.shape(operand), outcome.graph.axes(operand)
    if axis is None:
        return math.prod(shape[1:]), shape[2:]
    if not -len(axes) <= axis < len(axes):
        return 0, ()
    sides = tuple(atom.size for atom in axes[axis] if grows(outcome, atom))
    return shape[axis], sides or _flattened(outcome, operand)


def grows(outcome: Outcome, atom: Atom) -> bool:
    """True for positions, which grow with the input, as opposed to features."""
    path = outcome.sources.get(atom.origin.source)
    chosen = path is not None and atom.origin.dim in outcome.candidate.guesses[path].free
    return chosen or atom.role is not Role.CHANNEL


def _flattened(outcome: Outcome, node: fx.Node) -> tuple[int, ...]:
    """The sides, all 1, of a map that was flattened; () when there was none, or a pooled one."""
    while node.meta["kind"] in (Kind.SAME, Kind.DROPOUT) and node.all_input_nodes:
        node = node.all_input_nodes[0]
    if node.meta["kind"] is not Kind.RESHAPE:
        return ()
    data = node.all_input_nodes[0]
    pooled = "adaptive" in op_name(data).lower() or data.meta["kind"] is Kind.REDUCE
    return () if pooled else outcome.graph.shape(data)[2:]


class Closing:
    """Bisection: every run tells how long the axis comes out for one more size of the input."""

    def __init__(self, gap: Gap, outcome: Outcome, run: Callable[[Candidate], Outcome | None]) -> None:
        candidate = outcome.candidate
        self.base = replace(candidate, spatial_only=candidate.spatial_only or gap.spatial_only)
        self.gap, self.run = gap, run
        self.first, self.count = gap.start(self.base)
        self.sides: dict[int, tuple[int, ...]] = {self.first: gap.sides}  # of the map, by size of the input
        self.lengths = {self.first: gap.observed}

    def close(self) -> Outcome | None:
        """The run in which the axis is as long as needed; None when no size was found."""
        return self._square() or self._oblong()

    def _square(self) -> Outcome | None:
        """All free axes alike."""
        low, high, size = 0, LARGEST[self.gap.ladder] + 1, self.first
        for _ in range(STEPS):
            length = self.lengths[size]
            if length:  # else the run did not come so far, which says nothing
                low, high = (max(low, size), high) if length < self.gap.needed else (low, min(high, size))
            chosen = next((s for s in self._next(size, length) if low < s < high and s not in self.lengths), None)
            if chosen is None:
                return None
            size = chosen
            outcome = self._observe((size,) * self.count)
            if self.lengths[size] == self.gap.needed:
                return outcome
            if len(self.lengths) > STUCK and len({*self.lengths.values()} - {0}) == 1:
                return None  # it does not grow
        return None

    def _next(self, size: int, length: int) -> Iterator[int]:
        """Sizes to try after `size` gave `length`: proportional, usual, round, near."""
        estimate = float(size)
        if length:
            whole = self.gap.needed * max(1, round(size / length))
            if self.gap.only is not None:
                yield whole
            estimate = size * (self.gap.needed / length) ** (1 / max(1, len(self.gap.sides)))
        yield from near(self.gap.ladder, estimate)

    def _oblong(self) -> Outcome | None:
        """A map that is not square: sides whose product is needed, the most nearly equal first."""
        sides, needed = self.gap.sides, self.gap.needed
        if len(sides) != 2 or self.count != 2:
            return None
        channels, rest = divmod(self.gap.observed, math.prod(sides))
        if rest or needed % max(1, channels):
            return None
        area = needed // channels
        for short in range(math.isqrt(area), 0, -1):
            if area % short == 0 and area // short <= ASPECT * short:
                height, width = self._size_for(short), self._size_for(area // short)
                outcome = self._observe((height, width)) if height and width else None
                if outcome is not None and self.gap.measure(outcome)[0] == needed:
                    return outcome
        return None

    def _size_for(self, side: int) -> int | None:
        """The size of the input at which a side of the map has this length."""
        for _ in range(STEPS):
            known = {size: sides[0] for size, sides in self.sides.items() if sides}
            exact = next((size for size, length in known.items() if length == side), None)
            if exact is not None:
                return exact
            low = max((size for size, length in known.items() if length < side), default=0)
            high = min((size for size, length in known.items() if length > side), default=LARGEST[self.gap.ladder])
            estimate = side * (low / known[low] if low else high / known.get(high, side))
            size = next((s for s in near("", estimate) if low < s < high and s not in self.lengths), None)
            if size is None:
                return None
            self._observe((size,) * self.count)
        return None

    def _observe(self, sizes: tuple[int, ...]) -> Outcome | None:
        outcome = self.run(self.gap.apply(self.base, sizes))
        length, sides = self.gap.measure(outcome) if outcome is not None else (0, ())
        if outcome is not None and any(too_small(outcome, node) for node in outcome.failures):
            length = min(length, 1)  # repaired from there on; in truth it is shorter than any
        if len(set(sizes)) == 1:
            self.lengths[sizes[0]], self.sides[sizes[0]] = length, sides
        return outcome


def near(ladder: str, estimate: float) -> Iterator[int]:
    """Sizes near an estimate: the usual ones of the ladder, then round ones, then any."""
    usual = [size for size in LADDERS.get(ladder, ()) if isinstance(size, int) and 2 / 3 < size / estimate < 3 / 2]
    yield from sorted(usual, key=lambda size: abs(math.log(size / estimate)))
    if ladder == "features":
        yield round(estimate)
    for bits in range(max(0, int(estimate).bit_length() - 2), -1, -1):
        middle = round(estimate / (1 << bits))
        for offset in (0, 1, -1, 2, -2):
            size = (middle + offset) << bits
            if size > 0:
                yield size


__all__ = ["Closing", "Gap", "grows", "observed"]
