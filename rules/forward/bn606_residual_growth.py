"""BN606 residual-growth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel
    from bnlint.signal.trunk import Point


class ResidualGrowth(Rule):
    """The variance of a residual stream grows by half or more with every block.

    Why it matters: a branch that starts from the stream itself, and not from a norm of it, adds a share of the stream's
    own variance, so the growth is exponential: a branch of the stream's scale doubles the variance each block, 2.9e9
    after 32 blocks. A branch that begins with a norm adds a fixed amount: 33 after 32 blocks.

    Example (bad):

    ```python
    import torch.nn as nn

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
            self.relu = nn.ReLU()
            for layer in (self.inner, self.outer):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

        def forward(self, x):
            return x + self.outer(self.relu(self.inner(x)))

    class Net(nn.Module):
        def __init__(self, width=64, depth=6):
            super().__init__()
            self.stem = nn.Linear(width, width)
            self.blocks = nn.Sequential(*[Block(width) for _ in range(depth)])
            self.head = nn.Linear(width, 10)

        def forward(self, x):
            return self.head(self.blocks(self.stem(x)))
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.norm = nn.LayerNorm(width)
            self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
            self.relu = nn.ReLU()
            for layer in (self.inner, self.outer):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

        def forward(self, x):
            return x + self.outer(self.relu(self.inner(self.norm(x))))

    class Net(nn.Module):
        def __init__(self, width=64, depth=6):
            super().__init__()
            self.stem = nn.Linear(width, width)
            self.blocks = nn.Sequential(*[Block(width) for _ in range(depth)])
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, 10)

        def forward(self, x):
            return self.head(self.norm(self.blocks(self.stem(x))))
    ```

    Each of at least four blocks in a row must grow by the factor; the first blocks of a stream with normalised branches
    do so too, but not four of them. Where the whole stream grows more than 20 times, BN602 reports it instead.

    References: De and Smith 2020, Batch Normalization Biases Residual Blocks Towards the Identity Function (arXiv
    2002.10444); Zhang, Dauphin and Ma 2019, Fixup (arXiv 1901.09321).
    """

    code = "BN606"
    name = "residual-growth"
    severity = Severity.WARNING
    phase = Phase.FORWARD
    yields_to = ("BN311",)
    at_init = True

    min_blocks: int = 4
    factor: float = 1.5  # of the variance, per block

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Looks for the longest row of blocks that each add more than half of the stream's variance."""
        from bnlint.signal.describe import label, number
        from bnlint.signal.streams import residual_streams
        from bnlint.signal.trunk import EXPLODED, spread_runs

        graph, probe = model.graph, model.probe
        assert graph is not None and probe is not None
        exploding = [run for run in spread_runs(graph, probe.stats) if run.points[-1].ratio > EXPLODED]
        reported = {point.node for run in exploding for point in run.points}
        for stream in residual_streams(graph, probe.stats):
            growing = _longest(stream, self.factor)
            blocks = len(growing) - 1
            if blocks < self.min_blocks or growing[-1].node in reported:
                continue
            first, last = growing[0], growing[-1]
            growth = (last.value / first.value) ** 2
            yield self.finding(
                model.place(last.node),
                f"the variance of the residual stream grows {number(growth ** (1 / blocks))} times with each of "
                f"{blocks} blocks, {number(growth)} times in all",
                help="put a norm first in each branch, or let each branch start at zero (zero its last layer)",
                note=f"from `{label(model, first.node)}` to `{label(model, last.node)}`",
                evidence={"growth_per_block": growth ** (1 / blocks), "ratio": growth, "blocks": blocks},
            )
            return


def _longest(stream: list[Point], factor: float) -> list[Point]:
    """The longest row of points of which each has `factor` times the variance of the one before."""
    best: list[Point] = []
    row: list[Point] = []
    for point in stream:
        row = [*row, point] if row and point.value**2 > factor * row[-1].value ** 2 else [point]
        best = max(best, row, key=len)
    return best
