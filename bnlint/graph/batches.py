"""Where a forward pass depends on the number of samples: constants in views, states of a fixed size, squeezes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx
from torch.fx.node import map_aggregate

from bnlint.graph.axes import is_batch
from bnlint.graph.frames import Call
from bnlint.graph.model import Graph
from bnlint.graph.ops import Kind, argument, op_name

_FIXES_SIZE = frozenset((Kind.RESHAPE, Kind.EXPAND))
_PASSES = frozenset((Kind.SAME, Kind.EXPAND, Kind.INDEX, Kind.RESHAPE, Kind.PERMUTE, Kind.CAT, Kind.STACK))
_BROADCASTS = frozenset((Kind.ADD, Kind.MUL, Kind.ELEMENTWISE, Kind.EXPAND))
_ONE_VALUE = "more than 1 value per channel"


@dataclass(frozen=True)
class Fixed:
    """What fixes the batch size: a node of the first recording, or the line of an op that could not be recorded."""

    node: fx.Node | None
    call: Call | None
    what: str
    help: str = "take the size from the input: `x.shape[0]`"


def may_fix_batch(graph: Graph, batch: int) -> bool:
    """False when no op says the number of samples, so that trying another is not worth a recording."""
    return any(_says(graph, node, batch) for node in graph.nodes)


def _says(graph: Graph, node: fx.Node, batch: int) -> bool:
    if graph.kind(node) in (Kind.FACTORY, Kind.CONSTANT):
        return batch in graph.shape(node)
    said: list[Any] = []
    if node.op in ("call_function", "call_method"):
        map_aggregate((node.args, node.kwargs), said.append)
    return batch in [value for value in said if isinstance(value, int)]


def fails(base: Graph, variant: Graph) -> bool:
    """True when the variant fails where the first recording does not; statistics of one value do not count."""
    return _failure(base, variant) is not None or variant.recording.error is not None


def _failure(base: Graph, variant: Graph) -> fx.Node | None:
    before = {node.name for node in base.recording.errors}
    for node in variant.recording.errors:
        error = variant.error(node)
        if node.name not in before and error is not None and _ONE_VALUE not in error.message:
            return node
    return None


def fixed_batch(base: Graph, variant: Graph, batch: int) -> Fixed | None:
    """What makes a forward pass fail for one sample more; None when it does not, or when nothing names the number."""
    if not fails(base, variant):
        return None
    failed = _failure(base, variant)
    names = {node.name: node for node in base.nodes}
    end = variant.position[failed] if failed is not None else len(variant.nodes)
    for node in variant.nodes[: end + 1]:
        same = names.get(node.name)
        if same is None or variant.kind(node) not in _FIXES_SIZE or base.kind(same) is not variant.kind(node):
            continue
        dim = _pinned(base, same, variant, node, batch)
        if dim is not None:
            return Fixed(same, None, f"`{op_name(node)}` asks for {batch} along axis {dim}")
    if failed is not None:
        return _state(base, names, variant, failed, batch)
    words = str(variant.recording.error)
    if batch > 2 and all(re.search(rf"\b{size}\b", words) for size in (batch, batch + 1)):
        return Fixed(None, variant.recording.error_call, words.strip().splitlines()[0])
    return None


def _pinned(base: Graph, same: fx.Node, variant: Graph, node: fx.Node, batch: int) -> int | None:
    """The axis at which a reshape writes the batch size as a constant."""
    before, after = base.shape(same), variant.shape(node)
    wanted = sizes_asked(node)
    if len(before) != len(after) or len(wanted) != len(before):
        return None
    open_ = next((size for size, asked in zip(before, wanted, strict=True) if asked == -1), None)
    if open_ == 1 or (open_ is not None and batch == 2):
        return None  # the number may be that of groups of samples, pairs above all
    for dim, axis in enumerate(base.axes(same)):
        if is_batch(axis) and wanted[dim] == before[dim] == after[dim] == batch:
            return dim
    return None


def sizes_asked(node: fx.Node) -> tuple[Any, ...]:
    """The sizes that a view, reshape or expand asks for; () when they come as something else."""
    if op_name(node) not in ("view", "reshape", "expand", "broadcast_to"):
        return ()
    first = argument(node, 1, "shape", argument(node, 1, "size"))
    return tuple(first) if isinstance(first, (tuple, list)) else tuple(node.args[1:])


def _state(base: Graph, names: dict[str, fx.Node], variant: Graph, failed: fx.Node, batch: int) -> Fixed | None:
    """A tensor that a failing op reads and that was made, or stored, for one batch size."""
    todo, seen = list(failed.all_input_nodes), set(failed.all_input_nodes)
    while todo:
        node = todo.pop(0)
        same = names.get(node.name)
        made = variant.kind(node) in (Kind.FACTORY, Kind.CONSTANT)
        if made and same is not None and batch in base.shape(same) and base.shape(same) == variant.shape(node):
            if variant.kind(node) is Kind.CONSTANT and node.meta.get("registered"):
                what = f"`{node.target}` has the shape {list(base.shape(same))}"
                help = _for_any_batch(same, base.shape(same), batch, variant.kind(failed))
                return Fixed(names.get(failed.name, same), None, what, help)
            return Fixed(same, None, f"`{op_name(node)}` makes a tensor of {list(base.shape(same))}")
        if variant.kind(node) in _PASSES:
            new = [n for n in node.all_input_nodes if n not in seen]
            seen.update(new)
            todo += new
    return None


def _for_any_batch(node: fx.Node, shape: Sequence[int], batch: int, reader: Kind) -> str:
    """The edit for a parameter or a buffer that has an entry for each sample."""
    sizes = f"the shape {[1 if size == batch else size for size in shape]}"
    single = sizes if shape.count(batch) == 1 else "a shape with 1 for the batch"
    expanded = "" if reader in _BROADCASTS else ", and `expand` it to the batch in forward"
    return f"make `{node.target}` of {single}{expanded}"


def squeezes(graph: Graph) -> bool:
    """True when some op drops axes without naming them."""
    return any(op_name(n) == "squeeze" and argument(n, 1, "dim", None) is None for n in graph.nodes)


def swallowing_squeeze(base: Graph, one: Graph) -> fx.Node | None:
    """The squeeze that drops a batch of one, where the run then fails or ends with another number of axes."""
    names = {node.name: node for node in one.nodes}
    culprit = next((n for n in base.nodes if n.name in names and _drops(base, n, one, names[n.name])), None)
    if culprit is None:
        return None
    ranks = [[len(graph.shape(n)) for n in graph.outputs] for graph in (base, one)]
    return culprit if fails(base, one) or ranks[0] != ranks[1] else None


def _drops(base: Graph, node: fx.Node, one: Graph, same: fx.Node) -> bool:
    if op_name(node) != "squeeze" or op_name(same) != "squeeze" or base.data(node) is None:
        return False
    axes = base.axes(node)
    return bool(axes) and any(map(is_batch, axes)) and len(one.shape(same)) < len(base.shape(node))


def misfit(graph: Graph, node: fx.Node) -> int | None:
    """The constant number of samples that an impossible view asks for; None when it is impossible otherwise."""
    source, wanted = graph.data(node), sizes_asked(node)
    shape = graph.shape(source) if source is not None else ()
    if source is None or graph.error(node) is None or len(wanted) < 2 or len(shape) < 2:
        return None
    if not all(isinstance(size, int) for size in wanted) or not is_batch(graph.axes(source)[0]):
        return None
    lead, rest, features = wanted[0], wanted[1:], math.prod(shape[1:])
    if lead < 2 or lead == shape[0] or any(o.guessed for axis in graph.axes(source) for a in axis for o in a.origins):
        return None
    known = math.prod(size for size in rest if size != -1)
    fits = features % known == 0 if -1 in rest else features == known
    return lead if known and fits else None


__all__ = ["Fixed", "fails", "fixed_batch", "may_fix_batch", "misfit", "sizes_asked", "squeezes", "swallowing_squeeze"]
