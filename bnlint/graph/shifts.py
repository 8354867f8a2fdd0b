"""Where a constant added to each channel of a layer's output ends up: whether norms subtract all of it again."""

from __future__ import annotations

from torch import fx, nn

from bnlint.graph.axes import is_batch
from bnlint.graph.model import Graph
from bnlint.graph.norms import Family, Norm, Norms
from bnlint.graph.ops import WEIGHT_LAYERS, Kind, argument, op_name

_AVERAGES = ("avgpool", "avg_pool")


def cancelled_biases(graph: Graph, model: nn.Module) -> dict[nn.Parameter, list[fx.Node]]:
    """Trained biases whose effect is subtracted again wherever they are used, with the layers that use them."""
    norms = Norms(graph)
    return {
        bias: nodes
        for bias, nodes in _biases(graph, model).items()
        if bias.requires_grad and all(cancels_shift(norms, node) for node in nodes)
    }


def cancels_shift(norms: Norms, layer: fx.Node) -> bool:
    """True when a constant added to each channel of the layer's output changes nothing the model returns."""
    graph = norms.graph
    if not _channels_second(graph, layer):
        return False
    flat: dict[fx.Node, bool] = {layer: False}  # whether channels and positions have been joined since the layer
    todo, subtracted = [layer], False
    while todo:
        node = todo.pop()
        for reader in graph.consumers(node):
            norm = norms.at(reader)
            if norm is not None:
                if not _subtracts(graph, norm, flat=flat[node]) or norm.node is not reader:
                    return False
                subtracted = True
            elif reader not in flat:
                if not _keeps_shift(graph, reader, flat=flat[node]):
                    return False
                flat[reader] = flat[node] or graph.kind(reader) is Kind.RESHAPE
                todo.append(reader)
    return subtracted


def _biases(graph: Graph, model: nn.Module) -> dict[nn.Parameter, list[fx.Node]]:
    """Every bias of a weight layer with all nodes that use it; biases that something else uses too are left out."""
    found: dict[nn.Parameter, list[fx.Node]] = {}
    by_name = dict(model.named_parameters(remove_duplicate=False))
    elsewhere: set[nn.Parameter] = set()
    for node in graph.nodes:
        module = graph.module(node)
        if module is not None:
            bias = getattr(module, "bias", None)
            if graph.kind(node) in WEIGHT_LAYERS and isinstance(bias, nn.Parameter):
                found.setdefault(bias, []).append(node)
            else:
                elsewhere.update(module.parameters())
        elif node.op == "get_attr" and str(node.target) in by_name:
            bias = by_name[str(node.target)]
            for user in node.users:
                if graph.kind(user) in WEIGHT_LAYERS and argument(user, 2, "bias") is node:
                    found.setdefault(bias, []).append(user)
                else:
                    elsewhere.add(bias)
    return {bias: nodes for bias, nodes in found.items() if bias not in elsewhere}


def _channels_second(graph: Graph, layer: fx.Node) -> bool:
    """True when the layer's units lie along axis 1 of its output."""
    shape = graph.shape(layer)
    if graph.kind(layer) is Kind.LINEAR:
        return len(shape) == 2
    if graph.kind(layer) not in (Kind.CONV, Kind.CONV_TRANSPOSE):
        return False
    weight = graph.weight(layer)
    return weight is not None and len(shape) == weight[1].ndim


def _subtracts(graph: Graph, norm: Norm, *, flat: bool) -> bool:
    """True when the norm subtracts the mean of each channel of the tensor at hand, and of nothing else."""
    if norm.inside:
        return False
    if norm.family is Family.BATCH:
        return norm.batch_statistics
    if flat:
        return False
    if norm.family is Family.INSTANCE:
        return norm.batch_statistics
    shape = graph.shape(norm.source)
    return norm.family is Family.GROUP and len(shape) > 2 and norm.groups == shape[1]


def _keeps_shift(graph: Graph, node: fx.Node, *, flat: bool) -> bool:
    """True when the op carries a constant per channel through to a constant per channel."""
    kind, source = graph.kind(node), graph.data(node)
    shape = graph.shape(node)
    if source is None or not shape:
        return False
    if kind is Kind.SAME:
        return True
    if kind is Kind.POOL:
        return not flat and _pools_evenly(graph, node)
    if kind is Kind.RESHAPE:
        return len(shape) == 2 and shape[0] == graph.shape(source)[0] and is_batch(graph.axes(node)[0])
    if kind is Kind.CAT:
        return not flat and argument(node, 1, "dim", 0) in (1, 1 - len(shape))
    if kind is Kind.ADD and op_name(node) in ("add", "sub") and "alpha" not in node.kwargs:
        return all(graph.shape(n) == shape for n in node.all_input_nodes)
    return False


def _pools_evenly(graph: Graph, node: fx.Node) -> bool:
    """Maxima, and averages in which no padding zeros take part."""
    name = op_name(node).lower()
    if "lp" in name:
        return False
    if not any(word in name for word in _AVERAGES) or "adaptive" in name:
        return True
    module = graph.module(node)
    padding = getattr(module, "padding", None) if module is not None else argument(node, 3, "padding", 0)
    return padding == 0 or (isinstance(padding, tuple) and not any(padding))
