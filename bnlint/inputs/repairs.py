"""What to change in a candidate, judging by the first op that failed with it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from torch import fx, nn

from bnlint.graph.axes import Atom, Role, size_of
from bnlint.graph.ops import Kind
from bnlint.inputs.faults import cat_dim, pieces_asked, products_asked, size_at, sizes_asked, too_small, wanted_by
from bnlint.inputs.gaps import Gap, grows, observed
from bnlint.inputs.guess import LENGTH, Candidate, Guess, Path
from bnlint.inputs.guesser import Guesser
from bnlint.inputs.messages import of_rank
from bnlint.inputs.outcome import Outcome, from_input
from bnlint.inputs.wants import Want, guesses_for

Proposals = Iterator[Candidate | Gap]

_READS_THROUGH = frozenset(
    {
        *(Kind.INPUT, Kind.SAME, Kind.RESHAPE, Kind.PERMUTE, Kind.EXPAND, Kind.INDEX, Kind.STACK, Kind.SPLIT, Kind.CAT),
        *(Kind.NORM, Kind.DROPOUT, Kind.PAD, Kind.RESIZE, Kind.POOL, Kind.SHUFFLE),
        *(Kind.ACTIVATION, Kind.ELEMENTWISE, Kind.ADD, Kind.MUL),
    }
)
_LOOKS_UP = _READS_THROUGH | {Kind.EMBEDDING, Kind.REDUCE}
_HIDDEN = re.compile(r"hidden(?:\[\d\])? size \(\d+, (\d+), \d+\), got \[\d+, (\d+), \d+\]")


@dataclass
class Found:
    """What the failed ops of a run suggest."""

    proposals: list[Candidate | Gap] = field(default_factory=list)
    small: float = 0.0  # how many times larger the input must be for an op that failed on too small a map
    hopeless: bool = False  # an op failed that no input can help

    @property
    def sized(self) -> bool:
        """True when another size of the input may help."""
        return bool(self.small) or any(isinstance(p, Gap) for p in self.proposals)


class Repairs:
    """Proposes candidates that come nearer to what the model takes."""

    def __init__(self, guesser: Guesser) -> None:
        self.guesser, self.batch = guesser, guesser.batch

    def of_failures(self, outcome: Outcome) -> Found:
        """Changes for the first failed op that the input can be blamed for."""
        found = Found()
        for node in outcome.failures:
            found.small = too_small(outcome, node)
            for proposal in self._of_node(outcome, node):
                if not (found.hopeless and isinstance(proposal, Gap) and proposal.spatial_only):
                    found.proposals.append(proposal)
            if found.proposals or found.small:
                return found
            found.hopeless = True
        if not outcome.failures and outcome.finished and not outcome.batch_kept:
            views = outcome.graph.of_kind(Kind.RESHAPE)
            found.proposals += [gap for node in views for gap in self._of_fold(outcome, node)]
        return found

    def unconfirmed(self, outcome: Outcome) -> bool:
        """True when the first op that failed is a layer on inputs that no other layer takes, or a table of positions.

        There may be an input of other sides, not tried, for which the table is as long as the sequence.
        """
        for node in outcome.failures[:1]:
            with_table = _joins(node) and not all(from_input(n) for n in node.all_input_nodes)
            if with_table and any(isinstance(p, Gap) and p.axis is not None for p in self._of_node(outcome, node)):
                return True
        taken: set[Path] = set()
        for node in outcome.graph.nodes:
            if node.all_input_nodes and wanted_by(outcome, node) is not None:
                paths = self._upstream(outcome, node.all_input_nodes[0])
                if node in outcome.failures[:1]:
                    return bool(paths) and not taken & {*paths}
                taken |= {*paths}
        return False

    def _of_node(self, outcome: Outcome, node: fx.Node) -> Proposals:
        graph, inputs = outcome.graph, node.all_input_nodes
        if not inputs:
            return
        kind, module, wanted = node.meta["kind"], graph.module(node), wanted_by(outcome, node)
        if "error" in node.meta and "len(lengths)" in node.meta["error"].message:  # of a packed sequence
            yield outcome.candidate.sequence_first()
        if isinstance(module, nn.MultiheadAttention):
            sizes = (module.embed_dim, module.kdim or module.embed_dim, module.vdim or module.embed_dim)
            for operand, size in zip(inputs, sizes, strict=False):
                yield from self._of_layer(outcome, node, operand, replace(wanted or Want(3), size=size))
        elif kind is Kind.TRANSFORMER and wanted is not None:
            for operand in (n for n in inputs if len(graph.shape(n)) != 2):  # masks are 2-D
                yield from self._of_layer(outcome, node, operand, wanted)
        elif wanted is not None:
            yield from _of_fixed_batch(outcome, node)
            at = next((i for i, n in enumerate(inputs) if n.op != "get_attr"), 0) if wanted.is_ids else 0
            yield from self._of_layer(outcome, node, inputs[at], wanted)
        elif kind is Kind.RESHAPE:
            yield from self._of_view(outcome, node)
        elif kind in (Kind.MATMUL, Kind.SPLIT):
            asked = products_asked(outcome, node) if kind is Kind.MATMUL else pieces_asked(node)
            for position, axis, size in asked:
                yield from self._of_axis(outcome, node, position, axis, size)
        elif len(inputs) >= 2:
            skip = cat_dim(node, len(graph.shape(inputs[0]))) if kind is Kind.CAT else None
            yield from self._of_mismatch(outcome, node, skip)

    def _upstream(self, outcome: Outcome, node: fx.Node, through: frozenset[Kind] = _READS_THROUGH) -> list[Path]:
        """The inputs that reach a node without passing a layer."""
        found: dict[Path, None] = {}
        seen, todo = set(), [node]
        while todo:
            here = todo.pop(0)
            if here in seen or here.meta["kind"] not in through:
                continue
            seen.add(here)
            if here.name in outcome.sources:
                found[outcome.sources[here.name]] = None
            else:
                todo += here.all_input_nodes
        return list(found)

    # -- layers ----------------------------------------------------------------------------------------------------

    def _of_layer(self, outcome: Outcome, node: fx.Node, operand: fx.Node, wanted: Want) -> Proposals:
        shape = outcome.graph.shape(operand)
        paths = self._upstream(outcome, operand)
        if wanted.is_ids:
            yield from self._of_ids(outcome, wanted, paths)
            return
        yield from self._without_channel(outcome, operand, wanted, paths)
        for path in paths:
            guess = outcome.candidate.guesses[path]
            if guess.whole or guess.dtype == "bool":
                yield outcome.candidate.having(path, replace(guess, dtype=None, high=None, fill=None))
        sequences = wanted.rank == 2 and len(shape) == 3 and node.meta["kind"] is Kind.NORM  # BatchNorm1d takes both
        if wanted.rank not in (None, len(shape)) and not sequences:
            yield from self._of_rank(outcome, operand, wanted, paths)
            return
        if wanted.rank is None and wanted.axis == -1 and len(shape) > 3:
            yield from self._of_rank(outcome, operand, wanted, paths)
        if wanted.size and size_at(shape, wanted.axis) != wanted.size:
            position = node.all_input_nodes.index(operand)
            yield from self._of_axis(outcome, node, position, wanted.axis, wanted.size, wanted.why)
            if wanted.rank is None:
                yield from self._of_rank(outcome, operand, wanted, paths)

    def _of_ids(self, outcome: Outcome, wanted: Want, paths: list[Path]) -> Iterator[Candidate]:
        candidate = outcome.candidate
        for path in paths:
            guess = candidate.guesses[path]
            if not guess.whole:
                rank = min(2, len(guess.shape)) if guess.fill is not None else 2
                ids = Guess((self.batch, LENGTH)[:rank], "int64", wanted.ids, free=(1,)[: rank - 1], why=wanted.why)
                yield candidate.having(path, ids)
                yield candidate.having(path, replace(ids, shape=(self.batch,), free=()))
        if not paths:  # positions counted by the model itself: the table bounds the length
            for path, guess in candidate.guesses.items():
                if guess.free and guess.ladder == "sequence" and wanted.ids:
                    yield candidate.having(path, guess.with_size(guess.free[0], wanted.ids))

    def _without_channel(self, outcome: Outcome, operand: fx.Node, wanted: Want, paths: list[Path]) -> Proposals:
        """Maps for a convolution whose one channel the model adds itself."""
        axes = outcome.graph.axes(operand)
        if (wanted.axis, wanted.size) == (1, 1) and len(axes) > 2 and axes[1] == () and from_input(operand):
            shape = (self.batch, *guesses_for(wanted, self.batch)[0].shape[2:])
            maps = Guess(shape, free=tuple(range(1, len(shape))), ladder=wanted.ladder, why=wanted.why)
            yield from (outcome.candidate.having(path, maps) for path in paths)

    def _of_rank(self, outcome: Outcome, operand: fx.Node, wanted: Want, paths: list[Path]) -> Iterator[Candidate]:
        """Other numbers of axes for the inputs that reach the layer."""
        size = wanted.size or 3
        for path in paths:
            more = len(outcome.graph.shape(operand)) - len(outcome.candidate.guesses[path].shape)
            for other in guesses_for(wanted, self.batch):
                rank = len(other.shape) - more
                others = self.guesser.of_rank(rank, size, size) if more else [other]
                yield from (outcome.candidate.having(path, guess) for guess in others if rank >= 1)

    # -- one axis --------------------------------------------------------------------------------------------------

    def _of_axis(
        self, outcome: Outcome, node: fx.Node, position: int, axis: int, size: int, why: str = ""
    ) -> Proposals:
        """Makes the axis of an operand `size` long, if it comes from the input; `why` names the layer that asks."""
        operand = node.all_input_nodes[position]
        axes = outcome.graph.axes(operand)
        if not -len(axes) <= axis < len(axes) or size < 1 or not from_input(operand):
            return
        atoms = axes[axis]
        own = [atom for atom in atoms if atom.whole and atom.origin.source in outcome.sources]
        if len(own) == 1:
            yield from self._of_atom(outcome, node, own[0], size_of(atoms) // own[0].size, size, why)
        elif own and len(own) == len(atoms):
            yield from self._of_flat(outcome, own[0], size, why)
        elif not own:
            yield from self._of_features(outcome, node, position, axis, size)
            fixed = math.prod(atom.size for atom in atoms if not grows(outcome, atom))
            ladder, (length, sides) = outcome.candidate.ladder, observed(outcome, operand, axis)
            if ladder and fixed and size % fixed == 0 and (sides or not atoms):
                spatial = node.meta["kind"] is Kind.LINEAR and fixed == len(sides) == len(atoms) == 1
                oblong = fixed > 1 or (_joins(node) and any(n.op == "get_attr" for n in node.all_input_nodes))
                yield Gap(node.name, position, axis, size, length, sides if oblong else (), ladder, spatial)

    def _of_atom(
        self, outcome: Outcome, node: fx.Node, atom: Atom, rest: int, size: int, why: str
    ) -> Iterator[Candidate]:
        """An axis that is one of the input's, or `rest` times as long."""
        path, dim = outcome.sources[atom.origin.source], atom.origin.dim
        guess = outcome.candidate.guesses[path]
        if size % rest or dim == guess.batch:
            return
        mixing = node.meta["kind"] in (Kind.LINEAR, Kind.NORM)
        yield outcome.candidate.having(
            path,
            guess.with_size(dim, size // rest, why),
            spatial_only=mixing and rest == 1 and atom.role is Role.SPATIAL,
            doubtful=not why and size == self.batch,
        )

    def _of_flat(self, outcome: Outcome, atom: Atom, size: int, why: str) -> Iterator[Candidate]:
        """A flattened input: as a vector, or as square images."""
        path = outcome.sources[atom.origin.source]
        yield outcome.candidate.having(path, Guess((self.batch, size), why=why))
        for channels in (1, 3):
            side = math.isqrt(size // channels)
            if side * side * channels == size:
                yield outcome.candidate.having(path, Guess((self.batch, channels, side, side), why=why))

    def _of_features(self, outcome: Outcome, node: fx.Node, position: int, axis: int, size: int) -> Proposals:
        """An axis made of the inputs' by splitting, joining or computing: they grow together."""
        operand, candidate = node.all_input_nodes[position], outcome.candidate
        length, rank = size_at(outcome.graph.shape(operand), axis), len(outcome.graph.shape(operand))
        rows = []
        for path in self._upstream(outcome, operand):
            guess = candidate.guesses[path]
            dim = axis % rank if axis >= 0 else axis % max(1, len(guess.shape))
            if dim < len(guess.shape) and dim != guess.batch:
                rows.append((path, dim))
        rows = [(path, dim) for path, dim in rows if dim not in candidate.guesses[path].known] or rows
        share, more = divmod(size, max(1, len(rows)))
        if len(rows) > 1 and share:
            for index, (path, dim) in enumerate(rows):
                guess = candidate.guesses[path].with_size(dim, share + (more if index == 0 else 0))
                candidate = candidate.having(path, replace(guess, dtype=None, high=None, fill=None))
            yield candidate
        for row in rows:
            yield Gap(node.name, position, axis, size, length, (), only=row)

    # -- ops on several operands, and views ------------------------------------------------------------------------

    def _of_mismatch(self, outcome: Outcome, node: fx.Node, skip: int | None) -> Proposals:
        """Operands that should have equal axes: changes the one that comes later in forward's signature."""
        inputs = node.all_input_nodes
        shapes = [outcome.graph.shape(n) for n in inputs]
        if not all(shapes):
            return
        for axis in range(-1, -max(map(len, shapes)) - 1, -1):
            sizes = {size_at(shape, axis) for shape in shapes if len(shape) >= -axis} - {1}
            if len(sizes) < 2 or axis == skip:
                continue
            constant = [size_at(s, axis) for s, n in zip(shapes, inputs, strict=True) if not from_input(n)]
            for at in reversed(range(len(inputs))):
                others = constant or [size_at(s, axis) for i, s in enumerate(shapes) if i != at and len(s) >= -axis]
                for size in dict.fromkeys(others):
                    if len(shapes[at]) >= -axis and size not in (1, size_at(shapes[at], axis)):
                        yield from self._of_axis(outcome, node, at, axis, size)
        for operand, shape in zip(inputs, shapes, strict=True):
            for path in self._upstream(outcome, operand, _LOOKS_UP) if len({*map(len, shapes)}) > 1 else ():
                rank = len(outcome.candidate.guesses[path].shape) - len(shape)
                for other in {len(s) for s in shapes} - {len(shape)}:
                    yield from of_rank(outcome.candidate, path, rank + other, self.guesser)

    def _of_view(self, outcome: Outcome, node: fx.Node) -> Proposals:
        """A view that the number of values does not allow, or that took values from the batch."""
        operand, candidate = node.all_input_nodes[0], outcome.candidate
        shape, asked = outcome.graph.shape(operand), sizes_asked(node)
        rest = asked[1:] if asked and asked[0] in (-1, self.batch, outcome.batch) else []
        if not rest or -1 in rest:
            return
        needed, length = math.prod(rest), math.prod(shape[1:])
        own = self._upstream(outcome, operand)
        if len(own) == 1 and len(candidate.guesses[own[0]].shape) == len(shape):
            guess = candidate.guesses[own[0]]
            for sizes in dict.fromkeys(((needed,), tuple(rest))):
                yield candidate.having(own[0], replace(guess, shape=(self.batch, *sizes), free=()))
        else:
            for path in own:
                for dim in range(len(candidate.guesses[path].shape) - 1, 0, -1):
                    yield Gap(node.name, 0, None, needed, length, (), only=(path, dim))
        ladder = outcome.candidate.ladder
        if ladder and len(shape) >= 3 and needed % shape[1] == 0:
            yield Gap(node.name, 0, None, needed, length, shape[2:], ladder)

    def _of_fold(self, outcome: Outcome, node: fx.Node) -> Iterator[Gap]:
        """A view that is possible, but moved values into the batch."""
        before, after = outcome.graph.shape(node.all_input_nodes[0]), outcome.graph.shape(node)
        if before and after and before[0] == outcome.batch != after[0]:
            yield from (gap for gap in self._of_view(outcome, node) if isinstance(gap, Gap))


def _joins(node: fx.Node) -> bool:
    return node.meta["kind"] in (Kind.ADD, Kind.MUL)


def _of_fixed_batch(outcome: Outcome, node: fx.Node) -> Iterator[Candidate]:
    """A hidden state that was made for another batch size."""
    error = node.meta.get("error")
    found = _HIDDEN.search(error.message) if error else None
    if found and int(found[1]) == outcome.batch != int(found[2]):
        yield outcome.candidate.with_batch(int(found[2]))
