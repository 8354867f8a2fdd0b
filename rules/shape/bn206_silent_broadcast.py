"""BN206 silent-broadcast."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class SilentBroadcast(Rule):
    """An (N, 1) and an (N,) are combined elementwise, which pairs every sample with every other one.

    Why it matters: broadcasting aligns the last axes, so (N, 1) with (N,) gives (N, N), and a map (N, 1, H, W) with a
    mask (N, H, W) gives (N, N, H, W). Nothing raises; the value of a sample is combined with those of the N - 1 others,
    and a mean over the result, such as a loss, pulls all predictions to the batch average.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(12, 24)
            self.relu = nn.ReLU()
            self.value = nn.Linear(24, 1)
            self.scale = nn.Linear(24, 1)

        def forward(self, x):
            x = self.relu(self.body(x))
            return self.value(x) * self.scale(x)[:, 0]
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(12, 24)
            self.relu = nn.ReLU()
            self.value = nn.Linear(24, 1)
            self.scale = nn.Linear(24, 1)

        def forward(self, x):
            x = self.relu(self.body(x))
            return self.value(x).squeeze(1) * self.scale(x)[:, 0]
    ```

    Known limits: an axis that the code inserts itself (`[:, None]`, `unsqueeze`, `keepdim=True`, a transpose) says that
    all pairs are meant, and so does a softmax or a matrix product that reads them; neither is reported.

    References: documentation of `torch.nn.functional.mse_loss`, which warns of this; numpy's broadcasting rules.
    """

    code = "BN206"
    name = "silent-broadcast"
    severity = Severity.WARNING
    phase = Phase.GRAPH

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Finds elementwise ops that meet the same batch at two different axes."""
        from bnlint.graph.ops import op_name
        from bnlint.graph.outer import accidental_outer

        graph = model.graph
        assert graph is not None
        for found in accidental_outer(graph):
            shapes = [list(graph.shape(n)) for n in (found.column, found.row)]
            size = shapes[1][0]
            yield self.finding(
                model.place(found.node),
                f"`{op_name(found.node)}` of {shapes[0]} and {shapes[1]} pairs every sample with every other one: "
                f"{[size, *shapes[1]]}",
                help=f"give both the same shape: `.squeeze(1)` on {shapes[0]}, or `.unsqueeze(1)` on {shapes[1]}",
                evidence={"shapes": shapes},
            )
