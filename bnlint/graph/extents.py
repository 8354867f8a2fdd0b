"""Sizes along spatial axes as functions of the input's size: which input sizes leave every window something to read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from bnlint.graph.model import Graph
from bnlint.graph.operands import operands
from bnlint.graph.ops import SAME_LAYOUT, Kind, argument, op_name

_FUNCTIONAL_CONVS = {f"conv{rank}d": rank for rank in (1, 2, 3)}
_FUNCTIONAL_POOLS = {f"{kind}_pool{rank}d{end}": rank for rank in (1, 2, 3) for kind in ("max", "avg")
                     for end in ("", "_with_indices")}  # fmt: skip
EMPTY = 0  # the size of an axis that a window is too large for


@dataclass(frozen=True)
class Window:
    """What a convolution or pooling layer slides over its input, per spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]  # both ends together
    dilation: tuple[int, ...]
    ceil: bool = False
    same: bool = False  # padded so that the size stays
    mirrored: tuple[int, ...] = ()  # the smallest map that a reflection can pad, per axis

    @property
    def rank(self) -> int:
        """How many spatial axes it has."""
        return len(self.kernel)

    def span(self, dim: int) -> int:
        """How many positions the kernel covers."""
        return self.dilation[dim] * (self.kernel[dim] - 1) + 1

    def size(self, dim: int, size: int) -> int:
        """The output's size along spatial axis `dim`; EMPTY when the kernel does not fit."""
        if self.same or size == EMPTY:
            return size
        padded = size + self.padding[dim]
        if padded < self.span(dim) or (self.mirrored and size < self.mirrored[dim]):
            return EMPTY
        whole, rest = divmod(padded - self.span(dim), self.stride[dim])
        extra = self.ceil and rest and (whole + 1) * self.stride[dim] < size + self.padding[dim] // 2
        return whole + 1 + bool(extra)


def window_of(graph: Graph, node: fx.Node) -> Window | None:
    """The window of a convolution or a pooling with a kernel, or of padding; None for any other op."""
    module = graph.module(node)
    if graph.kind(node) is Kind.PAD:
        return padding_of(graph, node)
    if isinstance(module, nn.modules.conv._ConvNd) and graph.kind(node) is Kind.CONV:
        rank = len(module.kernel_size)
        found = _window(rank, module.kernel_size, module.stride, module.padding, module.dilation, ceil=False)
        edges = tuple((p, p) for p in module.padding) if not isinstance(module.padding, str) else ()
        mirrored = _mirrored(module.padding_mode, edges)
        return replace(found, mirrored=mirrored) if found is not None else None
    if isinstance(module, (nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd)):
        rank = int(type(module).__name__[-2]) if type(module).__name__[-2:-1].isdigit() else 0
        dilation = getattr(module, "dilation", 1)
        return _window(rank, module.kernel_size, module.stride, module.padding, dilation, ceil=bool(module.ceil_mode))
    name = op_name(node)
    if name in _FUNCTIONAL_CONVS and len(node.all_input_nodes) > 1:
        rank = _FUNCTIONAL_CONVS[name]
        kernel = graph.shape(node.all_input_nodes[1])[2:]
        stride, padding, dilation = (argument(node, i, key, default) for i, key, default in _CONV_ARGUMENTS)
        return _window(rank, kernel, stride, padding, dilation, ceil=False)
    if name in _FUNCTIONAL_POOLS:
        is_max = name.startswith("max")
        return _window(
            _FUNCTIONAL_POOLS[name],
            argument(node, 1, "kernel_size"),
            argument(node, 2, "stride"),
            argument(node, 3, "padding", 0),
            argument(node, 4, "dilation", 1) if is_max else 1,
            ceil=bool(argument(node, 5 if is_max else 4, "ceil_mode", False)),
        )
    return None


_CONV_ARGUMENTS = ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))


def padding_of(graph: Graph, node: fx.Node) -> Window | None:
    """Padding as a window of one position; None when the sizes do not say, or the batch or channels are padded."""
    module = graph.module(node)
    sizes = getattr(module, "padding", None) if module is not None else argument(node, 1, "pad")
    mode = type(module).__name__.lower() if module is not None else argument(node, 2, "mode", "constant")
    if not isinstance(sizes, (tuple, list)) or len(sizes) % 2 or not all(isinstance(size, int) for size in sizes):
        return None
    edges = tuple((sizes[i], sizes[i + 1]) for i in range(0, len(sizes), 2))[::-1]
    extra = len(edges) - (len(graph.shape(node)) - 2)
    if extra > 0 and any(map(any, edges[:extra])):
        return None
    edges = edges[max(0, extra) :]
    rank = len(edges)
    both = tuple(map(sum, edges))
    return Window((1,) * rank, (1,) * rank, both, (1,) * rank, mirrored=_mirrored(mode, edges)) if rank else None


