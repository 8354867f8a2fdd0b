"""Nonlinearities by one name, whether layer, function or method."""

from __future__ import annotations

from torch import fx, nn

from bnlint.graph.model import Graph
from bnlint.graph.ops import Kind, op_name

_SPELLED = {"leakyrelu": "leaky_relu", "logsoftmax": "log_softmax", "softmax2d": "softmax"}

# Functions that stand for an activation; `exp`, `abs`, `clamp` and the like are arithmetic as often as not.
_NAMES = (
    "relu relu6 rrelu leaky_relu prelu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh sigmoid tanh "
    "softplus softsign logsigmoid"
)
ACTIVATIONS = frozenset(_NAMES.split())


def activation_name(graph: Graph, node: fx.Node) -> str:
    """`relu` for `nn.ReLU`, `F.relu`, `x.relu_()`; "" for what is no activation or softmax."""
    if graph.kind(node) not in (Kind.ACTIVATION, Kind.SOFTMAX):
        return ""
    module = graph.module(node)
    if module is None:
        return op_name(node)
    name = next(c.__name__ for c in type(module).__mro__ if c.__module__.startswith("torch.")).lower()
    return _SPELLED.get(name, name)


def value_range(graph: Graph, node: fx.Node) -> tuple[float, float] | None:
    """The smallest and largest value an activation can give; None when it is unbounded on both sides or unknown."""
    infinity = float("inf")
    module = graph.module(node)
    if isinstance(module, nn.Hardtanh) and not isinstance(module, nn.ReLU6):
        return module.min_val, module.max_val
    ranges = {
        **dict.fromkeys(("softmax", "softmin", "gumbel_softmax", "sigmoid", "hardsigmoid"), (0.0, 1.0)),
        **dict.fromkeys(("tanh", "softsign"), (-1.0, 1.0)),
        **dict.fromkeys(("log_softmax", "logsigmoid"), (-infinity, 0.0)),
        **dict.fromkeys(("relu", "softplus"), (0.0, infinity)),
        "relu6": (0.0, 6.0),
    }
    return ranges.get(activation_name(graph, node))
