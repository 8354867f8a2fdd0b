"""BN110 unnormalised-hidden-layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from torch import fx

    from bnlint.graph.model import AuditedModel, Graph


class UnnormalisedHiddenLayer(Rule):
    """Many hidden layers pass their output to a nonlinearity without a norm, so their initialisation must fit.

    Why it matters: without a norm the scale of the signal is the product of what every layer does to it. He
    initialisation keeps it for ReLU: after 20 layers a quarter of the spread across samples is left, after 40 a fifth.
    PyTorch's default weights keep 0.6 % over six layers and 2e-8 over twenty. A net without norms can be right, and
    many are; it is then the initialisation, and the learning rate, that everything depends on.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self, width=64, depth=9):
            super().__init__()
            layers = []
            for _ in range(depth):
                layers += [nn.Linear(width, width), nn.ReLU()]
            for layer in layers[::2]:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
            self.body = nn.Sequential(*layers)
            self.head = nn.Linear(width, 10)

        def forward(self, x):
            return self.head(self.body(x))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self, width=64, depth=9):
            super().__init__()
            layers = []
            for _ in range(depth):
                layers += [nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU()]
            self.body = nn.Sequential(*layers)
            self.head = nn.Linear(width, 10)

        def forward(self, x):
            return self.head(self.body(x))
    ```

    Known limits: fewer layers than `min_layers` are not worth a word. Layers whose input is normalised (pre-norm
    branches), whose weight is normalised, that make a gate, or that go into SELU do not count.

    References: He et al. 2015 (arXiv 1502.01852); Ioffe & Szegedy 2015 (arXiv 1502.03167).
    """

    code = "BN110"
    name = "unnormalised-hidden-layer"
    severity = Severity.INFO
    phase = Phase.GRAPH
    yields_to = ("BN109", "BN302", "BN303")

    min_layers: int = 8

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Collects the bare hidden layers; one finding for the target."""
        graph = model.graph
        assert graph is not None
        bare = _bare_layers(graph) if graph.runs else []
        if len(bare) < self.min_layers:
            return
        yield self.finding(
            model.place(bare[0]),
            f"{len(bare)} hidden layers pass their output to a nonlinearity without a norm",
            help="nothing to do when the initialisation fits the nonlinearity; a norm after each makes it matter less",
            evidence={"layers": len(bare)},
            others=[model.place(node) for node in bare[1:]],
        )


def _bare_layers(graph: Graph) -> list[fx.Node]:
    from bnlint.graph.branches import gate_nodes, is_rectifier, weight_layers
    from bnlint.graph.norms import Norms, has_normalised_weight

    norms, gates = Norms(graph), gate_nodes(graph)
    found: dict[str, fx.Node] = {}
    for node in weight_layers(graph):
        if node in gates or graph.is_last_layer(node) or has_normalised_weight(graph, node):
            continue
        readers = norms.readers(node)
        bare = any(is_rectifier(graph, n) for n in readers) and not any(norms.at(n) for n in readers)
        if bare and not norms.precedes(node):
            found.setdefault(str(node.target), node)
    return list(found.values())