def _mirrored(mode: str, edges: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    if "reflect" in mode:
        return tuple(max(pair) + 1 for pair in edges)
    return tuple(map(max, edges)) if "circular" in mode else ()


def _window(rank: int, kernel: Any, stride: Any, padding: Any, dilation: Any, *, ceil: bool) -> Window | None:
    same = padding == "same"
    rows = (kernel, stride or kernel, 0 if isinstance(padding, str) else padding, dilation)
    sizes = [_per_axis(row, rank) for row in rows]
    if not rank or any(row is None for row in sizes):
        return None
    kernels, strides, pads, dilations = (row or () for row in sizes)
    return Window(kernels, strides, tuple(2 * p for p in pads), dilations, ceil, same)


def _per_axis(value: Any, rank: int) -> tuple[int, ...] | None:
    rows = tuple(value) if isinstance(value, (tuple, list)) else (value,) * rank
    rows = rows * rank if len(rows) == 1 else rows
    return rows if len(rows) == rank and all(isinstance(row, int) for row in rows) else None


def empty_windows(graph: Graph) -> Iterator[tuple[fx.Node, Window]]:
    """Every window that is larger than the map it reads, unless the map's size is itself a repair's guess."""
    for node in graph.of_kind(Kind.CONV, Kind.POOL, Kind.PAD):
        window, source = window_of(graph, node), graph.data(node)
        if window is None or source is None or len(graph.shape(source)) < window.rank + 1:
            continue
        axes, sizes = graph.axes(source)[-window.rank :], graph.shape(source)[-window.rank :]
        if any(origin.guessed for axis in axes for atom in axis for origin in atom.origins):
            continue
        if any(window.size(dim, size) == EMPTY for dim, size in enumerate(sizes)):
            yield node, window


def extents(graph: Graph, rank: int, dim: int, size: int) -> dict[fx.Node, int]:
    """The size along spatial axis `dim` of every map of `rank` spatial axes, for an input of that size.

    Nodes whose size does not follow from the input's alone are left out; EMPTY is kept and passed on.
    """
    found: dict[fx.Node, int] = {}
    for node in graph.nodes:
        result = _extent(graph, node, rank, dim, size, found)
        if result is not None:
            found[node] = result
    return found


def _extent(graph: Graph, node: fx.Node, rank: int, dim: int, size: int, found: dict[fx.Node, int]) -> int | None:
    kind, source = graph.kind(node), graph.data(node)
    if kind is Kind.INPUT:
        return size if len(graph.shape(node)) == rank + 2 else None
    if len(graph.shape(node)) != rank + 2 or source is None:
        return None
    if kind is Kind.PAD:
        window, before = padding_of(graph, node), found.get(source)
        missing = rank - window.rank if window is not None else 0
        if window is None or before is None or missing < 0:
            return None
        return window.size(dim - missing, before) if dim >= missing else before
    if kind in (Kind.CONV, Kind.POOL):
        window = window_of(graph, node)
        if window is not None:
            return window.size(dim, found[source]) if source in found and window.rank == rank else None
        return _adaptive(graph, node, rank, dim, found.get(source))
    if kind in (Kind.ADD, Kind.MUL, Kind.ELEMENTWISE, Kind.CAT):
        return _joined(graph, node, rank, dim, found)
    if kind in SAME_LAYOUT - {Kind.RESIZE, Kind.PAD}:
        return found.get(source)
    return None


def _adaptive(graph: Graph, node: fx.Node, rank: int, dim: int, before: int | None) -> int | None:
    target: Any = getattr(graph.module(node), "output_size", None) or argument(node, 1, "output_size")
    if not op_name(node).lower().startswith("adaptive") or before == EMPTY:
        return before if before == EMPTY else None
    sizes = tuple(target) if isinstance(target, (tuple, list)) else (target,) * rank
    return sizes[dim] if len(sizes) == rank and isinstance(sizes[dim], int) else before


def _joined(graph: Graph, node: fx.Node, rank: int, dim: int, found: dict[fx.Node, int]) -> int | None:
    """The size of an elementwise result: that of its maps, gates of size one and per-channel constants left out."""
    maps = [n for n in operands(node) if len(graph.shape(n)) == rank + 2 and graph.shape(n)[dim - rank] != 1]
    sizes = {found.get(n) for n in maps or operands(node)}
    return sizes.pop() if len(sizes) == 1 else None


def smallest_input(graph: Graph, rank: int, limit: int = 1024) -> tuple[int, ...] | None:
    """The smallest input, per spatial axis, that no window is too large for; None when no size up to `limit` will do.

    Also None when a window that is too large lies behind an op whose size does not follow from the input's.
    """
    failing = {node for node, window in empty_windows(graph) if window.rank == rank}
    smallest = []
    for dim in range(rank):
        low, high = 0, limit  # a larger input never makes a map smaller
        if not _fits(graph, rank, dim, limit, failing):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if _fits(graph, rank, dim, middle, failing) else (middle, high)
        smallest.append(high)
    return tuple(smallest)


def _fits(graph: Graph, rank: int, dim: int, size: int, failing: set[fx.Node]) -> bool:
    found = extents(graph, rank, dim, size)
    return all(node in found for node in failing) and EMPTY not in found.values()


__all__ = ["EMPTY", "Window", "empty_windows", "extents", "smallest_input", "window_of"]
