"""What to change in a candidate, judging by the first op that failed with it."""

from __future__ import annotations

import linecache
import math
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx, nn

from bnlint.graph.axes import Atom, Role, size_of
from bnlint.graph.frames import Owner, owner
from bnlint.graph.ops import Kind, op_name
from bnlint.inputs.guess import LADDERS, LENGTH, Candidate, Guess, Guesser, Path, Want, guesses_for, want
from bnlint.inputs.trial import Outcome

_READS_THROUGH = frozenset(
    (Kind.SAME, Kind.RESHAPE, Kind.PERMUTE, Kind.EXPAND, Kind.INDEX, Kind.STACK, Kind.NORM, Kind.DROPOUT, Kind.PAD)
    + (Kind.ACTIVATION, Kind.ELEMENTWISE, Kind.ADD, Kind.MUL, Kind.RESIZE, Kind.POOL, Kind.SPLIT, Kind.CAT, Kind.INPUT)
)


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

    @property
    def largest(self) -> int:
        """The largest size to try."""
        return {"image": 1024, "volume": 128, "sequence": 4096}.get(self.ladder, 1 << 18)

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

    def next_size(self, low: int, high: int, size: int, observed: int) -> int:
        """What to try between two sizes, after `size` gave `observed`."""
        if not observed:
            return roundest(self.ladder, low, high, 2.0 * size)
        whole = self.needed * max(1, round(size / observed))
        if self.only is not None and low < whole < high:
            return whole
        return roundest(self.ladder, low, high, size * (self.needed / observed) ** (1 / max(1, len(self.sides))))

    def measure(self, outcome: Outcome) -> tuple[int, tuple[int, ...]]:
        """What is observed in another run, and the sides; 0 when it did not come so far."""
        node = next((n for n in outcome.graph.nodes if n.name == self.node), None)
        if node is None or self.operand >= len(node.all_input_nodes):
            return 0, ()
        return observed(outcome, node.all_input_nodes[self.operand], self.axis)


def roundest(ladder: str, low: int, high: int, estimate: float) -> int:
    """A size between two others, near the estimate: a usual one if there is one, else a round one."""
    usual = [size for size in LADDERS.get(ladder, ()) if low < size < high]
    if usual:
        return min(usual, key=lambda size: abs(math.log(size / estimate)))
    best = min(max(round(estimate), low + 1), high - 1)
    step = 1 << max(0, (high - low).bit_length() - 2)
    rounded = round(best / step) * step
    return rounded if low < rounded < high and ladder != "features" else best


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
    return atom.role is not Role.CHANNEL or (path is not None and atom.origin.dim in outcome.candidate.guesses[path].free)


def _flattened(outcome: Outcome, node: fx.Node) -> tuple[int, ...]:
    """The sides, all 1, of a map that was flattened; () when there was none, or a pooled one."""
    while node.meta["kind"] in (Kind.SAME, Kind.DROPOUT) and node.all_input_nodes:
        node = node.all_input_nodes[0]
    if node.meta["kind"] is not Kind.RESHAPE:
        return ()
    data = node.all_input_nodes[0]
    pooled = "adaptive" in op_name(data).lower() or data.meta["kind"] is Kind.REDUCE
    return () if pooled else outcome.graph.shape(data)[2:]


@dataclass
class Found:
    """What the failed ops of a run suggest."""

    candidates: list[Candidate] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    small: bool = False  # an op failed on a map that is too small for it
    hopeless: bool = False  # an op failed that no input can help


