"""BN608 batch-mixing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnlint.rule import Finding, Pass, Phase, Rule, Severity

if TYPE_CHECKING:
    from bnlint.graph.model import AuditedModel, Graph


_ROUTING = frozenset(("topk", "nonzero", "argwhere", "sort", "argsort", "one_hot", "bincount", "histc", "unique"))


class BatchMixing(Rule):
    """A sample's output changes in eval mode when the other samples of the batch change.

    Why it matters: each prediction then depends on what it happens to be batched with. Validation scores leak between
    samples and change with the batch size, and a request served alone gets another answer than in training. Nothing
    crashes: the shapes are right, so the loss goes down on the mixture.

    Example (bad):

    ```python
    # bnlint check --input 8x32
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(32, 64)
            self.relu = nn.ReLU()
            self.head = nn.Linear(64, 4)

        def forward(self, x):
            x = x - x.mean(0, keepdim=True)
            return self.head(self.relu(self.hidden(x)))
    ```

    Use instead (good):

    ```python
    # bnlint check --input 8x32
    import torch.nn as nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(32, 64)
            self.relu = nn.ReLU()
            self.head = nn.Linear(64, 4)

        def forward(self, x):
            x = x - x.mean(1, keepdim=True)
            return self.head(self.relu(self.hidden(x)))
    ```

    Two samples a and b are run together, then a with a copy of itself, and b. The outputs of each must stay what they
    were, to a relative 1e-5; both directions are needed to find recurrences along the batch. Only outputs
    with one axis of samples are compared, so a matrix of all pairs, as contrastive losses want it, is not; neither is
    a model whose input has edges or an adjacency matrix beside the rows, nor one that gives something else on each run
    (BN509). Batch norms without running statistics are BN121's. A sequence model whose time comes first (T, N, F) and
    that keeps both axes is left out, as its first axis is not the batch. Info where the model chooses and sorts by
    its data (experts of limited capacity, matching, retrieval), and nothing where its code branches on them.

    References: Karpathy 2019, A Recipe for Training Neural Networks ("use backprop to chart dependencies").
    """

    code = "BN608"
    name = "batch-mixing"
    severity = Severity.ERROR
    phase = Phase.FORWARD
    yields_to = ("BN203", "BN205", "BN206", "BN209", "BN403")
    passes = frozenset((Pass.EVAL_TWICE, Pass.OTHER_SAMPLES))

    tolerance: float = 1e-5  # of the output of one sample, relative

    def check(self, model: AuditedModel) -> Iterator[Finding]:
        """Names the first op where another sample gets in."""
        from torch import nn

        from bnlint.graph.ops import op_name
        from bnlint.signal.describe import label

        graph, probe = model.graph, model.probe
        assert graph is not None and probe is not None
        mixing, repeat = probe.mixing, probe.repeat
        if mixing is None or mixing.first is None or mixing.difference <= self.tolerance:
            return
        if (repeat is not None and repeat.difference > self.tolerance) or _keeps_time(graph):
            return
        module = graph.module(mixing.first)
        if isinstance(module, nn.modules.batchnorm._NormBase):
            return
        routes = any(op_name(node) in _ROUTING for node in graph.nodes)
        yield self.finding(
            model.place(mixing.first),
            f"a sample's output changes by {mixing.difference:.1%} with the other samples of the batch: they get in at "
            f"`{label(model, mixing.first)}`",
            severity=Severity.INFO if routes else Severity.ERROR,
            help="reduce, normalise, reshape and attend along the axes of one sample only; the batch is axis 0",
            evidence={"difference": float(f"{mixing.difference:.3g}")},
        )


def _keeps_time(graph: Graph) -> bool:
    """True when an output has both leading axes of a sequence that came in: either may be the batch."""
    from bnlint.graph.axes import origins

    inputs = [graph.axes(n)[1] for n in graph.nodes if n.op == "placeholder" and len(graph.axes(n)) == 3]
    return any(
        origins(axis) & origins(second) for second in inputs for out in graph.outputs for axis in graph.axes(out)[1:2]
    )
