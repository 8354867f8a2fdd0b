"""BN311 unscaled-residual."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel
    from bnlint.signal.residual import Stack


class UnscaledResidual(Rule):
    """A stack of residual blocks without a norm adds so much in every block that the signal explodes with depth.

    Why it matters: a block x + f(x) whose branch keeps the scale of its input doubles the variance. After 32 such
    blocks it is 2³² times as large, 3·10⁹ measured, and the gradient grows by the same factor on its way back. A norm
    in the branch makes the growth linear, and a branch that starts at zero makes every block the identity at first.

    Example (bad):

    ```python
    import torch.nn as nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
            nn.init.kaiming_normal_(self.body[0].weight, nonlinearity="relu")
            nn.init.kaiming_normal_(self.body[2].weight, nonlinearity="relu")

        def forward(self, x):
            return x + self.body(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(16, 64)
            self.blocks = nn.Sequential(*[Block() for _ in range(5)])
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            return self.head(self.blocks(self.stem(x)))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
            nn.init.kaiming_normal_(self.body[0].weight, nonlinearity="relu")
            nn.init.normal_(self.body[2].weight, std=0.02)

        def forward(self, x):
            return x + self.body(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(16, 64)
            self.blocks = nn.Sequential(*[Block() for _ in range(5)])
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            return self.head(self.blocks(self.stem(x)))
    ```

    Known limits: a block counts when its skip is the identity and neither its branch nor the way to the next block has
    a norm; where an op lies on the way that the prediction has no rule for, nothing is said.

    References: De & Smith 2020, Batch Normalization Biases Residual Blocks Towards the Identity Function (arXiv
    2002.10444); Zhang, Dauphin & Ma 2019, Fixup (arXiv 1901.09321); Brock, De & Smith 2021 (arXiv 2101.08692).
    """

    code = "BN311"
    name = "unscaled-residual"
    severity = Severity.WARNING
    phase = Phase.GRAPH
    values = True

    min_growth: float = 1.5  # of the variance, on average for each block
    min_blocks: int = 4

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Follows each stack of bare residual blocks and the variance predicted behind every block."""
        from bnlint.signal.residual import residual_stacks

        graph = model.graph
        assert graph is not None
        if model.prediction is None or not graph.runs:
            return
        for stack in residual_stacks(graph, model.prediction.certain_stats):
            blocks = len(stack.moments) - 1
            growth = (stack.moments[-1] / stack.moments[0]) ** (1 / blocks) if blocks else 0.0
            if blocks >= self.min_blocks and growth >= self.min_growth and not model.survey.trained:
                yield self._finding(model, stack, growth)

    def _finding(self, model: AuditedModel, stack: Stack, growth: float) -> Finding:
        from bnlint.signal.describe import number

        total, blocks = stack.moments[-1] / stack.moments[0], len(stack.adds)
        return self.finding(
            model.place(stack.adds[0]),
            f"{blocks} residual blocks in a row without a norm multiply the variance by {number(growth)} each, by "
            f"{number(total)} in all (limit {self.min_growth:g} each)",
            help="put a norm first in each branch, or start the last layer of each branch at zero: "
            f"`nn.init.zeros_(layer.weight)`; or scale each branch by {blocks**-0.5:.2g}, one over the root of "
            "their number",
            note="variance behind each block: " + ", ".join(number(value) for value in stack.moments[1:]),
            evidence={"blocks": blocks, "growth": growth, "ratio": total},
            others=[model.place(add) for add in stack.adds[1:]],
        )
