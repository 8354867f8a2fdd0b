"""Measurements in words: the profile along a run of layers, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from torch import fx

from bnlint.graph.model import AuditedModel, Graph
from bnlint.graph.ops import Kind, op_name
from bnlint.signal.statistics import NodeStats
from bnlint.signal.trunk import Run

_HE = '`nn.init.kaiming_normal_(layer.weight, nonlinearity="{}")` and zero biases'
_XAVIER = '`nn.init.xavier_normal_(layer.weight, gain=nn.init.calculate_gain("tanh"))`'


def profile(model: AuditedModel, run: Run, limit: int = 8) -> str:
    """The ratio at up to `limit` layers of a run, the first and the last among them."""
    count = len(run.points)
    picked = range(count) if count <= limit else sorted({round(i * (count - 1) / (limit - 1)) for i in range(limit)})
    rows = (f"`{label(model, run.points[i].node)}` {number(run.points[i].ratio)}" for i in picked)
    return "layer by layer: " + ", ".join(rows)


def likeness(stats: Mapping[str, NodeStats], node: fx.Node) -> str:
    """How alike two samples are after a node, as the end of a sentence."""
    found = stats.get(node.name)
    if found is None or found.similarity is None:
        return ""
    return f"; two samples have a cosine of {found.similarity:.4f} there"


def cure(model: AuditedModel, run: Run) -> str:
    """Where a norm belongs, or which initialisation fits the activation that follows these layers."""
    graph = model.graph
    assert graph is not None
    adds = [point.node for point in run.points if graph.kind(point.node) is Kind.ADD]
    if len(adds) > len(run.points) / 2:
        where = listing([label(model, node) for node in adds])
        return f"put a norm first in each residual branch, or let each branch start at zero: {where}"
    where = listing([label(model, point.node) for point in run.points])
    return f"put a norm after each of {where}{_initialisation(graph, run)}"


def _initialisation(graph: Graph, run: Run) -> str:
    """The alternative to a norm, when the activation has a known one."""
    found = [graph.next_activation(point.node) for point in run.points]
    names = Counter(op_name(node).lower() for node in found if node is not None)
    name = names.most_common(1)[0][0] if names else ""
    if name in ("relu", "leaky_relu", "leakyrelu", "prelu", "relu6"):
        return ", or initialise them with " + _HE.format("leaky_relu" if "leaky" in name else "relu")
    if name == "tanh":
        return f", or initialise them with {_XAVIER}"
    if name in ("sigmoid", "logsigmoid", "hardsigmoid"):
        return ", and use ReLU or another activation that does not saturate"
    return ""


def number(value: float) -> str:
    """Two or three digits, without an exponent where it reads worse."""
    return f"{value:.0f}" if 100 <= value < 1e5 else f"{value:.2g}"


def label(model: AuditedModel, node: fx.Node) -> str:
    """The module path of a layer, the name of an input, or an op and the module it runs in."""
    path = model.place(node).module_path
    if node.op == "placeholder":
        return node.name
    return path if node.op == "call_module" else f"{op_name(node)} in {path}" if path else op_name(node)


def listing(names: Sequence[str], limit: int = 6) -> str:
    """Names in backticks, cut short."""
    names = list(dict.fromkeys(names))
    shown = ", ".join(f"`{name}`" for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
