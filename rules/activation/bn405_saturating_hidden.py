"""BN405 saturating-hidden."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph


class SaturatingHidden(Rule):
    """Several hidden layers in a row use a sigmoid, or a tanh with large weights, and no normalisation.

    Why it matters: the slope of a sigmoid is at most 0.25 and its output is always positive. With PyTorch's default
    weights the part of the signal that tells samples apart shrinks about 7-fold a layer: 0.019 of it is left after 3
    hidden layers, 5e-5 after 6 (width 256), and there the first layer's gradient is 2e-4 of the last one's. A tanh
    whose input has a standard deviation of 2 has a slope below 0.2 for about half of its inputs.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(
                nn.Linear(64, 64), nn.Sigmoid(),
                nn.Linear(64, 64), nn.Sigmoid(),
                nn.Linear(64, 64), nn.Sigmoid(),
                nn.Linear(64, 64), nn.Sigmoid(),
            )
            self.head = nn.Linear(64, 4)

        def forward(self, x):
            return self.head(self.body(x))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(
                nn.Linear(64, 64), nn.ReLU(),
                nn.Linear(64, 64), nn.ReLU(),
                nn.Linear(64, 64), nn.ReLU(),
                nn.Linear(64, 64), nn.ReLU(),
            )
            self.head = nn.Linear(64, 4)

        def forward(self, x):
            return self.head(self.body(x))
    ```

    Known limits: gates (a sigmoid that multiplies) and the model's own output are not counted, and neither is a layer
    whose output is normalised before the activation.

    References: Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks;
    stackoverflow.com/questions/39217567, a real case (accuracy 0.5 with sigmoid, 0.97 with ReLU).
    """

    code = "BN405"
    name = "saturating-hidden"
    severity = Severity.INFO
    phase = Phase.GRAPH
    values = True

    min_layers: int = 4  # this many hidden layers are reported
    tanh_variance: float = 4.0  # a tanh counts when its layer makes this variance from unit inputs

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Counts hidden layers whose next nonlinearity saturates."""
        from bnlint.graph.ops import WEIGHT_LAYERS

        graph = model.graph
        assert graph is not None
        layers = [node for node in graph.of_kind(*WEIGHT_LAYERS) if self._saturates(graph, node)]
        if len(layers) < self.min_layers:
            return
        yield self.finding(
            model.place(layers[0]),
            f"{len(layers)} hidden layers end in a saturating activation and no norm: the signal shrinks with each",
            help="use ReLU or GELU between hidden layers, or put a norm before each activation",
            evidence={"layers": [str(node.target) for node in layers]},
            others=[model.place(node) for node in layers[1:]],
        )

    def _saturates(self, graph: Graph, node: fx.Node) -> bool:
        from bnlint.graph.activations import activation_name
        from bnlint.graph.ops import LAYERS, LINEAR_OPS, Kind
        from bnlint.graph.weights import gain

        reached = graph.destinations(node, LINEAR_OPS - {Kind.NORM})
        name = activation_name(graph, reached[0]) if len(reached) == 1 else ""
        large = name == "tanh" and (gain(graph, node) or 0.0) >= self.tanh_variance
        if name != "sigmoid" and not large:
            return False
        after = graph.destinations(reached[0], LINEAR_OPS - {Kind.NORM})
        return bool(after) and all(graph.kind(n) in LAYERS for n in after)
