"""Recurrences that are written out: a cell of `torch.nn` called once for every position along an axis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx, nn

from bnlint.graph.model import Graph
from bnlint.graph.ops import Kind, argument, op_name


@dataclass(frozen=True)
class Loop:
    """A cell that steps through `source` along its first axis; `stacked` holds the states of all steps, if any does."""

    cell: fx.Node  # its first call
    source: fx.Node
    stacked: fx.Node | None


def loops(graph: Graph) -> Iterator[Loop]:
    """Every value of three axes that a recurrent cell steps through from its first position to its last."""
    cells: dict[tuple[str, fx.Node], list[tuple[int, fx.Node]]] = {}
    for node in graph.of_kind(Kind.RNN):
        step = _step(graph, node) if isinstance(graph.module(node), nn.RNNCellBase) else None
        if step is not None:
            cells.setdefault((str(node.target), step[0]), []).append((step[1], node))
    for (_, source), steps in cells.items():
        if [at for at, _ in steps] == list(range(graph.shape(source)[0])):
            yield Loop(steps[0][1], source, _stacked(graph, [cell for _, cell in steps]))


def _step(graph: Graph, cell: fx.Node) -> tuple[fx.Node, int] | None:
    """The value, and the position along its first axis, that a cell's input is."""
    item = graph.data(cell)
    source = graph.data(item) if item is not None else None
    if item is None or source is None or op_name(item) != "getitem":
        return None
    at = item.args[1]
    if op_name(source) == "unbind" and argument(source, 1, "dim", 0) == 0:
        source = graph.data(source)
    at = at[0] if isinstance(at, tuple) and len(at) == 1 else at
    whole = source is not None and len(graph.shape(source)) == 3 and len(graph.shape(item)) == 2
    return (source, at) if whole and source is not None and isinstance(at, int) else None


def _stacked(graph: Graph, cells: list[fx.Node]) -> fx.Node | None:
    for node in graph.of_kind(Kind.STACK):
        made = {source for row in node.all_input_nodes for source in graph.origins(row, frozenset())}
        if argument(node, 1, "dim", 0) == 0 and made >= set(cells):
            return node
    return None


__all__ = ["Loop", "loops"]
