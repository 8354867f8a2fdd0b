"""BN609 train-eval-gap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Pass, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel


class TrainEvalGap(Rule):
    """Train mode and eval mode give different outputs for one batch, although the running statistics fit it.

    Why it matters: what is validated is then not what was trained. Batch norm is the usual suspect, but with running
    statistics of this very batch it should agree; what is left is a norm that several inputs share, a batch so small
    that its statistics are no estimate, or a `forward` that does something else when `self.training` is set.

    Example (bad):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(32, 64)
            self.relu = nn.ReLU()
            self.head = nn.Linear(64, 4)

        def forward(self, x):
            x = self.relu(self.hidden(x))
            if self.training:
                x = x * 4
            return self.head(x)
    ```

    Use instead (good):

    ```python
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(32, 64)
            self.relu = nn.ReLU()
            self.head = nn.Linear(64, 4)

        def forward(self, x):
            return self.head(self.relu(self.hidden(x)))
    ```

    Dropout and stochastic depth are off in both; where the code itself draws random numbers nothing is said. Heads
    that give other things in training (auxiliary outputs, losses) are not compared. The variance that is kept is the
    unbiased one, N/(N-1) times that of the batch, so a norm over few values differs a little by design.

    References: Wu and Johnson 2021, Rethinking "Batch" in BatchNorm (arXiv 2105.07576).
    """

    code = "BN609"
    name = "train-eval-gap"
    severity = Severity.INFO
    phase = Phase.FORWARD
    passes = frozenset((Pass.WARMED_EVAL,))

    max_gap: float = 0.5  # root mean square of the difference, over the standard deviation of the output

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Compares the outputs, and names the first op whose scale differs."""
        from bnlint.graph.draws import draws
        from bnlint.graph.ops import Kind
        from bnlint.signal.describe import label

        graph, probe = model.graph, model.probe
        assert graph is not None and probe is not None
        gap = probe.gap
        if gap is None or not self.max_gap < gap.difference < float("inf"):
            return
        if any(draws(n) or graph.kind(n) is Kind.DROPOUT for n in graph.nodes if n.op != "call_module"):
            return
        where = f", first at `{label(model, gap.first)}`" if gap.first is not None else ""
        yield self.finding(
            model.place(gap.first if gap.first is not None else graph.outputs[0]),
            f"the outputs of train and eval mode differ by {gap.difference:.0%} of how much they vary{where}",
            help="use a norm for each input it serves, a larger batch or another norm, and the same path in both modes",
            evidence={"difference": float(f"{gap.difference:.3g}")},
        )
