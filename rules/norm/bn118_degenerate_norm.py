"""BN118 degenerate-norm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class DegenerateNorm(Rule):
    """A norm takes its mean and variance over a single value, so nothing of its input is left.

    Why it matters: the mean of one value is the value, and the value minus itself is zero. The output is the norm's
    bias whatever came in, no gradient passes, and everything before the layer stops learning. An instance norm on a
    1x1 map raises `ValueError` in training; a group norm with one channel per group goes on in silence.

    Example (bad):

    ```python
    import torch.nn as nn

    # bnlint check --input 8x3x32x32
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1)
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.norm = nn.GroupNorm(16, 16)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16, 10)

        def forward(self, x):
            x = self.norm(self.pool(self.relu(self.conv(x))))
            return self.fc(self.relu(x).flatten(1))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    # bnlint check --input 8x3x32x32
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, padding=1)
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.norm = nn.GroupNorm(4, 16)
            self.relu = nn.ReLU()
            self.fc = nn.Linear(16, 10)

        def forward(self, x):
            x = self.norm(self.pool(self.relu(self.conv(x))))
            return self.fc(self.relu(x).flatten(1))
    ```

    Known limits: batch norms with one value per channel are BN102's. An input size that bnlint had to guess can be too
    small for the model; give the real one with `--input`.

    References: Ulyanov et al. 2016, Instance Normalization (arXiv 1607.08022); Wu & He 2018, Group Normalization (arXiv
    1803.08494).
    """

    code = "BN118"
    name = "degenerate-norm"
    severity = Severity.WARNING
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Counts the values behind each statistic of instance, group and layer norms."""
        from bnlint.graph.norms import Norms, values_per_mean

        graph = model.graph
        assert graph is not None
        for norm in Norms(graph):
            if values_per_mean(graph, norm) != 1:
                continue
            shape, error = list(graph.shape(norm.source)), graph.error(norm.node)
            outcome = "training raises ValueError" if error else "the output is its bias, whatever the input"
            yield self.finding(
                model.place(norm.node),
                f"its statistics are over a single value of {shape}: {outcome}",
                severity=Severity.ERROR if error else Severity.WARNING,
                help="drop this norm, put it before the pooling, or use one with statistics over several channels",
                evidence={"values": 1, "shape": shape},
            )
