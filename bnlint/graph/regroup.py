"""Reshapes that cut across axes although the sizes they ask for are those of a permutation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from torch import fx

from bnlint.graph.axes import Atom, Axes, Role, size_of
from bnlint.graph.batches import sizes_asked
from bnlint.graph.model import Graph
from bnlint.graph.ops import Kind
from bnlint.graph.options import behind_option

_MOST_ATOMS = 7  # beyond that some order fits nearly every shape


@dataclass(frozen=True)
class Regrouped:
    """A reshape where a permutation was meant: the pieces it starts from, and the order that gives whole axes."""

    node: fx.Node
    source: fx.Node
    pieces: tuple[int, ...]  # the source as a row-major list of pieces
    order: tuple[int, ...]  # the pieces' order after the permutation that was meant
    sizes: tuple[int, ...]  # the shape that the reshape asks for


def regrouped(graph: Graph, node: fx.Node) -> Regrouped | None:
    """The permutation that a reshape stands in for; None when it only folds or splits axes."""
    source = graph.data(node)
    axes = graph.axes(source) if source is not None else ()
    if graph.kind(node) is not Kind.RESHAPE or source is None or graph.error(node) is not None:
        return None
    atoms = [atom for axis in axes for atom in axis]
    wanted = [size for size in graph.shape(node) if size != 1]
    if not _known(graph, source, axes) or not 2 <= len(atoms) <= _MOST_ATOMS or len(wanted) < 2:
        return None
    if _stays_whole(atoms, wanted):
        return None
    splits = list(_splits(atoms, wanted)) if _straddles(atoms, wanted) else []
    for pieces in (atoms, *(splits if not any(_stays_whole(pieces, wanted) for pieces in splits) else ())):
        order = next(_orders(pieces, wanted, tuple(range(len(pieces)))), None)
        if order is not None:
            return Regrouped(node, source, tuple(a.size for a in pieces), order, graph.shape(node))
    return None


def confirmed(found: Regrouped, variant: Graph | None, *, literals: bool = False) -> bool:
    """True unless the same reshape in another recording is no permutation: then the sizes agreed by chance.

    With `literals`, sizes that are written as constants say nothing: they do not follow the input.
    """
    if variant is None:
        return True
    node = next((n for n in variant.nodes if n.name == found.node.name), None)
    if node is None or variant.kind(node) is not Kind.RESHAPE or variant.error(node) is not None:
        return True
    if literals and sizes_asked(node) and sizes_asked(node) == sizes_asked(found.node):
        return True
    return regrouped(variant, node) is not None


def ambiguous(graph: Graph, node: fx.Node) -> bool:
    """True when the sizes that a reshape asks for also fit another order of the axes, which then looks the same."""
    if not _keeps_all_whole(graph, node):
        return False
    source = graph.data(node)
    atoms = [atom for axis in (graph.axes(source) if source is not None else ()) for atom in axis]
    wanted = [size for size in graph.shape(node) if size != 1]
    same = tuple(range(len(atoms)))
    return len(atoms) <= _MOST_ATOMS and any(order != same for order in _orders(atoms, wanted, same))


def hidden(node: fx.Node, variants: Sequence[Graph]) -> tuple[Graph, Regrouped] | None:
    """The permutation that a reshape stands in for, where only inputs of another size show it.

    With as many positions as channels, `(N, C, H*W) -> (N, H*W, C)` has the sizes it had and looks like nothing.
    """
    shown: tuple[Graph, Regrouped] | None = None
    for variant in variants:
        same = next((n for n in variant.nodes if n.name == node.name), None)
        found = regrouped(variant, same) if same is not None else None
        if same is None or (found is None and not _keeps_all_whole(variant, same)):
            return None
        shown = shown or ((variant, found) if found is not None else None)
    return shown


def undone(graph: Graph, found: Regrouped) -> bool:
    """True when all that happens before the axes are put back is elementwise."""
    through = frozenset((Kind.SAME, Kind.ACTIVATION, Kind.DROPOUT))
    readers = graph.destinations(found.node, through)
    shape = graph.shape(found.source)
    return bool(readers) and all(graph.kind(n) is Kind.RESHAPE and graph.shape(n) == shape for n in readers)


def skews(graph: Graph, found: Regrouped) -> bool:
    """True for the relative shift: two axes swapped to push every row one further, an edge padded or cut off with it.

    Transformer-XL's `_rel_shift`, Longformer's diagonal bands.
    """
    before = graph.shape(found.source)
    if sum(a != b for a, b in zip(before, found.sizes, strict=False)) != 2 or sorted(before) != sorted(found.sizes):
        return False
    if any(_padded(graph, n) for n in graph.origins(found.source, frozenset((Kind.SAME,)))):
        return True
    cuts = frozenset((Kind.SAME, Kind.INDEX))
    back = [n for n in graph.destinations(found.node, cuts) if graph.kind(n) is Kind.RESHAPE]
    made = [n for n in graph.origins(found.source, cuts) if graph.kind(n) is Kind.RESHAPE]
    return any(_put_back(graph, found.node, n) for n in back) or any(_put_back(graph, n, found.node) for n in made)


def _padded(graph: Graph, node: fx.Node) -> bool:
    zeros = graph.kind(node) is Kind.CAT and any(graph.kind(n) is Kind.FACTORY for n in node.all_input_nodes)
    return zeros or graph.kind(node) is Kind.PAD


def _put_back(graph: Graph, first: fx.Node, second: fx.Node) -> bool:
    """True when a second reshape restores the sizes from before the first, but for the axis that was cut between."""
    source, cut = graph.data(first), graph.data(second)
    if source is None or cut is None or graph.shape(cut) == graph.shape(first):
        return False
    x, y = graph.shape(source), graph.shape(second)
    return len(x) == len(y) and sum(a != b for a, b in zip(x, y, strict=True)) == 1


def optional(graph: Graph, found: Regrouped) -> bool:
    """True when the axes are out of order only because an option of the model transposes them just before.

    Informer's `mix`: without it the same reshape keeps every axis whole.
    """
    node: fx.Node | None = found.source
    while node is not None and graph.kind(node) is Kind.SAME:
        node = graph.data(node)
    source = graph.data(node) if node is not None and graph.kind(node) is Kind.PERMUTE else None
    if node is None or source is None or not behind_option(node):
        return False
    return _stays_whole([atom for axis in graph.axes(source) for atom in axis], found.sizes)


def _keeps_all_whole(graph: Graph, node: fx.Node) -> bool:
    source = graph.data(node)
    if graph.kind(node) is not Kind.RESHAPE or source is None or graph.error(node) is not None:
        return False
    atoms = [atom for axis in graph.axes(source) for atom in axis]
    return _known(graph, source, graph.axes(source)) and _stays_whole(atoms, graph.shape(node))


def _known(graph: Graph, source: fx.Node, axes: Axes) -> bool:
    whole = all(size_of(axis) == size for axis, size in zip(axes, graph.shape(source), strict=False))
    return whole and not any(atom.mixed or o.guessed for axis in axes for atom in axis for o in atom.origins)


def _stays_whole(atoms: Sequence[Atom], sizes: Sequence[int]) -> bool:
    return _boundaries([atom.size for atom in atoms]).issuperset(_boundaries(sizes))


def _boundaries(sizes: Sequence[int]) -> set[int]:
    """The places where one axis ends, as products of the sizes from the right."""
    found, product = set(), 1
    for size in reversed(sizes):
        product *= size
        found.add(product)
    return found


def _orders(atoms: list[Atom], wanted: Sequence[int], left: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Orders of the atoms that give the wanted sizes with every atom whole, and pieces of one axis side by side."""
    if not wanted:
        if not left:
            yield ()
        return
    for count in range(1, len(left) + 1):
        for taken in combinations(left, count):
            product = 1
            for i in taken:
                product *= atoms[i].size
            if product == wanted[0] and _natural([atoms[i] for i in taken]):
                rest = tuple(i for i in left if i not in taken)
                for tail in _orders(atoms, wanted[1:], rest):
                    yield (*taken, *tail)


