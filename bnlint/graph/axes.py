"""Where every axis of every value comes from.

An axis is a tuple of atoms. An atom is an indivisible run of index values with one role: the batch, the channels a
layer made, a spatial or sequence axis of the input. Folding joins atoms, unfolding takes them apart again, so
`(B, T, C) -> (B*T, C) -> (B, T, C)` gives back the very same atoms and `(B, C, H, W).view(-1, C*H)` shows that half
of every sample's features went into the rows. Nothing here looks at op names; `axis_layers.py` and `axis_rules.py` do.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count


class Role(enum.Enum):
    """What the positions along an axis are."""

    BATCH = "batch"
    CHANNEL = "channel"  # features: what a layer mixes and makes
    SPATIAL = "spatial"
    SEQUENCE = "sequence"
    UNKNOWN = "unknown"


_ids = count()


@dataclass(eq=False)
class Origin:
    """The axis an atom is (a piece of): its role is learnt from the first layer that reads it."""

    role: Role
    source: str  # the node that made the axis
    dim: int
    size: int
    guessed: bool = False  # made by a repair that had to guess
    resized_from: Origin | None = None  # the axis before a stride, pooling or slice changed its length
    parts: tuple[Axis, ...] = ()  # what a concatenation joined
    packed: tuple[Axis, ...] = ()  # the batch and the time of a packed sequence, whose rows this counts

    @property
    def root(self) -> Origin:
        """The axis this one descends from, resizing left out."""
        return self.resized_from.root if self.resized_from is not None else self


@dataclass(frozen=True)
class Atom:
    """`size` positions of an origin. `part` is (which, of how many pieces inside, …): () for the whole axis."""

    origin: Origin
    size: int
    part: tuple[tuple[int, int], ...] = ()  # (stride, size) of the piece within the origin
    mixed: frozenset[Origin] = frozenset()  # several origins interleaved beyond recovery

    @property
    def role(self) -> Role:
        """The origin's role; a mixture with the batch in it counts as unknown."""
        return Role.UNKNOWN if self.mixed else self.origin.role

    @property
    def origins(self) -> frozenset[Origin]:
        """Every axis this atom takes positions from."""
        return self.mixed or frozenset((self.origin,))

    @property
    def whole(self) -> bool:
        """True when the atom is all of its origin."""
        return not self.part and not self.mixed


Axis = tuple[Atom, ...]  # row-major; () is an axis of size 1 with nothing in it
Axes = tuple[Axis, ...]


def fresh(role: Role, source: str, dim: int, size: int, *, guessed: bool = False) -> Axis:
    """A new axis that an op makes."""
    return (Atom(Origin(role, source, dim, size, guessed), size),) if size != 1 else ()


def size_of(axis: Axis) -> int:
    """The number of positions along an axis."""
    return math.prod(atom.size for atom in axis)


def roles(axis: Axis) -> frozenset[Role]:
    """The roles folded into an axis."""
    return frozenset(origin.role for atom in axis for origin in atom.origins)


def origins(axis: Axis) -> frozenset[Origin]:
    """The origins folded into an axis."""
    return frozenset(origin for atom in axis for origin in atom.origins)


def resized(axis: Axis, source: str, dim: int, size: int) -> Axis:
    """The axis after an op changed its length (stride, pooling, slicing): same role, new positions."""
    if size_of(axis) == size:
        return axis
    found = roles(axis)
    role = next(iter(found)) if len(found) == 1 else Role.UNKNOWN
    new = fresh(role, source, dim, size, guessed=any(origin.guessed for origin in origins(axis)))
    if new and len(axis) == 1 and not axis[0].mixed:
        new[0].origin.resized_from = axis[0].origin
    return new


def joined(parts: Sequence[Axis], role: Role, source: str, dim: int, size: int) -> Axis:
    """The axis that a concatenation makes; it remembers its parts, so that cutting it again gives them back."""
    axis = fresh(role, source, dim, size)
    if axis and sum(map(size_of, parts)) == size:
        axis[0].origin.parts = tuple(parts)
    return axis


def cut(axis: Axis, start: int, source: str, dim: int, size: int) -> Axis:
    """`size` positions of an axis from `start` on: one of the parts it was joined from, or positions of their own."""
    at = 0
    for part in axis[0].origin.parts if len(axis) == 1 and axis[0].whole else ():
        if at == start and size_of(part) == size:
            return part
        at += size_of(part)
    return resized(axis, source, dim, size)


def reshape(axes: Axes, shape: Sequence[int]) -> Axes:
    """The axes of a row-major reshape: atoms are handed out in order, split where a boundary falls inside one."""
    atoms = [atom for axis in axes for atom in axis]
    result: list[Axis] = []
    for size in shape:
        taken: list[Atom] = []
        while size_of(tuple(taken)) < size and atoms:
            need, rest = divmod(size, size_of(tuple(taken)))
            head = atoms[0]
            if not rest and need % head.size == 0:
                taken.append(atoms.pop(0))
            elif not rest and head.size % need == 0 and not head.mixed:
                outer, inner = _split(head, need)
                taken.append(outer)
                atoms[0] = inner
            else:
                return _mixture(result, taken, atoms, shape)
        result.append(_join(taken))
    return tuple(result)


def _split(atom: Atom, outer: int) -> tuple[Atom, Atom]:
    """`atom` as (outer, inner) pieces; the pieces know the stride and size at which they lie in the origin."""
    inner = atom.size // outer
    stride = atom.part[0][0] if atom.part else 1
    return (
        Atom(atom.origin, outer, ((stride * inner, outer),)),
        Atom(atom.origin, inner, ((stride, inner),)),
    )


def _join(atoms: Iterable[Atom]) -> Axis:
    """Neighbouring pieces of one origin, in their original order, become one piece again."""
    joined: list[Atom] = []
    for atom in atoms:
        last = joined[-1] if joined else None
        if last is not None and last.origin is atom.origin and _follows(last, atom):
            stride, size = atom.part[0][0], last.size * atom.size
            part = () if stride == 1 and size == atom.origin.size else ((stride, size),)
            joined[-1] = Atom(atom.origin, size, part)
        else:
            joined.append(atom)
    return tuple(joined)


def _follows(outer: Atom, inner: Atom) -> bool:
    return bool(outer.part and inner.part) and outer.part[0][0] == inner.part[0][0] * inner.size


def _mixture(done: list[Axis], taken: list[Atom], rest: list[Atom], shape: Sequence[int]) -> Axes:
    """From the first boundary that falls across atoms on, the axes are mixtures of all that is left."""
    pool = [*taken, *rest]
    mixed = frozenset(origin for atom in pool for origin in atom.origins)
    rest_of = shape[len(done) :]
    return (*done, *((Atom(pool[0].origin, size, (), mixed),) if size != 1 and pool else () for size in rest_of))


def is_batch(axis: Axis) -> bool:
    """True when the axis is the whole batch and nothing else."""
    return len(axis) == 1 and axis[0].whole and axis[0].role is Role.BATCH


def holds_batch(axis: Axis) -> bool:
    """True when the batch, or a piece of it, is folded into the axis."""
    return Role.BATCH in roles(axis)
