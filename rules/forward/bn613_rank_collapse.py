"""BN613 rank-collapse."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class RankCollapse(Rule):
    """What a hidden layer makes of many samples and positions lies in a few directions.

    Why it matters: attention averages tokens. Without skip connections or feed-forward layers between, the tokens of a
    sample become equal doubly exponentially with depth, and every further layer sees one vector a sample. Width that
    the representation does not use cannot be trained either.

    Example (bad):

    ```python
    # bnlint check --input 8x32x256
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self, width=256, depth=4):
            super().__init__()
            self.stem = nn.Linear(width, width)
            self.query = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
            self.value = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
            self.head = nn.Linear(width, 10)

        def forward(self, x):
            x = self.stem(x)
            for query, value in zip(self.query, self.value):
                weights = (query(x) @ x.transpose(1, 2) / 16).softmax(-1)
                x = weights @ value(x)
            return self.head(x)
    ```

    Use instead (good):

    ```python
    # bnlint check --input 8x32x256
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self, width=256, depth=4):
            super().__init__()
            self.stem = nn.Linear(width, width)
            self.query = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
            self.value = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
            self.head = nn.Linear(width, 10)

        def forward(self, x):
            x = self.stem(x)
            for query, value in zip(self.query, self.value):
                weights = (query(x) @ x.transpose(1, 2) / 16).softmax(-1)
                x = x + weights @ value(x)
            return self.head(x)
    ```

    The effective rank is (sum of the eigenvalues)^2 / (sum of their squares) of the covariance of up to 256 rows,
    samples and positions, each centred and scaled to length one, so that a class token of another size does not count
    for more than the rest. It is taken at up to twelve layers of the path that all data takes and compared with the
    fewest rows and channels on the way there, so that a narrow layer or a global pool is not taken for a collapse, and
    only where the first layer's rank is at least a fifth of what it could be.

    Known limits: a rank that wears off over tens of layers, as in a ReLU stack without norms, is not reported, only one
    that falls by half or more from one place to the next. A trained classifier of K classes ends in K - 1 directions by
    design; the last layers of one with very few classes may be reported.

    References: Dong, Cordonnier and Loukas 2021, Attention is not all you need: pure attention loses rank doubly
    exponentially with depth (arXiv 2103.03404).
    """

    code = "BN613"
    name = "rank-collapse"
    severity = Severity.WARNING
    phase = Phase.FORWARD
    at_init = True

    min_share: float = 0.05  # of the rank that a layer could have
    max_step: float = 0.5  # of the rank at the place measured before
    healthy_share: float = 0.2  # what the first layer must have

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Compares each layer's rank with that of the first."""
        from bnlint.signal.describe import label
        from bnlint.signal.streams import ranks

        graph, probe = model.graph, model.probe
        assert graph is not None and probe is not None
        rows = ranks(graph, probe.stats)
        if not rows or rows[0].share < self.healthy_share:
            return
        falls = [after for before, after in pairwise(rows) if after.rank < self.max_step * before.rank]
        low = next((row for row in falls if row.share < self.min_share), None)
        if low is not None and low.possible * self.min_share >= 1:
            yield self.finding(
                model.place(low.node),
                f"the output has an effective rank of {low.rank:.1f} of {low.possible} possible; that after "
                f"`{label(model, rows[0].node)}` is {rows[0].rank:.1f}",
                help="add skip connections around the layers that average (attention, pooling over all positions), or "
                "layers with an activation between them",
                evidence={"rank": low.rank, "possible": low.possible, "first_rank": rows[0].rank},
            )