def _straddles(atoms: list[Atom], wanted: Sequence[int]) -> bool:
    """True when an axis asked for takes a part of one axis together with a part of the next."""
    ends, inner = _boundaries([atom.size for atom in atoms]) | {1}, 1
    for size in reversed(wanted):
        outer = inner * size
        if any(inner < end < outer for end in ends) and not {inner, outer} & ends:
            return True
        inner = outer
    return False


def _splits(atoms: list[Atom], wanted: Sequence[int]) -> Iterator[list[Atom]]:
    """The atoms with one axis of features cut in two: heads, which `(N, T, C).view(N, heads, T, -1)` asks for."""
    for i, atom in enumerate(atoms):
        if atom.role is Role.CHANNEL and len(atoms) < _MOST_ATOMS:
            for inner in dict.fromkeys(size for size in reversed(wanted) if size < atom.size and atom.size % size == 0):
                parts = [replace(atom, size=atom.size // inner), replace(atom, size=inner)]
                yield [*atoms[:i], *parts, *atoms[i + 1 :]]


def _natural(group: list[Atom]) -> bool:
    """True when pieces of one origin that meet in a group follow each other, none of another origin between."""
    origins = [atom.origin for atom in group]
    return all(o not in origins[:i] or origins[i - 1] is o for i, o in enumerate(origins))


__all__ = ["Regrouped", "ambiguous", "confirmed", "hidden", "optional", "regrouped", "skews", "undone"]
