"""What a failed op asks for: the layer's sizes, a larger map, the sizes of a view."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import fx

from bnlint.graph.ops import Kind, argument, op_name
from bnlint.inputs.outcome import Outcome
from bnlint.inputs.wants import Want, want

Asked = tuple[int, int, int]  # which operand, its axis, the length that this should have

_TOO_SMALL = re.compile(
    r"(?i)output size is too small|kernel size can't be greater|smaller than kernel|padding size should be less than"
    r"|negative dimension|non-zero size|more than 1 value per channel|more than 1 spatial element|kernel_size.*greater"
)


def wanted_by(outcome: Outcome, node: fx.Node) -> Want | None:
    """What a layer takes, also when it is called as a function with the model's own weight."""
    module = outcome.graph.module(node)
    if module is not None:
        return want(module, str(node.target))
    kind, constants = node.meta["kind"], [n for n in node.all_input_nodes if n.op == "get_attr"]
    shape = outcome.graph.shape(constants[0]) if constants else ()
    why = f"first layer `{constants[0].target}`" if constants else ""
    if kind is Kind.LINEAR and len(shape) == 2:
        return Want(None, -1, shape[1], why=why)
    if kind is Kind.EMBEDDING and len(shape) == 2:
        return Want(2, ids=shape[0], why=why)
    if kind is Kind.CONV and 3 <= len(shape) <= 5:
        return Want(len(shape), 1, shape[1], ("signal", "image", "volume")[len(shape) - 3], why=why)
    return None


def too_small(outcome: Outcome, node: fx.Node) -> float:
    """How many times larger a map must be at least for an op that does not fit on it; 0 for other failures."""
    if "error" not in node.meta or not _TOO_SMALL.search(node.meta["error"].message):
        return 0.0
    kernel = getattr(outcome.graph.module(node), "kernel_size", 2)
    sides = outcome.graph.shape(node.all_input_nodes[0])[2:] if node.all_input_nodes else ()
    return float(max(kernel if isinstance(kernel, tuple) else (kernel, 2))) / (1 + min(sides, default=1))


def size_at(shape: tuple[int, ...], axis: int) -> int:
    """The length of an axis, 0 when there is no such axis."""
    return shape[axis] if -len(shape) <= axis < len(shape) else 0


def cat_dim(node: fx.Node, rank: int) -> int:
    """The axis that a `cat` joins, counted from the end."""
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
    return 0 if not isinstance(dim, int) else dim if dim < 0 else dim - rank


def sizes_asked(node: fx.Node) -> list[int]:
    """The sizes that a view or reshape asks for; [] when they are not plain numbers."""
    sizes = node.args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    named = op_name(node) in ("view", "reshape")
    return [s for s in sizes if isinstance(s, int)] if named and all(isinstance(s, int) for s in sizes) else []


def pieces_asked(node: fx.Node) -> list[Asked]:
    """The length of the axis that a `split` cuts into pieces of given sizes."""
    sizes, dim = argument(node, 1, "split_size", 1), argument(node, 2, "dim", 0)
    whole = isinstance(sizes, (list, tuple)) and all(isinstance(size, int) for size in sizes)
    return [(0, dim, sum(sizes))] if whole and isinstance(dim, int) else []


def products_asked(outcome: Outcome, node: fx.Node) -> Iterator[Asked]:
    """The axes that a matrix product or einsum sums over, which must be equally long."""
    inputs = node.all_input_nodes
    shapes = [outcome.graph.shape(n) for n in inputs]
    if op_name(node) != "einsum":
        if len(inputs) >= 2:
            yield len(inputs) - 1, -2, size_at(shapes[-2], -1)
            yield len(inputs) - 2, -1, size_at(shapes[-1], -2)
        return
    equation = str(node.args[0]).replace(" ", "").partition("->")[0]
    terms = [dict(zip(term, shape, strict=False)) for term, shape in zip(equation.split(","), shapes, strict=False)]
    for at, term in enumerate(terms):
        for axis, (letter, size) in enumerate(term.items()):
            for other in {t[letter] for t in terms if t.get(letter, size) != size}:
                yield at, axis, other
