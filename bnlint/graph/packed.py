"""Calls that pack and unpack sequences, and take the batch for the time doing so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from bnlint.graph.axes import Axis, is_batch, origins
from bnlint.graph.model import Graph
from bnlint.graph.ops import Kind, argument, op_name


@dataclass(frozen=True)
class Unpacked:
    """What `pad_packed_sequence` gave back: its time, its batch, and where the batch is."""

    node: fx.Node
    shape: tuple[int, ...]
    time: Axis
    batch: Axis
    dim: int


def mispacked(graph: Graph) -> Iterator[tuple[fx.Node, tuple[int, ...], int]]:
    """Every `pack_padded_sequence` that has one length per position of the axis it takes for the time.

    With the node come the shape of what is packed and the axis that the call takes for the batch.
    """
    for node in graph.of_kind(Kind.OTHER):
        source, lengths = (argument(node, i, key) for i, key in ((0, "input"), (1, "lengths")))
        if op_name(node) != "pack_padded_sequence" or not isinstance(source, fx.Node):
            continue
        axes = graph.axes(source)
        dim = 0 if argument(node, 2, "batch_first", False) else 1
        counted = graph.axes(lengths)[:1] if isinstance(lengths, fx.Node) else ()
        if len(axes) > 1 and counted and is_batch(counted[0]) and origins(axes[1 - dim]) == origins(counted[0]):
            given = graph.data(source) if op_name(source) == "index_select" else source  # sorted by length before
            yield node, graph.shape(given or source), dim


def unpacked(graph: Graph) -> Iterator[Unpacked]:
    """Every `pad_packed_sequence` whose batch is known."""
    for node in graph.of_kind(Kind.OTHER):
        item = next((n for n in node.users if op_name(n) == "getitem" and n.args[1] == 0), None)
        if op_name(node) == "pad_packed_sequence" and item is not None and len(graph.axes(item)) > 1:
            dim = 0 if argument(node, 2, "batch_first", False) else 1
            axes = graph.axes(item)
            yield Unpacked(node, graph.shape(item), axes[1 - dim], axes[dim], dim)


__all__ = ["Unpacked", "mispacked", "unpacked"]
