"""BN310 large-bias."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph

_DEFAULT_GAIN = 1 / 3  # var(W) times fan-in; below it the weights are small, not the biases large


class LargeBias(Rule):
    """A layer's biases are larger than what its weights make of the input.

    Why it matters: with biases five times the scale of the weighted sum, a unit's output is its bias for every sample,
    give or take a fifth. A ReLU behind it is then always on or always off, a tanh is flat, and samples can hardly be
    told apart: with the default weights and a bias of -3 all units of a ReLU layer are dead from the start, with -1
    already 96 % of the values are zero.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(20, 64)
            self.relu = nn.ReLU()
            self.out = nn.Linear(64, 10)
            nn.init.constant_(self.hidden.bias, 4.0)

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
            nn.init.zeros_(self.hidden.bias)

        def forward(self, x):
            return self.out(self.relu(self.hidden(x)))
    ```

    Known limits: only hidden convs and linears count whose output meets a rectifier or tanh without a norm. The
    bias is compared with the weighted sum of inputs of unit scale, or of the predicted scale where that is larger,
    by weights that are at least as large as PyTorch's default. Biases of gates, of the output layer (a prior for
    rare classes) and of LSTMs (a forget gate that starts open) are meant, and so is whatever training made of them.

    References: He et al. 2015 (arXiv 1502.01852), section 2.2, which starts biases at zero; measured on ReLU layers of
    256 units with standard normal inputs.
    """

    code = "BN310"
    name = "large-bias"
    severity = Severity.WARNING
    phase = Phase.GRAPH
    values = True

    max_ratio: float = 3.0  # root mean square of the biases over that of the weighted sum

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Compares the biases of each hidden layer with the weighted sums they are added to."""
        from bnlint.graph.branches import gate_nodes
        from bnlint.graph.norms import Norms

        graph = model.graph
        assert graph is not None
        rows = [(node, *sizes) for node in _biased_layers(graph) if (sizes := _sizes(model, node)) is not None]
        rows = [row for row in rows if row[1] > self.max_ratio * row[2] > 0]
        if not rows or model.survey.trained:
            return
        norms, gates = Norms(graph), gate_nodes(graph)
        for node, bias, weighted in rows:
            if node in gates or norms.follows(node) or not _meets_hidden_activation(graph, node):
                continue
            yield self.finding(
                model.place(node),
                f"the biases ({bias:.3g}) are {bias / weighted:.2g} times as large as what the weights make of the "
                f"input ({weighted:.2g}; limit {self.max_ratio:g} times)",
                help="start the biases at zero: `nn.init.zeros_(layer.bias)`",
                evidence={"bias": bias, "weighted": weighted, "max_ratio": self.max_ratio},
            )


def _biased_layers(graph: Graph) -> list[fx.Node]:
    from bnlint.graph.branches import weight_layers
    from bnlint.graph.norms import has_normalised_weight

    return [
        node
        for node in weight_layers(graph)
        if getattr(graph.module(node), "bias", None) is not None
        and not graph.is_last_layer(node)
        and not has_normalised_weight(graph, node)
    ]


def _sizes(model: AuditedModel, node: fx.Node) -> tuple[float, float] | None:
    """Root mean squares of the biases and of the weighted sum; None where either has no values."""
    import math

    from bnlint.graph.weights import gain, has_numbers

    graph = model.graph
    assert graph is not None
    bias = getattr(graph.module(node), "bias", None)
    if not has_numbers(bias):
        return None
    size = float(bias.detach().double().square().mean().sqrt())
    power = gain(graph, node) if size > 0 else None
    if not power or not math.isfinite(size):
        return None
    source, prediction = graph.data(node), model.prediction
    known = source is not None and prediction is not None and prediction.certain(source)
    scale = prediction.second_moment(source) if known and prediction is not None and source is not None else None
    return size, math.sqrt(max(power, _DEFAULT_GAIN) * max(scale or 1.0, 1.0))


def _meets_hidden_activation(graph: Graph, node: fx.Node) -> bool:
    from bnlint.graph.activations import activation_name
    from bnlint.graph.branches import is_rectifier

    following = graph.next_activation(node)
    return following is not None and (is_rectifier(graph, following) or activation_name(graph, following) == "tanh")
