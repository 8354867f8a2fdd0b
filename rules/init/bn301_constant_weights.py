"""BN301 constant-weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph


class ConstantWeights(Rule):
    """All entries of a weight tensor are equal, so the layer's units start out as copies of each other.

    Why it matters: units with equal incoming weights give equal outputs. When the next layer's weights are constant
    too, they also get equal gradients in every step: a layer of 512 units then learns as much as one unit would. Biases
    drawn at random pull the copies apart, but slowly: after 300 steps of SGD on a two-class problem, weights of 0.05 in
    three layers of 64 units had spread by 0.003 from unit to unit. Two zero layers in a row without biases are worse,
    each multiplies the other's gradient by zero and neither ever moves.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(20, 64)
            self.relu = nn.ReLU()
            self.out = nn.Linear(64, 10)
            for layer in (self.hidden, self.out):
                nn.init.constant_(layer.weight, 0.1)

        def forward(self, x):
            return self.out(self.relu(self.hidden(x)))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(20, 64)
            self.relu = nn.ReLU()
            self.out = nn.Linear(64, 10)
            nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="relu")

        def forward(self, x):
            return self.out(self.relu(self.hidden(x)))
    ```

    Known limits: an error is given only where the symmetry is never broken: the next layer is constant as well. One
    constant hidden layer before a random one is a warning, all its units start with the same output. Zero weights in
    the last layer, at the end of a residual branch or in a gate are deliberate and are not reported.

    References: Goodfellow, Bengio & Courville 2016, Deep Learning, section 8.4, on breaking symmetry;
    Zhang, Dauphin & Ma 2019, Fixup (arXiv 1901.09321), and Goyal et al. 2017 (arXiv 1706.02677), for zero branch ends.
    """

    code = "BN301"
    name = "constant-weights"
    severity = Severity.ERROR
    phase = Phase.GRAPH
    values = True

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks at every trained hidden conv or linear weight with more than one unit."""
        from bnlint.graph.ops import WEIGHT_LAYERS

        graph = model.graph
        assert graph is not None
        constants = {n: v for n in graph.of_kind(*WEIGHT_LAYERS) if (v := _constant(graph, n)) is not None}
        for node, value in constants.items():
            following = _next_layers(graph, node)
            if not following or (value == 0 and _is_branch_end(graph, node)):
                continue
            stuck = all(n in constants for n in following) and (value != 0 or _no_signal(graph, [node, *following]))
            if value == 0 and not stuck and not _all_zero(constants, following):
                continue
            yield self._finding(model, node, value, following, stuck=stuck)

    def _finding(
        self, model: AuditedModel, node: fx.Node, value: float, following: list[fx.Node], *, stuck: bool
    ) -> Finding:
        graph = model.graph
        assert graph is not None
        shape = list(_shape(graph, node))
        if stuck and value == 0:
            consequence = f"`{following[0].target}` is zero too, so neither ever gets a gradient"
        elif value == 0:
            consequence = "what comes out does not depend on the input at first"
        elif _biases_differ(graph, node):
            consequence = f"its {shape[0]} units are copies of each other but for their biases"
            if stuck:
                consequence += f", and `{following[0].target}`, constant too, treats them alike"
        elif stuck:
            consequence = f"`{following[0].target}` is constant too, so its {shape[0]} units stay equal for ever"
        else:
            consequence = f"its {shape[0]} units start with the same output"
        return self.finding(
            model.place(node),
            f"all {shape} weights are {value:g}; {consequence}",
            severity=Severity.ERROR if stuck else Severity.WARNING,
            help="draw the weights at random: `nn.init.kaiming_normal_(layer.weight)` before a ReLU, "
            "`nn.init.xavier_uniform_(layer.weight)` before tanh or sigmoid",
            evidence={"value": value, "shape": shape, "next": [str(n.target) for n in following]},
        )


def _shape(graph: Graph, node: fx.Node) -> tuple[int, ...]:
    found = graph.weight(node)
    return tuple(found[1].shape) if found is not None else ()


def _constant(graph: Graph, node: fx.Node) -> float | None:
    """The value of a trained weight whose entries are all equal and whose units see the same input; else None."""
    from bnlint.graph.weights import constant, has_numbers

    found, module = graph.weight(node), graph.module(node)
    if found is None or not found[1].requires_grad or getattr(module, "groups", 1) != 1:
        return None
    weight = found[1].detach()
    if not has_numbers(weight) or weight.ndim < 2 or weight.shape[0] < 2:
        return None
    return constant(weight)


def _biases_differ(graph: Graph, node: fx.Node) -> bool:
    bias = getattr(graph.module(node), "bias", None)
    return bias is not None and bool((bias.detach() != bias.detach().flatten()[0]).any())


def _next_layers(graph: Graph, node: fx.Node) -> list[fx.Node]:
    from bnlint.graph.ops import LINEAR_OPS, WEIGHT_LAYERS, Kind

    found = graph.destinations(node, LINEAR_OPS | {Kind.ACTIVATION})
    return [n for n in found if graph.kind(n) in WEIGHT_LAYERS]


def _is_branch_end(graph: Graph, node: fx.Node) -> bool:
    from bnlint.graph.ops import LINEAR_OPS, Kind

    ends = (Kind.ADD, Kind.MUL, Kind.SPLIT, Kind.INDEX, Kind.CAT)
    return any(graph.kind(n) in ends for n in graph.destinations(node, LINEAR_OPS))


def _all_zero(constants: dict[fx.Node, float], nodes: list[fx.Node]) -> bool:
    return all(constants.get(n) == 0 for n in nodes)


def _no_signal(graph: Graph, nodes: list[fx.Node]) -> bool:
    """True when no bias of these zero layers can start the gradient: zero layers with φ(0) = 0 between them."""
    from bnlint.graph.ops import op_name

    first = graph.module(nodes[0])
    bias = getattr(first, "bias", None)
    activation = graph.next_activation(nodes[0])
    keeps_zero = activation is None or op_name(activation).lower() not in ("sigmoid", "softplus", "hardsigmoid")
    return keeps_zero and (bias is None or not bool(bias.detach().any()))
