"""What all transfers share: the table, and reading a node's inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import fx

from bnlint.graph.ops import Kind
from bnlint.signal.value import Value

if TYPE_CHECKING:
    from bnlint.signal.predict import Walk

Transfer = Callable[["Walk", fx.Node], Any]
TRANSFERS: dict[Kind, Transfer] = {}


class Unknown(Exception):
    """This form of the op has no rule; the walk passes the scale on and marks it as a guess."""


def transfer(*kinds: Kind) -> Callable[[Transfer], Transfer]:
    """Registers a function for families of ops."""

    def register(function: Transfer) -> Transfer:
        TRANSFERS.update(dict.fromkeys(kinds, function))
        return function

    return register


def data(walk: Walk, node: fx.Node) -> Value:
    """The value a layer is applied to."""
    source = walk.graph.data(node)
    found = walk.value(source) if source is not None else None
    if found is None:
        raise Unknown
    return found


def averaging(value: Value, positions: float, strides: float) -> tuple[float, float, float, float]:
    """What is left of a variance of one after averaging that many positions, and the shares of what is left."""
    moving = 1 - value.fixed
    kept = value.common + (1 - value.common) * min(1.0, value.area / max(positions, 1))
    fixed = value.fixed / max(positions, 1)
    left = moving * kept + fixed
    if not left > 0:
        return 0.0, 0.0, 0.0, 1.0
    return left, fixed / left, value.common / kept if kept > 0 else 0.0, max(1.0, value.area / max(strides, 1))


def ratio(shape: tuple[int, ...], other: tuple[int, ...]) -> float:
    """How many entries of one shape there are for each of another."""
    return math.prod(shape) / max(math.prod(other), 1)
