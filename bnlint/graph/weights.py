"""What the weights of a layer do to the scale of a signal."""

from __future__ import annotations

from torch import fx
from torch._subclasses.fake_tensor import FakeTensor

from bnlint.graph.model import Graph


def gain(graph: Graph, layer: fx.Node) -> float | None:
    """The variance a layer makes of inputs of unit variance, second moment of the weight times fan-in."""
    found = graph.weight(layer)
    if found is None or found[1].ndim < 2 or found[1].device.type == "meta" or isinstance(found[1], FakeTensor):
        return None
    weight = found[1].detach().float()
    return float(weight.square().mean()) * weight[0].numel()