class Repairs:
    """Proposes candidates that come nearer to what the model takes."""

    def __init__(self, guesser: Guesser) -> None:
        self.guesser = guesser
        self.batch = guesser.batch

    # -- from failed ops -------------------------------------------------------------------------------------------

    def of_failures(self, outcome: Outcome) -> Found:
        """Changes for the first failed op that the input can be blamed for."""
        found = Found()
        for node in outcome.failures:
            if "error" in node.meta and _TOO_SMALL.search(node.meta["error"].message):
                found.small = True
            for proposal in self._of_node(outcome, node):
                if isinstance(proposal, Gap):
                    found.gaps.append(proposal)
                else:
                    found.candidates.append(proposal)
            if found.candidates or found.gaps or found.small:
                return found
            found.hopeless = True
        if not outcome.failures and outcome.finished and not outcome.batch_kept:
            found.gaps += [gap for node in outcome.graph.of_kind(Kind.RESHAPE) for gap in self._of_fold(outcome, node)]
        return found

    def _of_fold(self, outcome: Outcome, node: fx.Node) -> Iterator[Gap]:
        """A view that is possible, but moved values into the batch."""
        before, after = outcome.graph.shape(node.all_input_nodes[0]), outcome.graph.shape(node)
        if before and after and before[0] == outcome.batch != after[0]:
            yield from (gap for gap in self._of_view(outcome, node) if isinstance(gap, Gap))

    def _of_node(self, outcome: Outcome, node: fx.Node) -> Iterator[Candidate | Gap]:
        graph, inputs = outcome.graph, node.all_input_nodes
        if not inputs:
            return
        kind, wanted = node.meta["kind"], self._want(outcome, node)
        module = graph.module(node)
        if isinstance(module, nn.MultiheadAttention):
            wants = (module.embed_dim, module.kdim or module.embed_dim, module.vdim or module.embed_dim)
            for operand, size in zip(inputs, wants, strict=False):
                yield from self._of_layer(outcome, node, operand, replace(wanted or Want(3), size=size))
        elif isinstance(module, nn.RNNBase):
            yield from self._of_fixed_batch(outcome, node)
            yield from self._of_layer(outcome, node, inputs[0], wanted or Want(3))
        elif kind is Kind.TRANSFORMER and wanted is not None:
            for operand in inputs:
                if len(graph.shape(operand)) != 2:
                    yield from self._of_layer(outcome, node, operand, wanted)
        elif wanted is not None:
            at = _ids_position(inputs) if wanted.is_ids and node.op != "call_module" else 0
            yield from self._of_layer(outcome, node, inputs[at], wanted)
        elif kind is Kind.RESHAPE:
            yield from self._of_view(outcome, node)
        elif kind is Kind.MATMUL and op_name(node) != "einsum" and len(inputs) >= 2:
            a, b = inputs[-2:]
            yield from self._of_axis(outcome, node, 1, -2, _size(graph.shape(a), -1))
            yield from self._of_axis(outcome, node, 0, -1, _size(graph.shape(b), -2))
        elif len(inputs) >= 2:
            skip = _cat_dim(node, len(graph.shape(inputs[0]))) if kind is Kind.CAT else None
            yield from self._of_mismatch(outcome, node, skip)

    def _of_fixed_batch(self, outcome: Outcome, node: fx.Node) -> Iterator[Candidate]:
        """A hidden state that was made for another batch size."""
        error = node.meta.get("error")
        found = error and re.search(
            r"hidden(?:\[\d\])? size \(\d+, (\d+), \d+\), got \[\d+, (\d+), \d+\]", error.message
        )
        if found and int(found[1]) == outcome.batch != int(found[2]):
            yield outcome.candidate.with_batch(int(found[2]))

    def _want(self, outcome: Outcome, node: fx.Node) -> Want | None:
        module = outcome.graph.module(node)
        if module is not None:
            return want(module, str(node.target))
        kind, inputs = node.meta["kind"], node.all_input_nodes
        constants = [n for n in inputs if n.op == "get_attr"]
        shape = outcome.graph.shape(constants[0]) if constants else ()
        why = f"first layer `{constants[0].target}`" if constants else ""
        if kind is Kind.LINEAR and len(shape) == 2:
            return Want(None, -1, shape[1], why=why)
        if kind is Kind.EMBEDDING and len(shape) == 2:
            return Want(2, ids=shape[0], why=why)
        if kind is Kind.CONV and len(shape) >= 3:
            ladder = ("signal", "image", "volume")[len(shape) - 3]
            return Want(len(shape), 1, shape[1], ladder, why=why)
        return None

    def _of_layer(self, outcome: Outcome, node: fx.Node, operand: fx.Node, wanted: Want) -> Iterator[Candidate | Gap]:
        shape = outcome.graph.shape(operand)
        position = node.all_input_nodes.index(operand)
        paths = self._upstream(outcome, operand)
        if wanted.is_ids:
            yield from self._of_ids(outcome, operand, wanted, paths)
            return
        for path in paths:
            guess = outcome.candidate.guesses[path]
            if guess.whole or guess.dtype == "bool":
                yield outcome.candidate.having(path, replace(guess, dtype=None, high=None, fill=None))
        norm = node.meta["kind"] is Kind.NORM
        if (
            wanted.rank is not None
            and len(shape) != wanted.rank
            and not (norm and wanted.rank == 2 and len(shape) == 3)
        ):
            yield from self._of_rank(outcome, operand, wanted, paths)
            return
        if wanted.rank is None and wanted.axis == -1 and len(shape) > 3:
            yield from self._of_rank(outcome, operand, wanted, paths)
        if wanted.size and _size(shape, wanted.axis) != wanted.size:
            yield from self._of_axis(outcome, node, position, wanted.axis, wanted.size, why=wanted.why)
            if wanted.rank is None:
                yield from self._of_rank(outcome, operand, wanted, paths)

    def _of_ids(self, outcome: Outcome, operand: fx.Node, wanted: Want, paths: list[Path]) -> Iterator[Candidate]:
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

    def _of_rank(self, outcome: Outcome, operand: fx.Node, wanted: Want, paths: list[Path]) -> Iterator[Candidate]:
        """Other numbers of axes for the inputs that reach the layer without passing another one."""
        shape = outcome.graph.shape(operand)
        for path in paths:
            guess = outcome.candidate.guesses[path]
            more = len(shape) - len(guess.shape)
            for other in guesses_for(wanted, self.batch):
                rank = len(other.shape) - more
                if not more:
                    yield outcome.candidate.having(path, other)
                elif rank >= 1:
                    yield outcome.candidate.having(path, self.guesser.of_rank(rank, wanted.size, wanted.size))

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

    # -- one axis --------------------------------------------------------------------------------------------------

    def _of_axis(
        self, outcome: Outcome, node: fx.Node, position: int, axis: int, size: int, why: str = ""
    ) -> Iterator[Candidate | Gap]:
        """Makes the axis of an operand `size` long, if it comes from the input."""
        operand = node.all_input_nodes[position]
        axes = outcome.graph.axes(operand)
        if not -len(axes) <= axis < len(axes) or size < 1:
            return
        atoms = axes[axis]
        own = [atom for atom in atoms if atom.whole and self._source(outcome, atom) is not None]
        mixing = node.meta["kind"] in (Kind.LINEAR, Kind.NORM)
        if len(own) == 1:
            rest = size_of(atoms) // own[0].size
            if size % rest == 0 and self._is_free(outcome, own[0]):
                path, dim = self._source(outcome, own[0]) or ((), 0)
                spatial = mixing and rest == 1 and own[0].role is Role.SPATIAL
                guess = outcome.candidate.guesses[path].with_size(dim, size // rest, why)
                doubtful = not why and size == self.batch
                yield outcome.candidate.having(path, guess, spatial_only=spatial, doubtful=doubtful)
        elif own and len(own) == len(atoms):
            yield from self._flat(outcome, own, size, why)
        elif not own:
            yield from self._of_features(outcome, node, position, axis, size)
        fixed = math.prod(atom.size for atom in atoms if not grows(outcome, atom))
        ladder = self._ladder(outcome)
        length, sides = observed(outcome, operand, axis)
        if ladder and size % fixed == 0 and (sides or not atoms) and not own:
            spatial = node.meta["kind"] is Kind.LINEAR and fixed == 1 and len(sides) == 1 and len(atoms) == 1
            yield Gap(node.name, position, axis, size, length, sides if fixed > 1 else (), ladder, spatial)

    def _of_features(
        self, outcome: Outcome, node: fx.Node, position: int, axis: int, size: int
    ) -> Iterator[Candidate | Gap]:
        """An axis made of the inputs' by splitting, joining or computing: they grow together."""
        operand, candidate = node.all_input_nodes[position], outcome.candidate
        length, rank = _size(outcome.graph.shape(operand), axis), len(outcome.graph.shape(operand))
        rows = []
        for path in self._upstream(outcome, operand):
            guess = candidate.guesses[path]
            dim = axis % rank if axis >= 0 else axis % len(guess.shape)
            if dim < len(guess.shape) and dim != guess.batch:
                rows.append((path, dim))
        if len(rows) > 1 and size >= len(rows):
            for path, dim in rows:
                guess = candidate.guesses[path].with_size(dim, size // len(rows) + (size % len(rows) if path is rows[0][0] else 0))
                candidate = candidate.having(path, replace(guess, dtype=None, high=None, fill=None))
            yield candidate
        for row in rows:
            yield Gap(node.name, position, axis, size, length, (), only=row)

    def _source(self, outcome: Outcome, atom: Atom) -> tuple[Path, int] | None:
        path = outcome.sources.get(atom.origin.source)
        return (path, atom.origin.dim) if path is not None else None

    def _is_free(self, outcome: Outcome, atom: Atom) -> bool:
        """The batch keeps its size."""
        path, dim = self._source(outcome, atom) or ((), 0)
        return outcome.candidate.guesses[path].batch != dim

    def _flat(self, outcome: Outcome, atoms: list[Atom], size: int, why: str) -> Iterator[Candidate]:
        """A flattened input: as a vector, or as square images."""
        path, _ = self._source(outcome, atoms[0]) or ((), 0)
        yield outcome.candidate.having(path, Guess((self.batch, size), why=why))
        for channels in (1, 3):
            side = math.isqrt(size // channels)
            if side * side * channels == size:
                yield outcome.candidate.having(path, Guess((self.batch, channels, side, side), why=why))

    def _ladder(self, outcome: Outcome) -> str | None:
        """The ladder of the sizes that may still be chosen."""
        rows = [guess.ladder for guess in outcome.candidate.guesses.values() if guess.free]
        return min(rows, key=["volume", "image", "signal", "sequence"].index, default=None)

    # -- ops on several operands -----------------------------------------------------------------------------------

    def _of_mismatch(self, outcome: Outcome, node: fx.Node, skip: int | None) -> Iterator[Candidate | Gap]:
        """Operands that should have equal axes: changes the one that comes later in forward's signature."""
        graph, inputs = outcome.graph, node.all_input_nodes
        shapes = [graph.shape(n) for n in inputs]
        if not all(shapes):
            return
        for axis in range(-1, -max(map(len, shapes)) - 1, -1):
            sizes = {_size(shape, axis) for shape in shapes if len(shape) >= -axis} - {1}
            if len(sizes) < 2 or (skip is not None and axis == skip):
                continue
            constant = [_size(s, axis) for s, n in zip(shapes, inputs, strict=True) if n.op == "get_attr"]
            for at in reversed(range(len(inputs))):
                others = constant or [_size(s, axis) for i, s in enumerate(shapes) if i != at and len(s) >= -axis]
                for size in dict.fromkeys(others):
                    if len(shapes[at]) >= -axis and size not in (1, _size(shapes[at], axis)):
                        yield from self._of_axis(outcome, node, at, axis, size)
        if len({len(shape) for shape in shapes}) > 1:
            yield from self._of_ranks(outcome, inputs, shapes)

    def _of_ranks(self, outcome: Outcome, inputs: list[fx.Node], shapes: list[tuple[int, ...]]) -> Iterator[Candidate]:
        for at, (node, shape) in enumerate(zip(inputs, shapes, strict=True)):
            for path in self._upstream(outcome, node, _READS_THROUGH | {Kind.EMBEDDING, Kind.REDUCE}):
                guess = outcome.candidate.guesses[path]
                for other in (len(s) for i, s in enumerate(shapes) if i != at and len(s) != len(shape)):
                    yield from self.of_rank(outcome.candidate, path, len(guess.shape) + other - len(shape))

    def _of_view(self, outcome: Outcome, node: fx.Node) -> Iterator[Candidate | Gap]:
        """A view that the number of values does not allow, or that took values from the batch."""
        operand = node.all_input_nodes[0]
        shape = outcome.graph.shape(operand)
        asked = _sizes_asked(node)
        rest = [s for s in asked[1:]] if asked and (asked[0] in (-1, self.batch, outcome.batch)) else []
        if not rest or -1 in rest:
            return
        needed = math.prod(rest)
        own = self._upstream(outcome, operand)
        plain = [path for path in own if len(outcome.candidate.guesses[path].shape) == len(shape)]
        if plain and len(own) == 1:
            guess = outcome.candidate.guesses[plain[0]]
            for sizes in dict.fromkeys(((needed,), tuple(rest))):
                yield outcome.candidate.having(plain[0], replace(guess, shape=(self.batch, *sizes), free=()))
        elif own:
            for path in own:
                for dim in range(len(outcome.candidate.guesses[path].shape) - 1, 0, -1):
                    yield Gap(node.name, 0, None, needed, math.prod(shape[1:]), (), only=(path, dim))
        ladder = self._ladder(outcome)
        if ladder and len(shape) >= 3 and needed % shape[1] == 0:
            yield Gap(node.name, 0, None, needed, math.prod(shape[1:]), shape[2:], ladder, False)

    # -- from a run that ended early -------------------------------------------------------------------------------

    def of_end(self, outcome: Outcome) -> Iterator[Candidate]:
        """Changes suggested by the exception that ended the run."""
        error, candidate = outcome.recording.error, outcome.candidate
        if error is None:
            return
        text = str(error)
        rank = _rank_asked(text)
        blamed = self._blamed(outcome, error)
        for path in blamed if rank is not None else ():
            if rank is not None and len(candidate.guesses[path].shape) != rank:
                yield from self.of_rank(candidate, path, rank)
        yield from self._optional(candidate, error, text)
        yield from self._numbers(candidate, f"{text} {' '.join(map(str, _compared(error)))}")
        yield from self._dtypes(candidate, text, blamed)
        if outcome.graph.op_count < 8:
            for path in blamed:
                for other in (4, 2, 3, 5, 1):
                    if other != len(candidate.guesses[path].shape):
                        yield from self.of_rank(candidate, path, other)

    def of_rank(self, candidate: Candidate, path: Path, rank: int) -> Iterator[Candidate]:
        """The same input with another number of axes."""
        guess = candidate.guesses[path]
        if not 0 <= rank <= 6:
            return
        if guess.whole or guess.dtype == "bool" or guess.fill is not None:
            shape = (*guess.shape, *[LENGTH] * 6)[:rank]
            other = replace(guess, shape=shape, free=tuple(range(1, rank)), batch=0 if rank else None)
            alike = [p for p, g in candidate.guesses.items() if (g.shape, g.dtype) == (guess.shape, guess.dtype)]
            if len(alike) > 1:
                yield replace(candidate, guesses={**candidate.guesses, **dict.fromkeys(alike, other)})
            yield candidate.having(path, other)
            return
        for _, wanted in self.guesser.wants:
            if not wanted.is_ids and wanted.rank in (rank, None):
                found = [g for g in guesses_for(wanted, self.batch) if len(g.shape) == rank]
                if found:
                    yield candidate.having(path, found[0])
                    break
        yield candidate.having(path, self.guesser.of_rank(rank))

    def _optional(self, candidate: Candidate, error: BaseException, text: str) -> Iterator[Candidate]:
        """Parameters with a default that turn out to be needed."""
        absent = [name for name in self.guesser.parameters if not any(p[0] == name for p in candidate.guesses)]
        line = " ".join(_lines(error))
        for name in absent:
            if self.guesser.parameters[name].default is not None:
                continue
            if re.search(rf"\b{re.escape(name)}\b", f"{text} {line}"):
                yield self.guesser.with_parameter(candidate, name)
        if "NoneType" in text and absent:
            yield self.guesser.with_parameter(candidate, absent[0])

    def _numbers(self, candidate: Candidate, text: str) -> Iterator[Candidate]:
        """Sizes named in the message of the model's own check."""
        numbers = (int(number[:6]) for number in re.findall(r"\d+", text))
        sizes = list(dict.fromkeys(number for number in numbers if 2 <= number <= 20000))[:6]
        for ladder in {g.ladder: None for g in candidate.guesses.values() if g.free}:
            present = {g.shape[axis] for g in candidate.guesses.values() if g.ladder == ladder for axis in g.free}
            for size in sizes:
                if size not in present and size != self.batch:
                    yield candidate.scaled(ladder, size)
        for path, guess in candidate.guesses.items():
            if 1 not in guess.free and len(guess.shape) > 2 and not guess.whole:
                yield from (candidate.having(path, guess.with_size(1, size)) for size in sizes)

    def _dtypes(self, candidate: Candidate, text: str, blamed: list[Path]) -> Iterator[Candidate]:
        if re.search(r"must be (?:long|int|.*integer)|tensors used as indices|IntTensor|LongTensor|Long\b|int64", text):
            for path in blamed:
                guess = candidate.guesses[path]
                if not guess.whole:
                    yield candidate.having(path, replace(guess, dtype="int64", high=None, fill=None))
        if re.search(r"\b[Bb]ool", text):
            for path in blamed:
                if candidate.guesses[path].dtype != "bool":
                    yield candidate.having(path, replace(candidate.guesses[path], dtype="bool", fill=1.0))

    def _blamed(self, outcome: Outcome, error: BaseException) -> list[Path]:
        """The inputs that the failing line reads, else all of them."""
        guesses = outcome.candidate.guesses
        shapes = [tuple(t.shape) for t in _tensors_of_line(error)]
        found = [path for path, guess in guesses.items() if guess.spec(outcome.batch).shape in shapes]
        return found or list(guesses)


def _size(shape: tuple[int, ...], axis: int) -> int:
    return shape[axis] if -len(shape) <= axis < len(shape) else 0


def _ids_position(inputs: list[fx.Node]) -> int:
    return next((i for i, n in enumerate(inputs) if n.op != "get_attr"), 0)


def _cat_dim(node: fx.Node, rank: int) -> int:
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
    return dim if isinstance(dim, int) and dim < 0 else int(dim) - rank if isinstance(dim, int) else 0


def _sizes_asked(node: fx.Node) -> list[int]:
    sizes: Any = node.args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    return (
        [int(s) for s in sizes]
        if op_name(node) in ("view", "reshape") and all(isinstance(s, int) for s in sizes)
        else []
    )


_TOO_SMALL = re.compile(
    r"(?i)output size is too small|Kernel size can't be greater|smaller than kernel|[Pp]adding size should be less than"
    r"|negative dimension|non-zero size|more than 1 value per channel|more than 1 spatial element|kernel_size.*greater"
)
_RANKS = (
    (re.compile(r"not enough values to unpack \(expected (\d+)"), 0),
    (re.compile(r"too many values to unpack \(expected (\d+)"), 0),
    (re.compile(r"len\(dims\) = (\d+)"), 0),
    (re.compile(r"but got (\d+)\)$"), 1),
    (re.compile(r"too many indices for tensor of dimension (\d+)"), 1),
    (re.compile(r"[Ee]xpected (\d+)-?[Dd]"), 0),
    (re.compile(r"must be (?:a )?(\d+)-?D"), 0),
)


def _rank_asked(text: str) -> int | None:
    """The number of axes that an error message asks for."""
    return next((int(found[1]) + plus for pattern, plus in _RANKS if (found := pattern.search(text))), None)


def _user_frames(error: BaseException) -> list[tuple[types.FrameType, int]]:
    rows = []
    trace = error.__traceback__
    while trace is not None:
        if owner(trace.tb_frame.f_code.co_filename) != Owner.TORCH:
            rows.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    return rows


def _lines(error: BaseException) -> list[str]:
    return [linecache.getline(frame.f_code.co_filename, line) for frame, line in _user_frames(error)[-2:]]


def _compared(error: BaseException) -> list[int]:
    """The whole numbers that the failing check, or the line above, reads from attributes: `self.image_size`."""
    found: list[int] = []
    for frame, line in _user_frames(error)[-1:]:
        rows = [linecache.getline(frame.f_code.co_filename, number) for number in (line, line - 1)]
        for name, attribute in re.findall(r"\b(\w+)\.(\w+)", " ".join(rows)):
            value = getattr(frame.f_locals.get(name), "__dict__", {}).get(attribute)
            values = value if isinstance(value, (tuple, list)) else (value,)
            found += [v for v in values if isinstance(v, int) and not isinstance(v, bool)]
    return found


def _tensors_of_line(error: BaseException) -> list[torch.Tensor]:
    """The tensors among the variables that the failing line names."""
    found = []
    for frame, line in _user_frames(error)[-1:]:
        words = set(re.findall(r"\w+", linecache.getline(frame.f_code.co_filename, line)))
        found += [v for k, v in frame.f_locals.items() if k in words and isinstance(v, torch.Tensor)]
    return found


__all__ = ["LADDERS", "Gap", "Repairs"]
nn  # noqa
