"""House rules for bnlint. The entry point names this module, and every rule class in it is a rule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class HeavyFlatten(Rule):
    """One Linear after a flattened feature map holds most of the model's parameters.

    Why it matters: a 512 x 7 x 7 map flattened into 4096 units costs 103 million weights, three quarters of VGG-16, and
    fixes the input size. Global average pooling costs none.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16 * 32 * 32, 10)

        def forward(self, x):
            return self.fc(self.relu(self.conv(x)).flatten(1))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16, 10)

        def forward(self, x):
            return self.fc(self.relu(self.conv(x)).mean((2, 3)))
    ```

    References: Lin et al. 2013, Network in Network (arXiv 1312.4400), section 3.2.
    """

    code = "LAB101"
    name = "heavy-flatten"
    severity = Severity.WARNING
    phase = Phase.GRAPH

    max_share: float = 0.8

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Asks where the input of each Linear comes from."""
        from bnlint.graph.ops import Kind

        graph = model.graph
        assert graph is not None  # since the phase is GRAPH
        total = sum(parameter.numel() for parameter in model.module.parameters())
        for node in graph.of_kind(Kind.LINEAR):
            weight, source = graph.weight(node), graph.data(node)
            if weight is None or source is None:
                continue
            share = weight[1].numel() / total
            flattened = any(len(graph.shape(origin)) == 4 for origin in graph.origins(source))
            if flattened and share > self.max_share:
                yield self.finding(
                    model.place(node),
                    f"`{node.target}` reads a flattened feature map and holds {share:.0%} of all parameters, "
                    f"more than {self.max_share:.0%}",
                    help="pool before it: `x.mean((2, 3))`",
                    evidence={"share": share, "max_share": self.max_share},
                )
